#include "server/matrix_codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "server/request_errors.h"

namespace loci {
namespace {

using loci::v1::Matrix;
using loci::v1::VectorType;

std::string Part(std::string_view field, std::string_view part) { return absl::StrCat(AbslView(field), ".", AbslView(part)); }

// Whether `size_bytes` is rows * cols * element_size, without overflow for any non-negative shape.
bool SizeFits(int64_t rows, int64_t cols, size_t element_size, size_t size_bytes) {
  if (rows == 0 || cols == 0) return size_bytes == 0;
  const size_t row_bytes = static_cast<size_t>(cols) * element_size;
  return size_bytes % row_bytes == 0 && size_bytes / row_bytes == static_cast<size_t>(rows);
}

}  // namespace

absl::StatusOr<ElementType> ElementTypeOf(VectorType type, std::string_view field) {
  switch (type) {
    case loci::v1::VECTOR_TYPE_UNSPECIFIED:
    case loci::v1::VECTOR_TYPE_FLOAT32:
      return ElementType::kFloat32;
    case loci::v1::VECTOR_TYPE_FLOAT16:
      return ElementType::kFloat16;
    case loci::v1::VECTOR_TYPE_BFLOAT16:
      return ElementType::kBfloat16;
    case loci::v1::VECTOR_TYPE_INT8:
      return ElementType::kInt8;
    case loci::v1::VECTOR_TYPE_FLOAT64:
      return ElementType::kFloat64;
    default:
      return InvalidField(field, absl::StrCat("is ", static_cast<int>(type), "; it must be a VectorType, from 0 to 5"));
  }
}

VectorType VectorTypeOf(ElementType type) {
  switch (type) {
    case ElementType::kFloat32:
      return loci::v1::VECTOR_TYPE_FLOAT32;
    case ElementType::kFloat16:
      return loci::v1::VECTOR_TYPE_FLOAT16;
    case ElementType::kBfloat16:
      return loci::v1::VECTOR_TYPE_BFLOAT16;
    case ElementType::kInt8:
      return loci::v1::VECTOR_TYPE_INT8;
    case ElementType::kFloat64:
      return loci::v1::VECTOR_TYPE_FLOAT64;
  }
  return loci::v1::VECTOR_TYPE_UNSPECIFIED;
}

absl::Status CheckMatrixShape(const Matrix& matrix, std::string_view field) {
  LOCI_ASSIGN_OR_RETURN(const ElementType type, ElementTypeOf(matrix.type(), Part(field, "type")));
  if (matrix.rows() < 0) return InvalidField(Part(field, "rows"), absl::StrCat("is ", matrix.rows(), "; it must be at least 0"));
  const int64_t least_cols = matrix.rows() == 0 ? 0 : 1;
  if (matrix.cols() < least_cols || matrix.cols() > kMaxMatrixCols) {
    return InvalidField(Part(field, "cols"),
                        absl::StrCat("is ", matrix.cols(), "; it must be from ", least_cols, " to ", kMaxMatrixCols));
  }
  if (!SizeFits(matrix.rows(), matrix.cols(), ElementSize(type), matrix.data().size())) {
    return InvalidField(Part(field, "data"), absl::StrCat("has ", matrix.data().size(), " bytes; ", matrix.rows(), " x ", matrix.cols(),
                                                          " elements of ", AbslView(ElementTypeName(type)), " need ",
                                                          ElementSize(type), " bytes each"));
  }
  const int64_t scale_count = type == ElementType::kInt8 ? matrix.rows() : 0;
  if (matrix.scales_size() != scale_count) {
    return InvalidField(Part(field, "scales"),
                        absl::StrCat("has ", matrix.scales_size(), " entries; it must have ", scale_count,
                                     type == ElementType::kInt8 ? ", one a row" : ": scales go with INT8 only"));
  }
  return absl::OkStatus();
}

absl::StatusOr<DecodedMatrix> DecodeMatrix(const Matrix& matrix, std::string_view field, NonFinite non_finite) {
  LOCI_ASSIGN_OR_RETURN(const ElementType type, ElementTypeOf(matrix.type(), Part(field, "type")));
  LOCI_RETURN_IF_ERROR(CheckMatrixShape(matrix, field));
  DecodedMatrix result;
  result.rows = matrix.rows();
  result.cols = matrix.cols();
  const size_t count = static_cast<size_t>(matrix.rows()) * static_cast<size_t>(matrix.cols());
  result.values.resize(count);
  const char* data = matrix.data().data();
  switch (type) {
    case ElementType::kFloat32:
      if (count > 0) std::memcpy(result.values.data(), data, count * sizeof(float));
      break;
    case ElementType::kFloat16:
    case ElementType::kBfloat16: {
      std::vector<uint16_t> halves(count);  // The field's bytes need not be aligned.
      if (count > 0) std::memcpy(halves.data(), data, count * sizeof(uint16_t));
      if (type == ElementType::kFloat16) {
        Float16ToFloat32(halves.data(), result.values.data(), count);
      } else {
        Bfloat16ToFloat32(halves.data(), result.values.data(), count);
      }
      break;
    }
    case ElementType::kInt8:
      for (int64_t row = 0; row < result.rows; ++row) {
        const float scale = matrix.scales(static_cast<int>(row));
        for (int64_t col = 0; col < result.cols; ++col) {
          const int64_t i = row * result.cols + col;
          result.values[i] = static_cast<float>(static_cast<int8_t>(data[i])) * scale;
        }
      }
      break;
    case ElementType::kFloat64:
      for (size_t i = 0; i < count; ++i) {
        double value;
        std::memcpy(&value, data + i * sizeof(double), sizeof(double));
        // Beyond float32's range the conversion is undefined.
        if (std::isfinite(value) && std::abs(value) > static_cast<double>(__FLT_MAX__)) {
          result.values[i] = std::copysign(HUGE_VALF, static_cast<float>(std::copysign(1.0, value)));
        } else {
          result.values[i] = static_cast<float>(value);
        }
      }
      break;
  }
  if (non_finite == NonFinite::kRefuse) {
    for (size_t i = 0; i < count; ++i) {
      if (std::isfinite(result.values[i])) continue;
      return InvalidField(field, absl::StrCat("has ", result.values[i], " in row ", i / result.cols, ", column ", i % result.cols,
                                              "; vectors must be finite in float32"));
    }
  }
  return result;
}

void EncodeMatrix(const float* values, int64_t rows, int64_t cols, ElementType type, Matrix* matrix) {
  matrix->Clear();
  matrix->set_rows(rows);
  matrix->set_cols(cols);
  matrix->set_type(VectorTypeOf(type));
  const size_t count = static_cast<size_t>(rows) * static_cast<size_t>(cols);
  if (count == 0) return;
  std::string& data = *matrix->mutable_data();
  data.resize(count * ElementSize(type));
  switch (type) {
    case ElementType::kFloat32:
      std::memcpy(data.data(), values, data.size());
      break;
    case ElementType::kFloat16:
    case ElementType::kBfloat16: {
      std::vector<uint16_t> halves(count);
      if (type == ElementType::kFloat16) {
        Float32ToFloat16(values, halves.data(), count);
      } else {
        Float32ToBfloat16(values, halves.data(), count);
      }
      std::memcpy(data.data(), halves.data(), data.size());
      break;
    }
    case ElementType::kInt8:
      for (int64_t row = 0; row < rows; ++row) {
        const float* in = values + row * cols;
        float largest = 0;
        for (int64_t col = 0; col < cols; ++col) largest = std::max(largest, std::abs(in[col]));
        const float scale = largest / 127.0f;
        matrix->add_scales(scale);
        for (int64_t col = 0; col < cols; ++col) {
          // Doubles: the ratio stays within [-127, 127] also where `scale` is denormal.
          const double steps = scale > 0 ? static_cast<double>(in[col]) / scale : 0;
          data[row * cols + col] = static_cast<char>(static_cast<int8_t>(std::lround(std::clamp(steps, -127.0, 127.0))));
        }
      }
      break;
    case ElementType::kFloat64:
      for (size_t i = 0; i < count; ++i) {
        const double value = values[i];
        std::memcpy(data.data() + i * sizeof(double), &value, sizeof(double));
      }
      break;
  }
}

}  // namespace loci
