// Kernel bodies of attention (encoder/kernels/attention.h): one on matrix instructions for heads of 32 and 64 in 16 bits, one for every
// other head and for float32. A row's bits depend on its own sequence alone: which tile, block or batch it is in does not show.
#ifndef LOCI_ENCODER_CUDA_ATTENTION_BODIES_H_
#define LOCI_ENCODER_CUDA_ATTENTION_BODIES_H_

#include "encoder/cuda/row_bodies.h"

namespace loci::cuda {

template <typename T>
struct AttentionArgs {
  T* context;  // [tokens, head_count * head_dim]
  const int32_t* batch;
  const T* qkv;  // [tokens, 3 * head_count * head_dim]
  int head_count;
  int head_dim;
  float scale;  // log2(e) / sqrt(head_dim): the softmax is in powers of two.
};

// ---- Matrix instructions ----

inline constexpr int kMatrixAttentionBlockSize = 32 * kTileRows / 16;  // A warp has 16 rows of queries.
inline constexpr int kKeysPerStep = 64;

// Bytes from one key's row to the next in shared memory, in elements: 16 bytes more than a row, so that eight rows lie in different banks.
template <int kHeadDim>
inline constexpr int kKeyStride = kHeadDim + 8;

template <int kHeadDim>
inline constexpr int kMatrixAttentionSharedBytes = 2 * 2 * kKeysPerStep* kKeyStride<kHeadDim>;

// Fills `to` [kKeysPerStep, kKeyStride] with rows first, first + 1, ... of one head's keys or values; zeros from `end` on.
template <int kHeadDim, typename T, typename Thread>
LOCI_BODY void LoadKeys(Thread& thread, T* to, const T* from, int64_t row_stride, int first, int end) {
  constexpr int kPieces = kHeadDim / 8;
  for (int i = thread.index(); i < kKeysPerStep * kPieces; i += kMatrixAttentionBlockSize) {
    const int key = i / kPieces, piece = i % kPieces;
    T* const place = to + key * kKeyStride<kHeadDim> + 8 * piece;
    if (first + key < end) {
      Copy16(place, from + (first + key) * row_stride + 8 * piece);
    } else {
      Zero16(place);
    }
  }
}

// scores [8][4]: the warp's 16 rows of queries times kKeysPerStep keys, as accumulators of MultiplyAdd.
template <int kHeadDim, typename T, typename Thread>
LOCI_BODY void Scores(Thread& thread, const uint32_t (&query)[kHeadDim / 16][4], const T* keys,
                      float (&scores)[kKeysPerStep / 8][4]) {
  const int g = thread.lane() / 4, t = thread.lane() % 4;
  LOCI_UNROLL
  for (int n = 0; n < kKeysPerStep / 8; ++n) {
    LOCI_UNROLL
    for (int i = 0; i < 4; ++i) scores[n][i] = 0;
    LOCI_UNROLL
    for (int k = 0; k < kHeadDim / 16; ++k) {
      const T* const key = keys + (8 * n + g) * kKeyStride<kHeadDim> + 16 * k + 2 * t;
      thread.template MultiplyAdd<T>(scores[n], query[k], Load2(key), Load2(key + 8));
    }
  }
}

// Grid: any number of blocks of kMatrixAttentionBlockSize times head_count. Two passes over the keys: the first finds each row's largest
// score, the second sums powers and values, so that nothing is rescaled and the order of summation is that of the keys.
template <int kHeadDim, typename T, typename Thread>
LOCI_BODY void MatrixAttentionBody(Thread& thread, const AttentionArgs<T>& args) {
  const DeviceBatchHeader& header = *reinterpret_cast<const DeviceBatchHeader*>(args.batch);
  const int32_t* const offsets = args.batch + header.offsets_at;
  const int32_t* const tiles = args.batch + header.tiles_at;
  T* const keys = static_cast<T*>(thread.shared());
  T* const values = keys + kKeysPerStep * kKeyStride<kHeadDim>;
  const int g = thread.lane() / 4, t = thread.lane() % 4;
  const int hidden = args.head_count * kHeadDim;
  const int64_t row_stride = 3 * static_cast<int64_t>(hidden);
  const int head = thread.block_y();
  constexpr float kNone = -3.402823466e38f;

  for (int tile = thread.block_x(); tile < header.tile_count; tile += thread.grid_x()) {
    const int sequence = tiles[2 * tile];
    const int begin = offsets[sequence], length = offsets[sequence + 1] - begin;
    // Rows g and g + 8 of the warp's 16.
    const int first_row = tiles[2 * tile + 1] + 16 * thread.warp();
    const bool has[2] = {first_row + g < length, first_row + g + 8 < length};
    const T* const q = args.qkv + begin * row_stride + head * kHeadDim;
    const T* const k_of_head = q + hidden;
    const T* const v_of_head = k_of_head + hidden;

    uint32_t query[kHeadDim / 16][4];
    LOCI_UNROLL
    for (int k = 0; k < kHeadDim / 16; ++k) {
      LOCI_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int row = first_row + g + 8 * (i % 2);
        query[k][i] = has[i % 2] ? Load2(q + row * row_stride + 16 * k + 2 * t + 8 * (i / 2)) : 0u;
      }
    }

    float scores[kKeysPerStep / 8][4];
    float largest[2] = {kNone, kNone};
    for (int first = 0; first < length; first += kKeysPerStep) {
      thread.Sync();  // All warps are done with what is there.
      LoadKeys<kHeadDim>(thread, keys, k_of_head, row_stride, first, length);
      thread.Sync();
      Scores<kHeadDim>(thread, query, keys, scores);
      LOCI_UNROLL
      for (int n = 0; n < kKeysPerStep / 8; ++n) {
        LOCI_UNROLL
        for (int i = 0; i < 4; ++i) {
          if (first + 8 * n + 2 * t + i % 2 < length) largest[i / 2] = Max(largest[i / 2], scores[n][i]);
        }
      }
    }
    LOCI_UNROLL
    for (int r = 0; r < 2; ++r) {
      // The four lanes of a row are neighbours.
      largest[r] = Max(largest[r], thread.ShuffleXor(largest[r], 1));
      largest[r] = Max(largest[r], thread.ShuffleXor(largest[r], 2)) * args.scale;
    }

    float sum[2] = {0, 0};
    float context[kHeadDim / 8][4];
    LOCI_UNROLL
    for (int n = 0; n < kHeadDim / 8; ++n) {
      LOCI_UNROLL
      for (int i = 0; i < 4; ++i) context[n][i] = 0;
    }
    for (int first = 0; first < length; first += kKeysPerStep) {
      thread.Sync();
      // One step's keys are still there.
      if (length > kKeysPerStep) LoadKeys<kHeadDim>(thread, keys, k_of_head, row_stride, first, length);
      LoadKeys<kHeadDim>(thread, values, v_of_head, row_stride, first, length);
      thread.Sync();
      Scores<kHeadDim>(thread, query, keys, scores);
      LOCI_UNROLL
      for (int n = 0; n < kKeysPerStep / 8; ++n) {
        LOCI_UNROLL
        for (int i = 0; i < 4; ++i) {
          const bool inside = first + 8 * n + 2 * t + i % 2 < length;
          const float power = inside ? Exp2(scores[n][i] * args.scale - largest[i / 2]) : 0.0f;
          sum[i / 2] += power;
          scores[n][i] = power;
        }
      }
      LOCI_UNROLL
      for (int k = 0; k < kKeysPerStep / 16; ++k) {
        // Accumulators of two neighbouring column blocks are a factor of the next product.
        const uint32_t weights[4] = {Pack2<T>(scores[2 * k][0], scores[2 * k][1]), Pack2<T>(scores[2 * k][2], scores[2 * k][3]),
                                     Pack2<T>(scores[2 * k + 1][0], scores[2 * k + 1][1]),
                                     Pack2<T>(scores[2 * k + 1][2], scores[2 * k + 1][3])};
        LOCI_UNROLL
        for (int n = 0; n < kHeadDim / 16; ++n) {
          // Matrices: keys 0-7 and 8-15 of columns 0-7, then of columns 8-15.
          const int lane = thread.lane();
          const int key = 16 * k + lane % 16, column = 16 * n + 8 * (lane / 16);
          uint32_t factor[4];
          thread.LoadMatricesTransposed(factor, values + key * kKeyStride<kHeadDim> + column);
          thread.template MultiplyAdd<T>(context[2 * n], weights, factor[0], factor[1]);
          thread.template MultiplyAdd<T>(context[2 * n + 1], weights, factor[2], factor[3]);
        }
      }
    }
    LOCI_UNROLL
    for (int r = 0; r < 2; ++r) {
      sum[r] += thread.ShuffleXor(sum[r], 1);
      sum[r] += thread.ShuffleXor(sum[r], 2);
      if (!has[r]) continue;
      const float factor = 1.0f / sum[r];
      T* const out = args.context + (begin + first_row + g + 8 * r) * static_cast<int64_t>(hidden) + head * kHeadDim + 2 * t;
      LOCI_UNROLL
      for (int n = 0; n < kHeadDim / 8; ++n)
        Store2(out + 8 * n, Pack2<T>(context[n][2 * r] * factor, context[n][2 * r + 1] * factor));
    }
  }
}

