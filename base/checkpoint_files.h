// The files of a checkpoint, as Hugging Face and sentence-transformers write them, that an encoder may be read from; no others are.
// query_model.safetensors is Loci's own: the weights of queries, where they are others (encoder/towers.h).
#ifndef LOCI_BASE_CHECKPOINT_FILES_H_
#define LOCI_BASE_CHECKPOINT_FILES_H_

namespace loci {

inline constexpr const char* kCheckpointFiles[] = {
    "config.json",         "model.safetensors",      "tokenizer.json",
    "vocab.txt",           "tokenizer_config.json",  "special_tokens_map.json",
    "modules.json",        "sentence_bert_config.json", "config_sentence_transformers.json",
    "1_Pooling/config.json", "query_model.safetensors"};

}  // namespace loci

#endif  // LOCI_BASE_CHECKPOINT_FILES_H_
