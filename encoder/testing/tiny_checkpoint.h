// A small random BERT checkpoint in a folder, for tests that need a real encoder but no download: loads in a millisecond or two.
//
//   ASSERT_TRUE(WriteTinyCheckpoint(PosixFileSystem(), directory, {}).ok());
//   auto encoder = LoadEncoder(PosixFileSystem(), directory, {});
//
// Its vocabulary has the printable ASCII characters and some English words, so that every ASCII text has its own ids; texts that share
// words get vectors that are nearer to each other than to others'. The same options give the same bytes on every machine.
#ifndef LOCI_ENCODER_TESTING_TINY_CHECKPOINT_H_
#define LOCI_ENCODER_TESTING_TINY_CHECKPOINT_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "base/file.h"

namespace loci {

struct TinyCheckpointOptions {
  int hidden_size = 32;
  int layer_count = 2;
  int head_count = 2;
  int intermediate_size = 64;
  int max_positions = 64;
  std::string pooling = "mean";  // "mean", "cls" or "max"
  bool normalize = true;
  std::string query_prefix;
  std::string passage_prefix;
  std::string dtype = "F32";  // "F32", "F16" or "BF16"
  std::string tensor_prefix;  // "bert." as in checkpoints with a head
  uint64_t seed = 1;          // Another seed is another vector space.
};

// Writes config.json, vocab.txt, tokenizer_config.json, model.safetensors, modules.json, the pooling configuration and
// config_sentence_transformers.json into `directory`, which is made if absent.
absl::Status WriteTinyCheckpoint(FileSystem& fs, const std::string& directory, const TinyCheckpointOptions& options);

// One tensor for BuildSafetensors: `data` holds its bytes.
struct TestTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string data;
};

// A safetensors file of `tensors`, in the order of their names.
std::string BuildSafetensors(const std::map<std::string, TestTensor>& tensors);

// `header` behind its length, then `data`: for files that are wrong on purpose.
std::string SafetensorsBytes(std::string_view header, std::string_view data);

}  // namespace loci

#endif  // LOCI_ENCODER_TESTING_TINY_CHECKPOINT_H_
