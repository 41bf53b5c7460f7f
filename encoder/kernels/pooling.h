// One vector for each sequence out of its tokens' vectors: their mean, the first one (CLS) or the largest value in each dimension;
// divided by its length (at least 1e-12) where `normalize`.
#ifndef LOCI_ENCODER_KERNELS_POOLING_H_
#define LOCI_ENCODER_KERNELS_POOLING_H_

#include <cstdint>

#include "base/device.h"
#include "encoder/kernels/op_types.h"

namespace loci {

// `output` is [sequence_count, dim], `input` [offsets[sequence_count], dim]; sequence s has the rows offsets[s] .. offsets[s + 1] - 1,
// at least one.
void PoolReference(float* output, const float* input, const int32_t* offsets, int64_t sequence_count, int64_t dim,
                   Pooling pooling, bool normalize);

// The machine must have `isa`.
void Pool(CpuIsa isa, float* output, const float* input, const int32_t* offsets, int64_t sequence_count, int64_t dim,
          Pooling pooling, bool normalize);

}  // namespace loci

#endif  // LOCI_ENCODER_KERNELS_POOLING_H_
