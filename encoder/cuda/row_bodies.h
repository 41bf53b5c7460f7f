// Kernel bodies that take one row of a matrix at a time: embedding, residual + layer normalisation, GELU. See base/cuda/device_thread.h
// for `Thread`, and the references in encoder/kernels for what they compute. T: float, Bfloat16 or Float16; sums in float32.
#ifndef LOCI_ENCODER_CUDA_ROW_BODIES_H_
#define LOCI_ENCODER_CUDA_ROW_BODIES_H_

#include "base/cuda/element.h"
#include "encoder/cuda/device_batch.h"

namespace loci::cuda {

// One warp a row, four columns a lane at a time.
inline constexpr int kRowsPerBlock = 4;
inline constexpr int kRowBlockSize = 32 * kRowsPerBlock;
inline constexpr int kRowStride = 32 * 4;  // Columns that a warp takes at once.

template <typename Thread>
LOCI_BODY float WarpSum(Thread& thread, float x) {
  LOCI_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) x += thread.ShuffleXor(x, mask);
  return x;
}

template <typename Thread>
LOCI_BODY float WarpMax(Thread& thread, float x) {
  LOCI_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) x = Max(x, thread.ShuffleXor(x, mask));
  return x;
}

// Normalises the row that the warp's lanes hold, and writes it. Columns at `dim` and above must be zero.
template <int kSteps, typename T, typename Thread>
LOCI_BODY void NormalizeRow(Thread& thread, float (&x)[kSteps][4], T* output, const float* gamma, const float* beta,
                            float epsilon, int dim) {
  float sum = 0;
  LOCI_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    LOCI_UNROLL
    for (int i = 0; i < 4; ++i) sum += x[step][i];
  }
  const float mean = WarpSum(thread, sum) / static_cast<float>(dim);
  float squares = 0;
  LOCI_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    if (step * kRowStride + 4 * thread.lane() >= dim) continue;
    LOCI_UNROLL
    for (int i = 0; i < 4; ++i) {
      x[step][i] -= mean;
      squares += x[step][i] * x[step][i];
    }
  }
  const float scale = 1.0f / SquareRoot(WarpSum(thread, squares) / static_cast<float>(dim) + epsilon);
  LOCI_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    const int column = step * kRowStride + 4 * thread.lane();
    if (column >= dim) continue;
    float g[4], b[4], y[4];
    Load4(gamma + column, g);
    Load4(beta + column, b);
    LOCI_UNROLL
    for (int i = 0; i < 4; ++i) y[i] = x[step][i] * scale * g[i] + b[i];
    Store4(output + column, y);
  }
}

template <typename T>
struct EmbeddingArgs {
  T* output;             // [tokens, dim]
  const int32_t* batch;  // DeviceBatchHeader and what follows it.
  const T* word;         // [vocabulary, dim]
  const T* position;     // [max_positions, dim]
  const T* type;         // [dim]
  const float* gamma;    // [dim]
  const float* beta;     // [dim]
  float epsilon;
  int dim;  // A multiple of 4, at most kSteps * kRowStride.
};

// Grid: at least token_count / kRowsPerBlock blocks of kRowBlockSize.
template <int kSteps, typename T, typename Thread>
LOCI_BODY void EmbeddingBody(Thread& thread, const EmbeddingArgs<T>& args) {
  const DeviceBatchHeader& header = *reinterpret_cast<const DeviceBatchHeader*>(args.batch);
  const int row = thread.block_x() * kRowsPerBlock + thread.warp();
  if (row >= header.token_count) return;  // A whole warp, and nothing here is the block's.
  const int64_t id = args.batch[header.ids_at + row];
  const int64_t position = args.batch[header.positions_at + row];
  float x[kSteps][4];
  LOCI_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    const int column = step * kRowStride + 4 * thread.lane();
    LOCI_UNROLL
    for (int i = 0; i < 4; ++i) x[step][i] = 0;
    if (column >= args.dim) continue;
    float w[4], p[4], t[4];
    Load4(args.word + id * args.dim + column, w);
    Load4(args.position + position * args.dim + column, p);
    Load4(args.type + column, t);
    LOCI_UNROLL
    for (int i = 0; i < 4; ++i) x[step][i] = w[i] + t[i] + p[i];
  }
  NormalizeRow<kSteps>(thread, x, args.output + static_cast<int64_t>(row) * args.dim, args.gamma, args.beta, args.epsilon,
                       args.dim);
}

template <typename T>
struct ResidualNormArgs {
  T* output;  // [tokens, dim]; may be `residual`.
  const int32_t* batch;
  const T* input;     // [tokens, dim]
  const T* residual;  // [tokens, dim]
  const float* gamma;
  const float* beta;
  float epsilon;
  int dim;  // As above.
};

// Grid as EmbeddingBody's.
template <int kSteps, typename T, typename Thread>
LOCI_BODY void ResidualNormBody(Thread& thread, const ResidualNormArgs<T>& args) {
  const DeviceBatchHeader& header = *reinterpret_cast<const DeviceBatchHeader*>(args.batch);
  const int row = thread.block_x() * kRowsPerBlock + thread.warp();
  if (row >= header.token_count) return;
  const int64_t begin = static_cast<int64_t>(row) * args.dim;
  float x[kSteps][4];
  LOCI_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    const int column = step * kRowStride + 4 * thread.lane();
    LOCI_UNROLL
    for (int i = 0; i < 4; ++i) x[step][i] = 0;
    if (column >= args.dim) continue;
    float a[4], b[4];
    Load4(args.input + begin + column, a);
    Load4(args.residual + begin + column, b);
    LOCI_UNROLL
    for (int i = 0; i < 4; ++i) x[step][i] = a[i] + b[i];
  }
  NormalizeRow<kSteps>(thread, x, args.output + begin, args.gamma, args.beta, args.epsilon, args.dim);
}

template <typename T>
struct GeluArgs {
  T* values;  // [tokens, width], in place
  const int32_t* batch;
  int width;  // A multiple of 4.
};

// x Phi(x), with the error function. Any grid of blocks of any size.
template <typename T, typename Thread>
LOCI_BODY void GeluBody(Thread& thread, const GeluArgs<T>& args) {
  const DeviceBatchHeader& header = *reinterpret_cast<const DeviceBatchHeader*>(args.batch);
  const int64_t count = static_cast<int64_t>(header.token_count) * args.width / 4;
  const int64_t stride = static_cast<int64_t>(thread.grid_x()) * thread.block_size();
  for (int64_t i = static_cast<int64_t>(thread.block_x()) * thread.block_size() + thread.index(); i < count; i += stride) {
    float x[4];
    Load4(args.values + 4 * i, x);
    LOCI_UNROLL
    for (int k = 0; k < 4; ++k) x[k] = 0.5f * x[k] * (1.0f + Erf(x[k] * 0.70710678118654752f));
    Store4(args.values + 4 * i, x);
  }
}

}  // namespace loci::cuda

#endif  // LOCI_ENCODER_CUDA_ROW_BODIES_H_