// ---- Any head ----

inline constexpr int kPlainAttentionBlockSize = 128;
inline constexpr int kPlainAttentionWarps = kPlainAttentionBlockSize / 32;
inline constexpr int kMaxAttentionLength = 512;
inline constexpr int kPlainAttentionSharedBytes = 4 * kPlainAttentionWarps * kMaxAttentionLength;

// One warp a row of queries; the row's scores lie in shared memory, whole. Sequences have at most kMaxAttentionLength tokens. Grid: any
// number of blocks of kPlainAttentionBlockSize times head_count.
template <typename T, typename Thread>
LOCI_BODY void PlainAttentionBody(Thread& thread, const AttentionArgs<T>& args) {
  const DeviceBatchHeader& header = *reinterpret_cast<const DeviceBatchHeader*>(args.batch);
  const int32_t* const offsets = args.batch + header.offsets_at;
  const int32_t* const tiles = args.batch + header.tiles_at;
  float* const scores = static_cast<float*>(thread.shared()) + thread.warp() * kMaxAttentionLength;
  const int lane = thread.lane();
  const int hidden = args.head_count * args.head_dim;
  const int64_t row_stride = 3 * static_cast<int64_t>(hidden);
  const int head = thread.block_y();
  for (int tile = thread.block_x(); tile < header.tile_count; tile += thread.grid_x()) {
    const int sequence = tiles[2 * tile], first_row = tiles[2 * tile + 1];
    const int begin = offsets[sequence], length = offsets[sequence + 1] - begin;
    const int rows = Min(kTileRows, length - first_row);
    const T* const of_head = args.qkv + begin * row_stride + head * args.head_dim;
    // The same number of rounds for each warp: Sync is the block's.
    for (int round = 0; round < rows; round += kPlainAttentionWarps) {
      const int row = round + thread.warp();
      const bool has = row < rows;
      const T* const q = of_head + (first_row + (has ? row : 0)) * row_stride;
      float largest = -3.402823466e38f;
      for (int key = lane; key < length; key += 32) {
        const T* const k = of_head + key * row_stride + hidden;
        float dot = 0;
        for (int d = 0; d < args.head_dim; ++d) dot += ToFloat(q[d]) * ToFloat(k[d]);
        scores[key] = dot * args.scale;
        largest = Max(largest, scores[key]);
      }
      largest = WarpMax(thread, largest);
      float sum = 0;
      for (int key = lane; key < length; key += 32) {
        scores[key] = Exp2(scores[key] - largest);
        sum += scores[key];
      }
      const float factor = 1.0f / WarpSum(thread, sum);
      thread.Sync();
      if (has) {
        T* const out = args.context + static_cast<int64_t>(begin + first_row + row) * hidden + head * args.head_dim;
        for (int d = lane; d < args.head_dim; d += 32) {
          const T* const v = of_head + 2 * hidden + d;
          float x = 0;
          for (int key = 0; key < length; ++key) x += scores[key] * ToFloat(v[key * row_stride]);
          out[d] = FromFloat<T>(x * factor);
        }
      }
      thread.Sync();  // Before the next row's scores.
    }
  }
}

}  // namespace loci::cuda

#endif  // LOCI_ENCODER_CUDA_ATTENTION_BODIES_H_
