#include "base/vector_type.h"

#include <bit>
#include <cstring>

#include "base/vector_type_portable.h"

#ifdef __F16C__
#include <immintrin.h>
#endif

namespace loci {

std::string_view ElementTypeName(ElementType type) {
  switch (type) {
    case ElementType::kFloat32:
      return "float32";
    case ElementType::kFloat16:
      return "float16";
    case ElementType::kBfloat16:
      return "bfloat16";
    case ElementType::kInt8:
      return "int8";
    case ElementType::kFloat64:
      return "float64";
  }
  return "unknown";
}

namespace internal {

float Float16ToFloat32Portable(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 31u;
  const uint32_t mantissa = half & 0x3ffu;
  uint32_t bits;
  if (exponent == 31) {
    bits = 0x7f800000u | mantissa << 13 | (mantissa != 0 ? 0x400000u : 0u);  // A NaN comes out quiet.
  } else if (exponent != 0) {
    bits = (exponent + 112) << 23 | mantissa << 13;
  } else if (mantissa != 0) {
    const int shift = std::countl_zero(mantissa) - 21;  // Brings the leading bit to 2^10.
    bits = static_cast<uint32_t>(113 - shift) << 23 | ((mantissa << shift) & 0x3ffu) << 13;
  } else {
    bits = 0;
  }
  return std::bit_cast<float>(sign | bits);
}

uint16_t Float32ToFloat16Portable(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {  // 65520 and above round to infinity.
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // Normal: 2^-14 and above.
    half = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  } else if (magnitude > 0x33000000u) {              // Subnormal: above half of 2^-24.
    const uint32_t shift = 126 - (magnitude >> 23);  // From units of the float's last bit to 2^-24.
    const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    const uint32_t halfway = 1u << (shift - 1);
    half = (mantissa + halfway - 1 + ((mantissa >> shift) & 1u)) >> shift;
  } else {
    half = 0;
  }
  return static_cast<uint16_t>(sign | half);
}

}  // namespace internal

void Float16ToFloat32(const uint16_t* in, float* out, size_t count) {
  size_t i = 0;
#ifdef __F16C__
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
  }
#endif
  for (; i < count; ++i) out[i] = internal::Float16ToFloat32Portable(in[i]);
}

void Float32ToFloat16(const float* in, uint16_t* out, size_t count) {
  size_t i = 0;
#ifdef __F16C__
  for (; i + 8 <= count; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
#endif
  for (; i < count; ++i) out[i] = internal::Float32ToFloat16Portable(in[i]);
}

void Bfloat16ToFloat32(const uint16_t* in, float* out, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(in[i]) << 16;
    std::memcpy(out + i, &bits, sizeof(bits));  // As bits: a signalling NaN stays what it is.
  }
}

void Float32ToBfloat16(const float* in, uint16_t* out, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, in + i, sizeof(bits));
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    out[i] = static_cast<uint16_t>(is_nan ? (bits >> 16) | 0x40u : rounded);
  }
}

}  // namespace loci
