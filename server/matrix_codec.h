// Vectors on the wire: loci.v1.Matrix to float32 and back.
//
//   LOCI_ASSIGN_OR_RETURN(DecodedMatrix query, DecodeMatrix(request.vector(), "vector", NonFinite::kRefuse));
#ifndef LOCI_SERVER_MATRIX_CODEC_H_
#define LOCI_SERVER_MATRIX_CODEC_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/vector_type.h"
#include "proto/loci/v1/common.pb.h"

namespace loci {

inline constexpr int64_t kMaxMatrixCols = 65'536;

// Row-major, [rows, cols].
struct DecodedMatrix {
  std::vector<float> values;
  int64_t rows = 0;
  int64_t cols = 0;
};

enum class NonFinite {
  kRefuse,  // NaN and infinity, also a FLOAT64 that float32 can't hold, are INVALID_ARGUMENT naming row and column.
  kKeep,    // They come through, for a caller that judges row by row.
};

// Unset means FLOAT32. INVALID_ARGUMENT, naming `field` ("vector_type") and the value, for a type this server does not know.
absl::StatusOr<ElementType> ElementTypeOf(loci::v1::VectorType type, std::string_view field);
loci::v1::VectorType VectorTypeOf(ElementType type);

// Looks at the shape alone: the errors of DecodeMatrix but for numbers.
absl::Status CheckMatrixShape(const loci::v1::Matrix& matrix, std::string_view field);
// INVALID_ARGUMENT, naming `field`, value and limit, for an unknown type, negative rows, cols outside [1, 65536] (0 is good where rows is 0), data of another length than
// rows x cols elements, or scales that do not fit: one finite number a row for INT8, none for another type.
absl::StatusOr<DecodedMatrix> DecodeMatrix(const loci::v1::Matrix& matrix, std::string_view field, NonFinite non_finite);

// `values` [rows, cols]. INT8 rows are scaled by their largest magnitude over 127 and rounded to nearest; FLOAT16 and BFLOAT16 round to
// nearest even; FLOAT64 is exact.
void EncodeMatrix(const float* values, int64_t rows, int64_t cols, ElementType type, loci::v1::Matrix* matrix);

}  // namespace loci

#endif  // LOCI_SERVER_MATRIX_CODEC_H_
