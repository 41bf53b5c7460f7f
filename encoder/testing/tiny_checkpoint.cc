#include "encoder/testing/tiny_checkpoint.h"

#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/split_mix.h"
#include "base/status_macros.h"
#include "base/vector_type.h"
#include "nlohmann/json.hpp"

namespace loci {
namespace {

constexpr const char* kWords[] = {
    "the",    "a",     "of",    "and",  "to",    "in",    "is",   "it",    "for",     "on",      "with",    "as",
    "by",     "at",    "that",  "this", "from",  "or",    "an",   "be",    "are",     "was",     "which",   "what",
    "who",    "where", "when",  "how",  "why",   "not",   "text", "file",  "server",  "tool",    "package", "library",
    "python", "data",  "web",   "mail", "music", "image", "pdf",  "index", "query",   "cat",     "dog",     "bird",
    "fish",   "tree",  "river", "city", "house", "river", "moon", "sun",   "red",     "green",   "blue",    "one",
    "two",    "three", "four",  "five", "north", "south", "east", "west",  "passage", "question"};

std::vector<std::string> Vocabulary() {
  std::vector<std::string> pieces = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  std::map<std::string, bool> seen;
  for (char c = '!'; c <= '~'; ++c) {
    if (c >= 'A' && c <= 'Z') continue;
    pieces.push_back(std::string(1, c));
    seen[pieces.back()] = true;
    const bool letter = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (letter) pieces.push_back(absl::StrCat("##", std::string(1, c)));
  }
  for (const char* word : kWords) {
    if (!std::exchange(seen[word], true)) pieces.push_back(word);
  }
  return pieces;
}

// The sum of twelve uniforms: the same normal deviates everywhere, without libm.
class Random {
 public:
  explicit Random(uint64_t seed) : bits_(seed * SplitMix64::kIncrement + 0x1234567) {}

  float Normal(float scale) {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += static_cast<double>(bits_.Next() >> 40) / (1 << 24);
    return static_cast<float>(sum) * scale;
  }

 private:
  SplitMix64 bits_;
};

std::string Encode(const std::vector<float>& values, const std::string& dtype) {
  if (dtype == "F32") return std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4);
  std::vector<uint16_t> half(values.size());
  (dtype == "F16" ? Float32ToFloat16 : Float32ToBfloat16)(values.data(), half.data(), values.size());
  return std::string(reinterpret_cast<const char*>(half.data()), half.size() * 2);
}

std::string Weights(const TinyCheckpointOptions& options, int64_t vocabulary_size) {
  Random random(options.seed);
  std::map<std::string, TestTensor> tensors;
  const int64_t hidden = options.hidden_size, intermediate = options.intermediate_size;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, float mean, float scale) {
    int64_t size = 1;
    for (int64_t extent : shape) size *= extent;
    std::vector<float> values(size);
    for (float& value : values) value = mean + random.Normal(scale);
    tensors[options.tensor_prefix + name] = {options.dtype, std::move(shape), Encode(values, options.dtype)};
  };
  const auto dense = [&](const std::string& name, int64_t outputs, int64_t inputs) {
    add(name + ".weight", {outputs, inputs}, 0, 0.7f / std::sqrt(static_cast<float>(inputs)));
    add(name + ".bias", {outputs}, 0, 0.1f);
  };
  const auto norm = [&](const std::string& name) {
    add(name + ".weight", {hidden}, 1, 0.1f);
    add(name + ".bias", {hidden}, 0, 0.1f);
  };
  add("embeddings.word_embeddings.weight", {vocabulary_size, hidden}, 0, 1.0f);
  add("embeddings.position_embeddings.weight", {options.max_positions, hidden}, 0, 0.1f);
  add("embeddings.token_type_embeddings.weight", {2, hidden}, 0, 0.1f);
  norm("embeddings.LayerNorm");
  for (int i = 0; i < options.layer_count; ++i) {
    const std::string at = absl::StrCat("encoder.layer.", i, ".");
    dense(at + "attention.self.query", hidden, hidden);
    dense(at + "attention.self.key", hidden, hidden);
    dense(at + "attention.self.value", hidden, hidden);
    dense(at + "attention.output.dense", hidden, hidden);
    norm(at + "attention.output.LayerNorm");
    dense(at + "intermediate.dense", intermediate, hidden);
    dense(at + "output.dense", hidden, intermediate);
    norm(at + "output.LayerNorm");
  }
  return BuildSafetensors(tensors);
}

}  // namespace

