// The first 64 bytes of a file of vectors (vector_file.h, quantized_vectors.h), little-endian:
//   magic[8] u32(format_version = 1) u32(type) i64(rows) i64(dim) u8[32](zero)
#ifndef LOCI_INDEX_MATRIX_HEADER_H_
#define LOCI_INDEX_MATRIX_HEADER_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace loci {

inline constexpr int64_t kMatrixHeaderBytes = 64;

struct MatrixHeader {
  uint32_t type = 0;  // What the file's own format makes of it.
  int64_t rows = 0;
  int dim = 0;
};

// `magic` has 8 bytes.
std::string EncodeMatrixHeader(std::string_view magic, const MatrixHeader& header);

// The header of `data`, the bytes of the file `path`, which is `kind` ("a vector file"). `rows` is as it stands there: whether it fits the size and
// whether the type is known is the caller's to check.
// DATA_LOSS with the offset of what is damaged; FAILED_PRECONDITION for a newer format version.
absl::StatusOr<MatrixHeader> ParseMatrixHeader(const std::string& path, std::string_view data, std::string_view magic,
                                               std::string_view kind);

// DATA_LOSS: "PATH: offset N: WHAT".
absl::Status DamagedAt(const std::string& path, int64_t offset, const std::string& what);

}  // namespace loci

#endif  // LOCI_INDEX_MATRIX_HEADER_H_
