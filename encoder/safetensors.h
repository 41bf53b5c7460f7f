// Reads the safetensors format, trusting nothing in it.
//
//   file   := header_size (8 bytes, little-endian) header data
//   header := JSON object, '{' first, spaces allowed at its end:
//             {"__metadata__": {string: string, ...},                      (optional)
//              name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
//
// Offsets count from the start of the data. Tensors fill the data without gap or overlap.
#ifndef LOCI_ENCODER_SAFETENSORS_H_
#define LOCI_ENCODER_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"

namespace loci {

// One tensor of a file. `begin` and `end` are offsets into the data in bytes; end - begin is the shape's product times the
// element's size.
struct TensorInfo {
  std::string dtype;  // "F32", "F16", "BF16", "I64", ...
  std::vector<int64_t> shape;
  int64_t begin = 0;
  int64_t end = 0;
};

// Immutable after construction.
class Safetensors {
 public:
  static constexpr int64_t kMaxHeaderBytes = 100'000'000;
  static constexpr int kMaxRank = 8;

  // Maps `path`. NOT_FOUND without the file; INVALID_ARGUMENT, naming file and tensor, for anything that breaks the grammar above:
  // a header longer than the file or kMaxHeaderBytes, not JSON, nested deeper than the grammar, with a duplicate or unknown key;
  // an unknown dtype; more than kMaxRank dimensions; a shape whose size overflows or differs from its offsets; offsets outside the
  // file, in overlap or with a gap.
  static absl::StatusOr<std::unique_ptr<Safetensors>> Open(FileSystem& fs, const std::string& path);

  // The same over bytes that outlive the object. `name` stands in messages.
  static absl::StatusOr<std::unique_ptr<Safetensors>> Parse(std::string_view file, const std::string& name);

  const std::string& name() const { return name_; }
  absl::Status Check() const { return mapped_ == nullptr ? absl::OkStatus() : mapped_->Check(); }  // Of the mapping, once all was read.
  std::string_view content() const { return content_; }  // The whole file.
  const std::map<std::string, TensorInfo, std::less<>>& tensors() const { return tensors_; }
  bool Has(std::string_view tensor) const { return tensors_.find(tensor) != tensors_.end(); }

  // Copies a tensor of type F32, F16 or BF16 as float32 to `out`, which has room for the product of `shape`. INVALID_ARGUMENT,
  // naming file and tensor, where it is missing or has another shape or type.
  absl::Status ReadFloats(std::string_view tensor, const std::vector<int64_t>& shape, float* out) const;

 private:
  Safetensors() = default;

  std::unique_ptr<MappedFile> mapped_;  // Null where Parse was given the bytes.
  std::string name_;
  std::string_view content_;
  std::string_view data_;
  std::map<std::string, TensorInfo, std::less<>> tensors_;
};

}  // namespace loci

#endif  // LOCI_ENCODER_SAFETENSORS_H_
