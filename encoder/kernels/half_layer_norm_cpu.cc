#include "encoder/kernels/half_simd.h"
#include "encoder/kernels/half_variants.h"

namespace loci::LOCI_SIMD {
namespace {

// Calls body(i, low, high) for each 32 of `count`: `low` and `high` of the two vectors' lanes are there.
template <typename Body>
LOCI_INLINE void ForEachPairOfVectors(int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + kHalfLanes <= count; i += kHalfLanes) body(i, kLanes, kLanes);
  if (i == count) return;
  const int low = static_cast<int>(count - i < kLanes ? count - i : kLanes);
  body(i, low, static_cast<int>(count - i - low));
}

}  // namespace

void RoundToHalf(Half* output, const float* input, int64_t count) {
  ForEachPairOfVectors(count, [&](int64_t i, int low, int high) LOCI_INLINE_LAMBDA {
    StoreHalves(output + i, Round(LoadUpTo(input + i, low), LoadUpTo(input + i + low, high)), low + high);
  });
}

void HalfLayerNorm(float* hidden, Half* rounded, const float* input, const float* gamma, const float* beta, float epsilon,
                   int64_t rows, int64_t dim) {
  const Vec count = Set(static_cast<float>(dim));
  for (int64_t r = 0; r < rows; ++r) {
    float* out = hidden + r * dim;
    const float* in = input + r * dim;
    // Two sums each, so that one addition need not wait for the last.
    Vec sum0 = Zero(), sum1 = Zero();
    ForEachPairOfVectors(dim, [&](int64_t i, int low, int high) LOCI_INLINE_LAMBDA {
      const Vec a = Add(LoadUpTo(out + i, low), LoadUpTo(in + i, low));
      const Vec b = Add(LoadUpTo(out + i + low, high), LoadUpTo(in + i + low, high));
      StoreUpTo(out + i, a, low);
      StoreUpTo(out + i + low, b, high);
      sum0 = Add(sum0, a);
      sum1 = Add(sum1, b);
    });
    const Vec mean = Div(Set(_mm512_reduce_add_ps(Add(sum0, sum1))), count);
    Vec square0 = Zero(), square1 = Zero();
    ForEachPairOfVectors(dim, [&](int64_t i, int low, int high) LOCI_INLINE_LAMBDA {
      const Vec a = Sub(LoadUpTo(out + i, low, mean), mean);
      const Vec b = Sub(LoadUpTo(out + i + low, high, mean), mean);
      square0 = Fma(a, a, square0);
      square1 = Fma(b, b, square1);
    });
    const Vec variance = Div(Set(_mm512_reduce_add_ps(Add(square0, square1))), count);
    const Vec scale = Div(Set(1.0f), _mm512_sqrt_ps(Add(variance, Set(epsilon))));
    ForEachPairOfVectors(dim, [&](int64_t i, int low, int high) LOCI_INLINE_LAMBDA {
      const Vec a = Fma(Mul(Sub(LoadUpTo(out + i, low), mean), scale), LoadUpTo(gamma + i, low), LoadUpTo(beta + i, low));
      const Vec b = Fma(Mul(Sub(LoadUpTo(out + i + low, high), mean), scale), LoadUpTo(gamma + i + low, high),
                        LoadUpTo(beta + i + low, high));
      StoreUpTo(out + i, a, low);
      StoreUpTo(out + i + low, b, high);
      StoreHalves(rounded + r * dim + i, Round(a, b), low + high);
    });
  }
}

}  // namespace loci::LOCI_SIMD
