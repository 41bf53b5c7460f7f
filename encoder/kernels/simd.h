// Vectors of one instruction set, for the kernels' *_cpu.cc files, which are compiled once for each set with its flags and with
// LOCI_SIMD set to avx2 or avx512. All names live in that namespace and nothing of the standard library is used, so that no code
// of the wider set can be merged into what runs on a machine without it.
#ifndef LOCI_ENCODER_KERNELS_SIMD_H_
#define LOCI_ENCODER_KERNELS_SIMD_H_

#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // g++ 12's own AVX-512 header trips both.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include <cstdint>

#define LOCI_INLINE inline __attribute__((always_inline))

namespace loci::LOCI_SIMD {

#if defined(__AVX512F__)

using Vec = __m512;
constexpr int kLanes = 16;
constexpr int kTileVectors = 4;  // A register tile is kTileRows x (kTileVectors * kLanes): 24 of 32 registers.

LOCI_INLINE Vec Zero() { return _mm512_setzero_ps(); }
LOCI_INLINE Vec Set(float x) { return _mm512_set1_ps(x); }
LOCI_INLINE Vec Load(const float* p) { return _mm512_loadu_ps(p); }
LOCI_INLINE void Store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
LOCI_INLINE Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
LOCI_INLINE Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
LOCI_INLINE Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
LOCI_INLINE Vec Div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
LOCI_INLINE Vec Max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
LOCI_INLINE Vec Min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
LOCI_INLINE Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
// The first `count` lanes (0 to kLanes); the others are `rest`, and memory beyond is not touched.
LOCI_INLINE Vec LoadPartial(const float* p, int count, Vec rest = Zero()) {
  return _mm512_mask_loadu_ps(rest, static_cast<__mmask16>((1u << count) - 1), p);
}
LOCI_INLINE void StorePartial(float* p, Vec v, int count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), v);
}
// a where |x| < limit, else b.
LOCI_INLINE Vec SelectBelow(Vec x, float limit, Vec a, Vec b) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(_mm512_abs_ps(x), Set(limit), _CMP_LT_OQ), b, a);
}
LOCI_INLINE Vec Round(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// a * 2^n for a whole n in [-126, 127].
LOCI_INLINE Vec ScaleByPowerOfTwo(Vec a, Vec n) {
  const __m512i bits = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23);
  return _mm512_mul_ps(a, _mm512_castsi512_ps(bits));
}

#else

using Vec = __m256;
constexpr int kLanes = 8;
constexpr int kTileVectors = 2;  // 12 of 16 registers.

LOCI_INLINE Vec Zero() { return _mm256_setzero_ps(); }
LOCI_INLINE Vec Set(float x) { return _mm256_set1_ps(x); }
LOCI_INLINE Vec Load(const float* p) { return _mm256_loadu_ps(p); }
LOCI_INLINE void Store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
LOCI_INLINE Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
LOCI_INLINE Vec Sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
LOCI_INLINE Vec Mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
LOCI_INLINE Vec Div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
LOCI_INLINE Vec Max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
LOCI_INLINE Vec Min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
LOCI_INLINE Vec Fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
LOCI_INLINE __m256i PartialMask(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
LOCI_INLINE Vec LoadPartial(const float* p, int count, Vec rest = Zero()) {
  const __m256i mask = PartialMask(count);
  return _mm256_blendv_ps(rest, _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask));
}
LOCI_INLINE void StorePartial(float* p, Vec v, int count) { _mm256_maskstore_ps(p, PartialMask(count), v); }
LOCI_INLINE Vec SelectBelow(Vec x, float limit, Vec a, Vec b) {
  return _mm256_blendv_ps(b, a, _mm256_cmp_ps(_mm256_andnot_ps(Set(-0.0f), x), Set(limit), _CMP_LT_OQ));
}
LOCI_INLINE Vec Round(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
LOCI_INLINE Vec ScaleByPowerOfTwo(Vec a, Vec n) {
  const __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(a, _mm256_castsi256_ps(bits));
}

#endif

constexpr int kTileRows = 6;
constexpr int kPanelWidth = kTileVectors * kLanes;

LOCI_INLINE int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Over the lanes: one fixed order, halves first.
LOCI_INLINE float SumLanes(Vec v) {
#if defined(__AVX512F__)
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
#else
  const __m256 half = v;
#endif
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
LOCI_INLINE float MaxLanes(Vec v) {
  alignas(64) float lane[kLanes];
  Store(lane, v);
  float best = lane[0];
  for (int i = 1; i < kLanes; ++i) best = lane[i] > best ? lane[i] : best;
  return best;
}

// e^x for x <= 0 within 2e-7 relative; below -87 it is e^-87, 1.6e-38, since what is scaled by a power of two must stay normal. (Cephes' expf:
// x = n ln 2 + r, polynomial of degree 6 in r.)
LOCI_INLINE Vec ExpOfNonPositive(Vec x) {
  x = Max(x, Set(-87.0f));
  const Vec n = Round(Mul(x, Set(1.44269504088896341f)));
  Vec r = Fma(n, Set(-0.693359375f), x);
  r = Fma(n, Set(2.12194440e-4f), r);
  Vec p = Set(1.9875691500e-4f);
  p = Fma(p, r, Set(1.3981999507e-3f));
  p = Fma(p, r, Set(8.3334519073e-3f));
  p = Fma(p, r, Set(4.1665795894e-2f));
  p = Fma(p, r, Set(1.6666665459e-1f));
  p = Fma(p, r, Set(5.0000001201e-1f));
  p = Fma(p, Mul(r, r), Add(r, Set(1.0f)));
  return ScaleByPowerOfTwo(p, n);
}

// erf(x) within 2e-7: a rational minimax approximation on [-4, 4] (the one of Eigen and XLA).
LOCI_INLINE Vec Erf(Vec x) {
  x = Min(Max(x, Set(-4.0f)), Set(4.0f));
  const Vec t = Mul(x, x);
  Vec p = Set(-2.72614225801306e-10f);
  p = Fma(p, t, Set(2.77068142495902e-08f));
  p = Fma(p, t, Set(-2.10102402082508e-06f));
  p = Fma(p, t, Set(-5.69250639462346e-05f));
  p = Fma(p, t, Set(-7.34990630326855e-04f));
  p = Fma(p, t, Set(-2.95459980854025e-03f));
  p = Fma(p, t, Set(-1.60960333262415e-02f));
  Vec q = Set(-1.45660718464996e-05f);
  q = Fma(q, t, Set(-2.13374055278905e-04f));
  q = Fma(q, t, Set(-1.68282697438203e-03f));
  q = Fma(q, t, Set(-7.37332916720468e-03f));
  q = Fma(q, t, Set(-1.42647390514189e-02f));
  // erf(3.9) is one to 4e-8, and a large x must be exactly 0 or x in Gelu.
  return SelectBelow(x, 3.9f, Div(Mul(x, p), q), Min(Max(x, Set(-1.0f)), Set(1.0f)));
}

// x Phi(x), the exact form (not tanh's).
LOCI_INLINE Vec Gelu(Vec x) {
  const Vec half = Mul(x, Set(0.5f));
  return Fma(half, Erf(Mul(x, Set(0.70710678118654752f))), half);
}

}  // namespace loci::LOCI_SIMD

#endif  // LOCI_ENCODER_KERNELS_SIMD_H_
