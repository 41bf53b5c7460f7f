// 16-bit floats and vector access for kernel bodies, which nvcc compiles for the device and the host compiler for tests
// (base/cuda/testing/simulated_grid.h). Conversions round to nearest even on both, so that they agree bit for bit.
#ifndef LOCI_BASE_CUDA_ELEMENT_H_
#define LOCI_BASE_CUDA_ELEMENT_H_

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define LOCI_BODY __device__ __forceinline__
#define LOCI_UNROLL _Pragma("unroll")
#else
#include <cmath>

#include "base/vector_type.h"
#define LOCI_BODY inline
#define LOCI_UNROLL
#endif

namespace loci::cuda {

struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

LOCI_BODY float ToFloat(float x) { return x; }

LOCI_BODY float ToFloat(Bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
#if defined(__CUDACC__)
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
#endif
}

LOCI_BODY float ToFloat(Float16 x) {
#if defined(__CUDACC__)
  return __half2float(__ushort_as_half(x.bits));
#else
  float value;
  Float16ToFloat32(&x.bits, &value, 1);
  return value;
#endif
}

template <typename T>
LOCI_BODY T FromFloat(float x);

template <>
LOCI_BODY float FromFloat<float>(float x) {
  return x;
}

template <>
LOCI_BODY Bfloat16 FromFloat<Bfloat16>(float x) {
#if defined(__CUDACC__)
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
  Bfloat16 half;
  Float32ToBfloat16(&x, &half.bits, 1);
  return half;
#endif
}

template <>
LOCI_BODY Float16 FromFloat<Float16>(float x) {
#if defined(__CUDACC__)
  return {__half_as_ushort(__float2half_rn(x))};
#else
  Float16 half;
  Float32ToFloat16(&x, &half.bits, 1);
  return half;
#endif
}

// Four values at an address that is aligned to four elements: one access of 8 or 16 bytes.
template <typename T>
LOCI_BODY void Load4(const T* from, float (&to)[4]) {
#if defined(__CUDACC__)
  if constexpr (sizeof(T) == 2) {
    const uint2 words = *reinterpret_cast<const uint2*>(from);
    to[0] = ToFloat(T{static_cast<uint16_t>(words.x & 0xffffu)});
    to[1] = ToFloat(T{static_cast<uint16_t>(words.x >> 16)});
    to[2] = ToFloat(T{static_cast<uint16_t>(words.y & 0xffffu)});
    to[3] = ToFloat(T{static_cast<uint16_t>(words.y >> 16)});
  } else {
    const float4 values = *reinterpret_cast<const float4*>(from);
    to[0] = values.x;
    to[1] = values.y;
    to[2] = values.z;
    to[3] = values.w;
  }
#else
  for (int i = 0; i < 4; ++i) to[i] = ToFloat(from[i]);
#endif
}

template <typename T>
LOCI_BODY void Store4(T* to, const float (&from)[4]) {
#if defined(__CUDACC__)
  if constexpr (sizeof(T) == 2) {
    uint2 words;
    words.x = FromFloat<T>(from[0]).bits | (static_cast<uint32_t>(FromFloat<T>(from[1]).bits) << 16);
    words.y = FromFloat<T>(from[2]).bits | (static_cast<uint32_t>(FromFloat<T>(from[3]).bits) << 16);
    *reinterpret_cast<uint2*>(to) = words;
  } else {
    *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
  }
#else
  for (int i = 0; i < 4; ++i) to[i] = FromFloat<T>(from[i]);
#endif
}

// Two 16-bit values in one register, the first in the low half, as matrix instructions want them.
template <typename T>
LOCI_BODY uint32_t Pack2(float low, float high) {
  return FromFloat<T>(low).bits | (static_cast<uint32_t>(FromFloat<T>(high).bits) << 16);
}

// The 4 bytes at `from`, which is aligned to them: two 16-bit elements.
template <typename T>
LOCI_BODY uint32_t Load2(const T* from) {
#if defined(__CUDACC__)
  return *reinterpret_cast<const uint32_t*>(from);
#else
  uint32_t word;
  std::memcpy(&word, from, sizeof(word));
  return word;
#endif
}

template <typename T>
LOCI_BODY void Store2(T* to, uint32_t word) {
#if defined(__CUDACC__)
  *reinterpret_cast<uint32_t*>(to) = word;
#else
  std::memcpy(to, &word, sizeof(word));
#endif
}

// 16 bytes from one aligned address to another.
LOCI_BODY void Copy16(void* to, const void* from) {
#if defined(__CUDACC__)
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
#else
  std::memcpy(to, from, 16);
#endif
}

LOCI_BODY void Zero16(void* to) {
#if defined(__CUDACC__)
  *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
#else
  std::memset(to, 0, 16);
#endif
}

#if defined(__CUDACC__)
LOCI_BODY float Exp2(float x) { return exp2f(x); }
LOCI_BODY float Erf(float x) { return erff(x); }
LOCI_BODY float SquareRoot(float x) { return sqrtf(x); }
LOCI_BODY float Max(float a, float b) { return fmaxf(a, b); }
LOCI_BODY int Min(int a, int b) { return a < b ? a : b; }
#else
inline float Exp2(float x) { return std::exp2(x); }
inline float Erf(float x) { return std::erf(x); }
inline float SquareRoot(float x) { return std::sqrt(x); }
inline float Max(float a, float b) { return std::fmax(a, b); }
inline int Min(int a, int b) { return a < b ? a : b; }
#endif

}  // namespace loci::cuda

#endif  // LOCI_BASE_CUDA_ELEMENT_H_
