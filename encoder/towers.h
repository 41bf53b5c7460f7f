// An encoder of one or two towers: queries may be encoded by other weights than passages. All else, tokenizer, pooling, lengths, is the same.
//
// A folder of two has the passages' weights in model.safetensors, as every checkpoint, and the queries' in query_model.safetensors.
#ifndef LOCI_ENCODER_TOWERS_H_
#define LOCI_ENCODER_TOWERS_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/file.h"
#include "encoder/encoder.h"

namespace loci {

inline constexpr char kWeightsFile[] = "model.safetensors";
inline constexpr char kQueryWeightsFile[] = "query_model.safetensors";

struct EncoderTowers {
  std::shared_ptr<const Encoder> passage;
  // Null: `passage` encodes queries too. Of the same dimension; the query half of its fingerprint is that which serves `passage`'s passage half.
  std::shared_ptr<const Encoder> query;
  std::string model_name;  // Empty: `passage`'s.
  std::string element_type_reason;  // The same.

  EncoderSpec spec() const;  // Of both: `passage`'s, with the query half of `query` and the memory of both.
};

// Both towers of a folder, or the one that it has. With `passage`, which was loaded from the same files but for query_model.safetensors, that is not
// read again. Errors as LoadEncoder.
absl::StatusOr<EncoderTowers> LoadEncoderTowers(FileSystem& fs, const std::string& model_directory, const EncoderOptions& options,
                                                std::shared_ptr<const Encoder> passage = nullptr);

// As LoadEncoder with the weights in that file of the folder. `served_passage_half`, where it is not empty: the tower is for queries that ask vectors
// of that half, which stands in its fingerprint.
absl::StatusOr<std::shared_ptr<const Encoder>> LoadTower(FileSystem& fs, const std::string& model_directory, const std::string& weights_file,
                                                         std::string_view served_passage_half, const EncoderOptions& options);

}  // namespace loci

#endif  // LOCI_ENCODER_TOWERS_H_
