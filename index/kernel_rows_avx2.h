// How kernels of AVX2, FMA and F16C read eight stored numbers as float32.
//
// For files that are compiled with flags of their own, and for these alone: in an unnamed namespace, so that no other file's linker takes code from here.
#ifndef LOCI_INDEX_KERNEL_ROWS_AVX2_H_
#define LOCI_INDEX_KERNEL_ROWS_AVX2_H_

#include <immintrin.h>

namespace loci {
namespace {

struct Float32Rows {
  static constexpr int kBytes = 4;
  static __m256 Load(const char* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
};

struct Float16Rows {
  static constexpr int kBytes = 2;
  static __m256 Load(const char* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
};

struct Bfloat16Rows {
  static constexpr int kBytes = 2;
  static __m256 Load(const char* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
};

}  // namespace
}  // namespace loci

#endif  // LOCI_INDEX_KERNEL_ROWS_AVX2_H_
