// Matrices of a training job: loci.v1.Matrix to float64 and back.
//
//   LOCI_ASSIGN_OR_RETURN(DoubleMatrix l, DecodeDoubles(request.log_likelihoods(), "log_likelihoods", NonFinite::kKeep));
#ifndef LOCI_SERVER_DOUBLE_MATRIX_H_
#define LOCI_SERVER_DOUBLE_MATRIX_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/vector_type.h"
#include "proto/loci/v1/common.pb.h"
#include "server/matrix_codec.h"

namespace loci {

// Row-major, [rows, cols].
struct DoubleMatrix {
  std::vector<double> values;
  int64_t rows = 0;
  int64_t cols = 0;
};

// FLOAT64 as it is, bit for bit; other types as DecodeMatrix, widened. Errors as DecodeMatrix, but that a FLOAT64 need not fit into float32.
absl::StatusOr<DoubleMatrix> DecodeDoubles(const loci::v1::Matrix& matrix, std::string_view field, NonFinite non_finite);

// `values` [rows, cols], as FLOAT64 or rounded to FLOAT32, as `type` says (no other one). INVALID_ARGUMENT, field vector_type, where a finite one is too
// large for FLOAT32.
absl::Status EncodeDoubles(const double* values, int64_t rows, int64_t cols, ElementType type, loci::v1::Matrix* matrix);

}  // namespace loci

#endif  // LOCI_SERVER_DOUBLE_MATRIX_H_
