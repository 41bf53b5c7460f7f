#include "encoder/kernels/cpu_variants.h"
#include "encoder/kernels/simd.h"

namespace loci::LOCI_SIMD {

void Pool(float* output, const float* input, const int32_t* offsets, int64_t sequence_count, int64_t dim, Pooling pooling,
          bool normalize) {
  for (int64_t s = 0; s < sequence_count; ++s) {
    float* out = output + s * dim;
    const int64_t rows = offsets[s + 1] - offsets[s];
    const float* first = input + offsets[s] * dim;
    Vec squares = Zero();
    for (int64_t i = 0; i < dim; i += kLanes) {
      const int count = static_cast<int>(dim - i < kLanes ? dim - i : kLanes);
      Vec x = LoadPartial(first + i, count);
      if (pooling == Pooling::kMean) {
        for (int64_t r = 1; r < rows; ++r) x = Add(x, LoadPartial(first + r * dim + i, count));
        x = Div(x, Set(static_cast<float>(rows)));
      } else if (pooling == Pooling::kMax) {
        for (int64_t r = 1; r < rows; ++r) x = Max(x, LoadPartial(first + r * dim + i, count));
      }
      StorePartial(out + i, x, count);
      squares = Fma(x, x, squares);
    }
    if (!normalize) continue;
    float length = _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(SumLanes(squares))));
    length = length > 1e-12f ? length : 1e-12f;
    for (int64_t i = 0; i < dim; i += kLanes) {
      const int count = static_cast<int>(dim - i < kLanes ? dim - i : kLanes);
      StorePartial(out + i, Div(LoadPartial(out + i, count), Set(length)), count);
    }
  }
}

}  // namespace loci::LOCI_SIMD
