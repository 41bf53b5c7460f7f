#include "server/double_matrix.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/request_errors.h"

namespace loci {

absl::StatusOr<DoubleMatrix> DecodeDoubles(const loci::v1::Matrix& matrix, std::string_view field, NonFinite non_finite) {
  if (matrix.type() != loci::v1::VECTOR_TYPE_FLOAT64) {
    LOCI_ASSIGN_OR_RETURN(const DecodedMatrix floats, DecodeMatrix(matrix, field, non_finite));
    return DoubleMatrix{.values = {floats.values.begin(), floats.values.end()}, .rows = floats.rows, .cols = floats.cols};
  }
  LOCI_RETURN_IF_ERROR(CheckMatrixShape(matrix, field));
  DoubleMatrix result{.values = {}, .rows = matrix.rows(), .cols = matrix.cols()};
  result.values.resize(matrix.data().size() / sizeof(double));
  if (!result.values.empty()) std::memcpy(result.values.data(), matrix.data().data(), result.values.size() * sizeof(double));
  if (non_finite == NonFinite::kKeep) return result;
  for (size_t i = 0; i < result.values.size(); ++i) {
    if (std::isfinite(result.values[i])) continue;
    const size_t cols = static_cast<size_t>(result.cols);
    return InvalidField(field, absl::StrCat("has ", result.values[i], " in row ", i / cols, ", column ", i % cols, "; numbers must be finite"));
  }
  return result;
}

absl::Status EncodeDoubles(const double* values, int64_t rows, int64_t cols, ElementType type, loci::v1::Matrix* matrix) {
  const size_t count = static_cast<size_t>(rows) * static_cast<size_t>(cols);
  if (type == ElementType::kFloat32) {
    std::vector<float> floats(count);
    for (size_t i = 0; i < count; ++i) {
      // Not even rounded: the conversion of what is out of range is not defined.
      if (std::isfinite(values[i]) && std::abs(values[i]) > static_cast<double>(std::numeric_limits<float>::max())) {
        return InvalidField("vector_type", absl::StrCat("is FLOAT32, which can't hold a result of ", values[i], "; ask for FLOAT64"));
      }
      floats[i] = static_cast<float>(values[i]);
    }
    EncodeMatrix(floats.data(), rows, cols, type, matrix);
    return absl::OkStatus();
  }
  matrix->Clear();
  matrix->set_rows(rows);
  matrix->set_cols(cols);
  matrix->set_type(loci::v1::VECTOR_TYPE_FLOAT64);
  if (count > 0) matrix->set_data(values, count * sizeof(double));
  return absl::OkStatus();
}

}  // namespace loci
