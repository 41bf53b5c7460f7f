// How kernels of AVX-512 read sixteen stored numbers as float32.
//
// For files that are compiled with flags of their own, and for these alone: in an unnamed namespace, so that no other file's linker takes code from here.
#ifndef LOCI_INDEX_KERNEL_ROWS_AVX512_H_
#define LOCI_INDEX_KERNEL_ROWS_AVX512_H_

#include <immintrin.h>

namespace loci {
namespace {

struct Float32Rows {
  static constexpr int kBytes = 4;
  static __m512 Load(const char* p) { return _mm512_loadu_ps(p); }
  static __m512 LoadTail(const char* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
};

struct Float16Rows {
  static constexpr int kBytes = 2;
  static __m512 Load(const char* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static __m512 LoadTail(const char* p, __mmask16 mask) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p)); }
};

struct Bfloat16Rows {
  static constexpr int kBytes = 2;
  // One permutation of halves into the upper places, in place of widening and then shifting.
  static __m512 Widen(__m256i bits) {
    const __m512i places = _mm512_set_epi32(15 << 16, 14 << 16, 13 << 16, 12 << 16, 11 << 16, 10 << 16, 9 << 16, 8 << 16, 7 << 16, 6 << 16,
                                            5 << 16, 4 << 16, 3 << 16, 2 << 16, 1 << 16, 0);
    return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xAAAAAAAAu, places, _mm512_castsi256_si512(bits)));
  }
  static __m512 Load(const char* p) { return Widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static __m512 LoadTail(const char* p, __mmask16 mask) { return Widen(_mm256_maskz_loadu_epi16(mask, p)); }
};

}  // namespace
}  // namespace loci

#endif  // LOCI_INDEX_KERNEL_ROWS_AVX512_H_