std::string SafetensorsBytes(std::string_view header, std::string_view data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(static_cast<uint64_t>(header.size()) >> (8 * i)));
  bytes.append(header);
  bytes.append(data);
  return bytes;
}

std::string BuildSafetensors(const std::map<std::string, TestTensor>& tensors) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {data.size(), data.size() + tensor.data.size()}}};
    data += tensor.data;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return SafetensorsBytes(text, data);
}

absl::Status WriteTinyCheckpoint(FileSystem& fs, const std::string& directory, const TinyCheckpointOptions& options) {
  using Json = nlohmann::json;
  const std::vector<std::string> vocabulary = Vocabulary();
  const auto write = [&](const std::string& name, const std::string& content) {
    return WriteFileAtomically(fs, JoinPath(directory, name), content);
  };
  LOCI_RETURN_IF_ERROR(fs.CreateDirectories(JoinPath(directory, "1_Pooling")));
  LOCI_RETURN_IF_ERROR(write("vocab.txt", absl::StrCat(absl::StrJoin(vocabulary, "\n"), "\n")));
  LOCI_RETURN_IF_ERROR(write("model.safetensors", Weights(options, static_cast<int64_t>(vocabulary.size()))));
  LOCI_RETURN_IF_ERROR(
      write("tokenizer_config.json", Json{{"do_lower_case", true}, {"tokenizer_class", "BertTokenizer"}}.dump()));
  LOCI_RETURN_IF_ERROR(write("config.json", Json{{"architectures", {"BertModel"}},
                                                 {"model_type", "bert"},
                                                 {"hidden_act", "gelu"},
                                                 {"hidden_size", options.hidden_size},
                                                 {"num_hidden_layers", options.layer_count},
                                                 {"num_attention_heads", options.head_count},
                                                 {"intermediate_size", options.intermediate_size},
                                                 {"max_position_embeddings", options.max_positions},
                                                 {"type_vocab_size", 2},
                                                 {"layer_norm_eps", 1e-12},
                                                 {"position_embedding_type", "absolute"},
                                                 {"vocab_size", vocabulary.size()}}
                                                .dump()));
  Json modules = Json::array();
  const auto module = [&modules](const std::string& path, const std::string& type) {
    modules.push_back({{"idx", modules.size()},
                       {"name", std::to_string(modules.size())},
                       {"path", path},
                       {"type", "sentence_transformers.models." + type}});
  };
  module("", "Transformer");
  module("1_Pooling", "Pooling");
  if (options.normalize) module("2_Normalize", "Normalize");
  LOCI_RETURN_IF_ERROR(write("modules.json", modules.dump()));
  LOCI_RETURN_IF_ERROR(write("1_Pooling/config.json", Json{{"word_embedding_dimension", options.hidden_size},
                                                           {"pooling_mode_cls_token", options.pooling == "cls"},
                                                           {"pooling_mode_mean_tokens", options.pooling == "mean"},
                                                           {"pooling_mode_max_tokens", options.pooling == "max"}}
                                                          .dump()));
  Json prompts = Json::object();
  if (!options.query_prefix.empty()) prompts["query"] = options.query_prefix;
  if (!options.passage_prefix.empty()) prompts["document"] = options.passage_prefix;
  return write("config_sentence_transformers.json", Json{{"prompts", prompts}}.dump());
}

}  // namespace loci
