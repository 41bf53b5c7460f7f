// Numeric types of vectors on disk and on the wire, and their conversion to float32.
#ifndef LOCI_BASE_VECTOR_TYPE_H_
#define LOCI_BASE_VECTOR_TYPE_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>

namespace loci {

enum class ElementType : uint8_t { kFloat32 = 1, kFloat16 = 2, kBfloat16 = 3, kInt8 = 4, kFloat64 = 5 };

constexpr size_t ElementSize(ElementType type) {
  switch (type) {
    case ElementType::kFloat32:
      return 4;
    case ElementType::kFloat16:
      return 2;
    case ElementType::kBfloat16:
      return 2;
    case ElementType::kInt8:
      return 1;
    case ElementType::kFloat64:
      return 8;
  }
  return 0;
}

std::string_view ElementTypeName(ElementType type);  // "float32", "float16", ...

inline constexpr int kMaxDim = 65536;  // Of vectors, in every file and interface.

// What is larger in magnitude would be rounded to infinity.
constexpr float LargestStorable(ElementType type) {
  switch (type) {
    case ElementType::kFloat16:
      return 65504.0f;
    case ElementType::kBfloat16:
      return 3.3895313892515355e38f;
    case ElementType::kInt8:
      return 127.0f;
    default:
      return std::numeric_limits<float>::max();
  }
}

// IEEE conversions, round to nearest even; bit-exact on every machine. `in` and `out` may not overlap.
void Float16ToFloat32(const uint16_t* in, float* out, size_t count);
void Float32ToFloat16(const float* in, uint16_t* out, size_t count);
void Bfloat16ToFloat32(const uint16_t* in, float* out, size_t count);
void Float32ToBfloat16(const float* in, uint16_t* out, size_t count);

}  // namespace loci

#endif  // LOCI_BASE_VECTOR_TYPE_H_
