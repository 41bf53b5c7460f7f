// What simd.h is to float32 for numbers of 16 bits, which lie in pairs: a vector holds 16 pairs. The half_*_cpu.cc files are compiled
// for bfloat16 (AVX512_BF16, LOCI_SIMD=avx512_bf16) and for float16 (AVX512_FP16, LOCI_SIMD=avx512_fp16).
#ifndef LOCI_ENCODER_KERNELS_HALF_SIMD_H_
#define LOCI_ENCODER_KERNELS_HALF_SIMD_H_

#include "encoder/kernels/half_layout.h"
#include "encoder/kernels/op_types.h"
#include "encoder/kernels/simd.h"

#define LOCI_INLINE_LAMBDA __attribute__((always_inline))

namespace loci::LOCI_SIMD {

constexpr int kHalfLanes = 2 * kLanes;

LOCI_INLINE int64_t PairCount(int64_t count) { return (count + 1) / 2; }

LOCI_INLINE __m512i LoadHalves(const Half* p) { return _mm512_loadu_si512(p); }
// The first `count` halves (0 to kHalfLanes); the others are zero, and memory beyond is not touched.
LOCI_INLINE __m512i LoadHalvesPartial(const Half* p, int count) {
  return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << count) - 1), p);
}
LOCI_INLINE void StoreHalvesPartial(Half* p, __m512i v, int count) {
  _mm512_mask_storeu_epi16(p, static_cast<__mmask32>((uint64_t{1} << count) - 1), v);
}
// The same where `count` is a constant mostly.
LOCI_INLINE void StoreHalves(Half* p, __m512i v, int count) {
  if (count == kHalfLanes) {
    _mm512_storeu_si512(p, v);
  } else {
    StoreHalvesPartial(p, v, count);
  }
}
LOCI_INLINE Vec LoadUpTo(const float* p, int count, Vec rest = Zero()) {
  return count == kLanes ? Load(p) : LoadPartial(p, count, rest);
}
LOCI_INLINE void StoreUpTo(float* p, Vec v, int count) {
  if (count == kLanes) {
    Store(p, v);
  } else {
    StorePartial(p, v, count);
  }
}
// A pair in all places.
LOCI_INLINE __m512i SetPair(const Half* p) {
  int pair;
  __builtin_memcpy(&pair, p, sizeof(pair));
  return _mm512_set1_epi32(pair);
}
// A number and zero in all places.
LOCI_INLINE __m512i SetLast(const Half* p) { return _mm512_set1_epi32(*p); }

#if defined(__AVX512FP16__)

// Sums are float16 for so many pairs and then join those in float32.
constexpr int64_t kChunkPairs = kFloat16SumProducts / 2;

using HalfSum = __m512h;  // Of 16 columns: even products and odd ones beside each other.
LOCI_INLINE HalfSum ZeroSum() { return _mm512_setzero_ph(); }
LOCI_INLINE HalfSum MultiplyAdd(__m512i a, __m512i b, HalfSum sum) {
  return _mm512_fmadd_ph(_mm512_castsi512_ph(a), _mm512_castsi512_ph(b), sum);
}
LOCI_INLINE Vec ToFloats(HalfSum sum) {
  const __m512i bits = _mm512_castph_si512(sum);
  sum = _mm512_add_ph(sum, _mm512_castsi512_ph(_mm512_ror_epi32(bits, 16)));
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_castph_si512(sum)));
}
// Rounds to nearest even: `low` to the first halves, `high` to the others.
LOCI_INLINE __m512i Round(Vec low, Vec high) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtps_ph(low, kNearest)), _mm512_cvtps_ph(high, kNearest), 1);
}

#else

constexpr int64_t kChunkPairs = int64_t{1} << 40;

using HalfSum = __m512;
LOCI_INLINE HalfSum ZeroSum() { return _mm512_setzero_ps(); }
LOCI_INLINE HalfSum MultiplyAdd(__m512i a, __m512i b, HalfSum sum) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
LOCI_INLINE Vec ToFloats(HalfSum sum) { return sum; }
LOCI_INLINE __m512i Round(Vec low, Vec high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

#endif

// 2^x for x <= 0 within 3e-6 relative: x = n + r, and 2^r is a polynomial of degree 4, minimax in the relative error on [-1/2, 1/2] but for
// the last bits of its coefficients (2.6e-6, the best of that degree too).
LOCI_INLINE Vec Exp2(Vec x) {
  const Vec n = Round(x);
  const Vec r = Sub(x, n);
  Vec p = Set(0.009570110589265823f);
  p = Fma(p, r, Set(0.0559178926050663f));
  p = Fma(p, r, Set(0.240247443318367f));
  p = Fma(p, r, Set(0.6931217908859253f));
  p = Fma(p, r, Set(0.9999992847442627f));
  return _mm512_scalef_ps(p, n);
}

// x Phi(x) within 7e-5: (Phi(x) - 1/2) / x is a polynomial of degree 10 in x^2, fitted on [0, 4.8] to x Phi(x), from which it is 4.4e-6 off at most up to
// 3.7 and, what lies outside [0, 1] cut off, 1.5e-5 beyond. The rest are float32's roundings, near 4.8, where its terms are large and cancel.
LOCI_INLINE Vec GeluForHalf(Vec x) {
  const Vec t = Min(Mul(x, x), Set(23.04f));
  Vec p = Set(3.53546877e-14f);
  p = Fma(p, t, Set(-5.24781173e-12f));
  p = Fma(p, t, Set(3.50261792e-10f));
  p = Fma(p, t, Set(-1.39706264e-08f));
  p = Fma(p, t, Set(3.74165751e-07f));
  p = Fma(p, t, Set(-7.18619276e-06f));
  p = Fma(p, t, Set(0.000103370454f));
  p = Fma(p, t, Set(-0.00114543864f));
  p = Fma(p, t, Set(0.00988724176f));
  p = Fma(p, t, Set(-0.0664005131f));
  p = Fma(p, t, Set(0.398909509f));
  const Vec phi = Min(Max(Fma(x, p, Set(0.5f)), Zero()), Set(1.0f));
  return Mul(x, phi);
}

}  // namespace loci::LOCI_SIMD

#endif  // LOCI_ENCODER_KERNELS_HALF_SIMD_H_
