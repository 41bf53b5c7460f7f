#include "server/matrix_codec.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename T>
loci::v1::Matrix MakeMatrix(int64_t rows, int64_t cols, loci::v1::VectorType type, const std::vector<T>& values) {
  loci::v1::Matrix matrix;
  matrix.set_rows(rows);
  matrix.set_cols(cols);
  matrix.set_type(type);
  matrix.set_data(std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)));
  return matrix;
}

std::string ErrorOf(const loci::v1::Matrix& matrix) {
  const absl::StatusOr<DecodedMatrix> decoded = DecodeMatrix(matrix, "vector", NonFinite::kRefuse);
  EXPECT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(decoded.status().message());
}

TEST(MatrixCodec, DecodesEveryType) {
  const auto decode = [](const loci::v1::Matrix& matrix) { return DecodeMatrix(matrix, "vector", NonFinite::kRefuse)->values; };
  EXPECT_THAT(decode(MakeMatrix<float>(1, 2, loci::v1::VECTOR_TYPE_FLOAT32, {1.5f, -2})), ElementsAre(1.5f, -2));
  EXPECT_THAT(decode(MakeMatrix<float>(2, 1, loci::v1::VECTOR_TYPE_UNSPECIFIED, {1.5f, -2})), ElementsAre(1.5f, -2));
  EXPECT_THAT(decode(MakeMatrix<uint16_t>(1, 2, loci::v1::VECTOR_TYPE_FLOAT16, {0x3e00, 0xc000})), ElementsAre(1.5f, -2));
  EXPECT_THAT(decode(MakeMatrix<uint16_t>(1, 2, loci::v1::VECTOR_TYPE_BFLOAT16, {0x3fc0, 0xc000})), ElementsAre(1.5f, -2));
  EXPECT_THAT(decode(MakeMatrix<double>(1, 2, loci::v1::VECTOR_TYPE_FLOAT64, {1.5, -2})), ElementsAre(1.5f, -2));
  loci::v1::Matrix int8 = MakeMatrix<int8_t>(2, 2, loci::v1::VECTOR_TYPE_INT8, {3, -4, 127, -128});
  int8.add_scales(0.5f);
  int8.add_scales(2);
  EXPECT_THAT(decode(int8), ElementsAre(1.5f, -2, 254, -256));
}

TEST(MatrixCodec, RefusesDataOfAnotherLength) {
  loci::v1::Matrix matrix = MakeMatrix<float>(1, 3, loci::v1::VECTOR_TYPE_FLOAT32, {1, 2});
  EXPECT_THAT(ErrorOf(matrix), AllOf(HasSubstr("vector.data has 8 bytes"), HasSubstr("1 x 3")));
  matrix.mutable_data()->append("12345");
  EXPECT_THAT(ErrorOf(matrix), HasSubstr("has 13 bytes"));
  matrix.set_type(static_cast<loci::v1::VectorType>(9));
  EXPECT_THAT(ErrorOf(matrix), HasSubstr("vector.type is 9"));
}

TEST(MatrixCodec, RefusesHostileShapesWithoutAllocating) {
  loci::v1::Matrix matrix = MakeMatrix<float>(1, 1, loci::v1::VECTOR_TYPE_FLOAT32, {1});
  for (const int64_t rows : {int64_t{-1}, std::numeric_limits<int64_t>::min(), int64_t{1} << 62, std::numeric_limits<int64_t>::max()}) {
    matrix.set_rows(rows);
    ErrorOf(matrix);
  }
  matrix.set_rows(1);
  for (const int64_t cols : {int64_t{-1}, int64_t{0}, int64_t{65'537}, int64_t{1} << 62, std::numeric_limits<int64_t>::max()}) {
    matrix.set_cols(cols);
    EXPECT_THAT(ErrorOf(matrix), HasSubstr("from 1 to 65536"));
  }
  matrix.set_rows(int64_t{1} << 62);  // Times 4 bytes: 0 modulo 2^64.
  matrix.set_cols(1);
  matrix.clear_data();
  ErrorOf(matrix);
}

TEST(MatrixCodec, RefusesOrKeepsWhatIsNotFinite) {
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_THAT(ErrorOf(MakeMatrix<float>(2, 2, loci::v1::VECTOR_TYPE_FLOAT32, {1, 2, NAN, 4})), HasSubstr("row 1, column 0"));
  EXPECT_THAT(ErrorOf(MakeMatrix<float>(1, 2, loci::v1::VECTOR_TYPE_FLOAT32, {1, -inf})), HasSubstr("-inf"));
  EXPECT_THAT(ErrorOf(MakeMatrix<uint16_t>(1, 1, loci::v1::VECTOR_TYPE_FLOAT16, {0x7c00})), HasSubstr("inf"));
  EXPECT_THAT(ErrorOf(MakeMatrix<double>(1, 1, loci::v1::VECTOR_TYPE_FLOAT64, {-1e300})), HasSubstr("-inf"));
  loci::v1::Matrix int8 = MakeMatrix<int8_t>(1, 1, loci::v1::VECTOR_TYPE_INT8, {3});
  int8.add_scales(NAN);
  ErrorOf(int8);
  const auto kept = DecodeMatrix(MakeMatrix<float>(1, 2, loci::v1::VECTOR_TYPE_FLOAT32, {1, inf}), "vector", NonFinite::kKeep);
  ASSERT_TRUE(kept.ok());
  EXPECT_THAT(kept->values, ElementsAre(1, inf));
}

TEST(MatrixCodec, RefusesScalesThatDoNotFit) {
  loci::v1::Matrix int8 = MakeMatrix<int8_t>(2, 1, loci::v1::VECTOR_TYPE_INT8, {3, 4});
  int8.add_scales(1);
  EXPECT_THAT(ErrorOf(int8), HasSubstr("vector.scales has 1 entries; it must have 2"));
  loci::v1::Matrix floats = MakeMatrix<float>(1, 1, loci::v1::VECTOR_TYPE_FLOAT32, {3});
  floats.add_scales(1);
  EXPECT_THAT(ErrorOf(floats), HasSubstr("INT8 only"));
}

TEST(MatrixCodec, EncodesEveryTypeWithinItsPrecision) {
  const std::vector<float> values = {0.6f, -0.8f, 0.001f, 0, 0, 0};
  const std::pair<ElementType, float> cases[] = {{ElementType::kFloat32, 0},
                                                 {ElementType::kFloat64, 0},
                                                 {ElementType::kFloat16, 0.0005f},
                                                 {ElementType::kBfloat16, 0.004f},
                                                 {ElementType::kInt8, 0.8f / 127 / 2 * 1.001f}};
  for (const auto& [type, tolerance] : cases) {
    loci::v1::Matrix matrix;
    EncodeMatrix(values.data(), 2, 3, type, &matrix);
    EXPECT_EQ(matrix.type(), VectorTypeOf(type));
    const absl::StatusOr<DecodedMatrix> decoded = DecodeMatrix(matrix, "vectors", NonFinite::kRefuse);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    ASSERT_EQ(decoded->rows, 2);
    ASSERT_EQ(decoded->cols, 3);
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_NEAR(decoded->values[i], values[i], tolerance) << ElementTypeName(type) << " element " << i;
    }
  }
}

TEST(MatrixCodec, EncodesNoRows) {
  loci::v1::Matrix matrix;
  EncodeMatrix(nullptr, 0, 3, ElementType::kInt8, &matrix);
  EXPECT_TRUE(DecodeMatrix(matrix, "vectors", NonFinite::kRefuse).ok());
}

}  // namespace
}  // namespace loci
