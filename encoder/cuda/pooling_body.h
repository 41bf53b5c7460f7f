// Kernel body of pooling (encoder/kernels/pooling.h).
#ifndef LOCI_ENCODER_CUDA_POOLING_BODY_H_
#define LOCI_ENCODER_CUDA_POOLING_BODY_H_

#include "encoder/cuda/row_bodies.h"
#include "encoder/kernels/op_types.h"

namespace loci::cuda {

inline constexpr int kPoolingBlockSize = 256;
inline constexpr int kMaxPoolingDim = 4 * kPoolingBlockSize;
// Partial results of groups of threads, then the sums of the warps.
inline constexpr int kPoolingSharedBytes = 4 * (kMaxPoolingDim + kPoolingBlockSize / 32);

template <typename T>
struct PoolingArgs {
  float* output;  // [sequences, dim]
  const int32_t* batch;
  const T* input;  // [tokens, dim]
  Pooling pooling;
  bool normalize;
  int dim;  // A multiple of 4, at most kMaxPoolingDim.
};

// The larger; what is not a number stays, where the machine's own maximum drops it and a vector that is wrong would look finite.
LOCI_BODY float LargerOrNan(float x, float y) { return y > x || y != y ? y : x; }

// One block of kPoolingBlockSize threads takes sequences block_x, block_x + grid_x, ... Groups of dim / 4 threads share a sequence's rows
// out, row r to group r % groups, each in order, and are then added in order: the order depends on nothing but length and dim.
template <typename T, typename Thread>
LOCI_BODY void PoolingBody(Thread& thread, const PoolingArgs<T>& args) {
  const DeviceBatchHeader& header = *reinterpret_cast<const DeviceBatchHeader*>(args.batch);
  const int32_t* const offsets = args.batch + header.offsets_at;
  float* const partial = static_cast<float*>(thread.shared());  // [groups, dim]
  float* const warp_sums = partial + kMaxPoolingDim;
  const int columns = args.dim / 4;
  const int groups = kPoolingBlockSize / columns;
  const int group = thread.index() / columns;
  const int column = 4 * (thread.index() % columns);
  for (int sequence = thread.block_x(); sequence < header.sequence_count; sequence += thread.grid_x()) {
    const int begin = offsets[sequence], end = args.pooling == Pooling::kCls ? offsets[sequence] + 1 : offsets[sequence + 1];
    if (group < groups) {
      const float start = args.pooling == Pooling::kMax ? -3.402823466e38f : 0.0f;
      float x[4] = {start, start, start, start};
      for (int row = begin + group; row < end; row += groups) {
        float y[4];
        Load4(args.input + static_cast<int64_t>(row) * args.dim + column, y);
        LOCI_UNROLL
        for (int i = 0; i < 4; ++i) x[i] = args.pooling == Pooling::kMax ? LargerOrNan(x[i], y[i]) : x[i] + y[i];
      }
      Store4(partial + group * args.dim + column, x);
    }
    thread.Sync();
    float x[4] = {0, 0, 0, 0};
    float squares = 0;
    if (group == 0) {
      Load4(partial + column, x);
      for (int other = 1; other < groups; ++other) {
        float y[4];
        Load4(partial + other * args.dim + column, y);
        LOCI_UNROLL
        for (int i = 0; i < 4; ++i) x[i] = args.pooling == Pooling::kMax ? LargerOrNan(x[i], y[i]) : x[i] + y[i];
      }
      if (args.pooling == Pooling::kMean) {
        LOCI_UNROLL
        for (int i = 0; i < 4; ++i) x[i] /= static_cast<float>(end - begin);
      }
      LOCI_UNROLL
      for (int i = 0; i < 4; ++i) squares += x[i] * x[i];
    }
    squares = WarpSum(thread, squares);
    if (thread.lane() == 0) warp_sums[thread.warp()] = squares;
    thread.Sync();
    float total = 0;
    for (int warp = 0; warp < kPoolingBlockSize / 32; ++warp) total += warp_sums[warp];
    const float length = args.normalize ? Max(SquareRoot(total), 1e-12f) : 1.0f;
    if (group == 0) {
      LOCI_UNROLL
      for (int i = 0; i < 4; ++i) x[i] /= length;
      Store4(args.output + static_cast<int64_t>(sequence) * args.dim + column, x);
    }
    thread.Sync();  // Before the next sequence's partial results.
  }
}

}  // namespace loci::cuda

#endif  // LOCI_ENCODER_CUDA_POOLING_BODY_H_
