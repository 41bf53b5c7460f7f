// What the kernels of exact search hand to each other: rows with bounds of their scores, and the numbers that these are compared as.
#ifndef LOCI_INDEX_CUDA_CANDIDATES_H_
#define LOCI_INDEX_CUDA_CANDIDATES_H_

#include <cstdint>
#include <cstring>

#if !defined(__CUDACC__)
#include <cmath>
#include <limits>
#endif

#include "base/cuda/element.h"

namespace loci::cuda {

#if defined(__CUDACC__)
LOCI_BODY float RoundDown(double x) { return __double2float_rd(x); }
LOCI_BODY float RoundUp(double x) { return __double2float_ru(x); }
LOCI_BODY uint32_t BitsOf(float x) { return __float_as_uint(x); }
LOCI_BODY float FloatOf(uint32_t bits) { return __uint_as_float(bits); }
LOCI_BODY float MultiplyThenAdd(float a, float b, float c) { return __fmaf_rn(a, b, c); }
LOCI_BODY float Infinity() { return __uint_as_float(0x7f800000u); }
#else
inline float Infinity() { return std::numeric_limits<float>::infinity(); }
inline float RoundDown(double x) {
  const float rounded = static_cast<float>(x);
  return static_cast<double>(rounded) <= x ? rounded : std::nextafter(rounded, -Infinity());
}
inline float RoundUp(double x) {
  const float rounded = static_cast<float>(x);
  return static_cast<double>(rounded) >= x ? rounded : std::nextafter(rounded, Infinity());
}
inline uint32_t BitsOf(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline float FloatOf(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline float MultiplyThenAdd(float a, float b, float c) { return std::fma(a, b, c); }
#endif

// Numbers in the order of the floats, none of which is NaN; both zeros are one number.
LOCI_BODY uint32_t OrderedBits(float x) {
  const uint32_t bits = x == 0 ? 0 : BitsOf(x);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
LOCI_BODY float FromOrderedBits(uint32_t bits) { return FloatOf((bits & 0x80000000u) != 0 ? bits & 0x7fffffffu : ~bits); }

// A row that may be among the best, with bounds of its score; once rescored both are the score.
struct Candidate {
  float lower;
  float upper;
  int32_t row;
};

struct DeviceHit {
  float score;
  int32_t row;
};

// Of a query: what Int8Bound (index/int8_kernels.h) has, but the threshold.
struct QueryBound {
  float length_factor;
  float error_factor;
  float slack;
  float inverse_scale;  // Of its codes.
};

}  // namespace loci::cuda

#endif  // LOCI_INDEX_CUDA_CANDIDATES_H_
