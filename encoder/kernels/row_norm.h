// Layer normalisation of one row in place: shared by layer_norm_cpu.cc, embedding_cpu.cc and gemm_int8_cpu.cc.
#ifndef LOCI_ENCODER_KERNELS_ROW_NORM_H_
#define LOCI_ENCODER_KERNELS_ROW_NORM_H_

#include "encoder/kernels/simd.h"

namespace loci::LOCI_SIMD {

LOCI_INLINE void NormalizeRow(float* row, const float* gamma, const float* beta, float epsilon, int64_t dim) {
  const int rest = static_cast<int>(dim % kLanes);
  const int64_t whole = dim - rest;
  Vec sum = Zero();
  for (int64_t i = 0; i < whole; i += kLanes) sum = Add(sum, Load(row + i));
  if (rest > 0) sum = Add(sum, LoadPartial(row + whole, rest));
  const float count = static_cast<float>(dim);
  const Vec mean = Set(SumLanes(sum) / count);
  Vec squares = Zero();
  for (int64_t i = 0; i < whole; i += kLanes) {
    const Vec x = Sub(Load(row + i), mean);
    squares = Fma(x, x, squares);
  }
  if (rest > 0) {
    const Vec x = Sub(LoadPartial(row + whole, rest, mean), mean);
    squares = Fma(x, x, squares);
  }
  const Vec scale = Set(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(SumLanes(squares) / count + epsilon))));
  for (int64_t i = 0; i < whole; i += kLanes) {
    const Vec x = Mul(Sub(Load(row + i), mean), scale);
    Store(row + i, Fma(x, Load(gamma + i), Load(beta + i)));
  }
  if (rest > 0) {
    const Vec x = Mul(Sub(LoadPartial(row + whole, rest), mean), scale);
    StorePartial(row + whole, Fma(x, LoadPartial(gamma + whole, rest), LoadPartial(beta + whole, rest)), rest);
  }
}

}  // namespace loci::LOCI_SIMD

#endif  // LOCI_ENCODER_KERNELS_ROW_NORM_H_
