// Kernel bodies of the softmax of all rows: for each query the largest score, the sum of the weights and the weighted sum of the rows, in one pass
// that writes no score. index/softmax_scan.h says what they are for.
//
// Rows that count zero for one query alone come as lists: of each query and part of the grid the tiles in which it skips rows, in the order in which
// the part comes to them, so that its warp holds one place in its list. They are as long as what is skipped, whatever the rows, and nothing has to be
// cleared after a pass.
#ifndef LOCI_INDEX_CUDA_SOFTMAX_BODIES_H_
#define LOCI_INDEX_CUDA_SOFTMAX_BODIES_H_

#include <cstdint>

#include "index/cuda/candidates.h"

namespace loci::cuda {

inline constexpr int kSoftmaxBlockSize = 256;
inline constexpr int kSoftmaxTileRows = 32;    // A lane each while rows are weighed.
inline constexpr int kSoftmaxTileQueries = 8;  // A warp each then.
inline constexpr int kMaxSoftmaxDim = 1024;

// Rows of a tile that one query skips.
struct SoftmaxSkip {
  int32_t tile;
  uint32_t rows;  // Bit r: row tile * kSoftmaxTileRows + r.
};

template <typename T>
struct SoftmaxArgs {
  const T* rows;           // [row_count, dim], readable up to the next multiple of 16 bytes
  const float* queries;    // [query tiles * kSoftmaxTileQueries, padded_dim], zero beyond dim
  const uint32_t* hidden;  // Null, or bit row % 32 of word row / 32.
  // Null, or what query q skips of the tiles p, p + parts, p + 2 parts, ..., ascending, is [skip_begins[i], skip_begins[i + 1]) with i = q * parts + p.
  const SoftmaxSkip* skips;
  const int32_t* skip_begins;  // [query tiles * kSoftmaxTileQueries * parts + 1]
  float* maxima;           // [query tiles * kSoftmaxTileQueries, parts]: of the scores.
  double* sums;            // The same: of 2^((score - maximum) * scale).
  float* weighted;         // Null, or [query tiles * kSoftmaxTileQueries, parts, dim]: of that times the row.
  float* squared_lengths;  // Null, or [parts]: of the longest row that is not hidden; -1 of none.
  float scale;             // log2(e) / temperature.
  int32_t row_count;
  int32_t dim;
  int32_t padded_dim;  // A multiple of 16.
};

constexpr int SoftmaxSharedBytes(int element_size, int dim, int padded_dim) {
  return 4 * kSoftmaxTileQueries * (padded_dim + kSoftmaxTileRows + 1) + 4 * kSoftmaxTileRows + kSoftmaxTileRows * dim * element_size;
}

// Scores are exact_index.h's, bit for bit. Grid: the parts, each of which takes every parts-th tile of rows, times the tiles of queries.
template <typename T, typename Thread>
LOCI_BODY void SoftmaxBody(Thread& thread, const SoftmaxArgs<T>& args) {
  constexpr int kTileRows = kSoftmaxTileRows, kTileQueries = kSoftmaxTileQueries, kPieces = kMaxSoftmaxDim / kSoftmaxBlockSize;
  const int index = thread.index(), lane = thread.lane(), warp = thread.warp(), dim = args.dim, padded_dim = args.padded_dim;
  const int first_query = thread.block_y() * kTileQueries;
  T* const tile = static_cast<T*>(thread.shared());
  float* const queries = reinterpret_cast<float*>(tile + kTileRows * dim);
  float* const weights = queries + kTileQueries * padded_dim;  // [row][query]: scores at first
  float* const factors = weights + kTileRows * kTileQueries;   // [query]: of what was there before this tile
  float* const squares = factors + kTileQueries;               // [row]: squared lengths, where they are asked for
  const bool measures = args.squared_lengths != nullptr && thread.block_y() == 0;
  for (int i = index; i < kTileQueries * padded_dim; i += kSoftmaxBlockSize) {
    queries[i] = args.queries[static_cast<int64_t>(first_query) * padded_dim + i];
  }
  float sums[kPieces][kTileQueries];
  LOCI_UNROLL for (int j = 0; j < kPieces; ++j) { LOCI_UNROLL for (int q = 0; q < kTileQueries; ++q) sums[j][q] = 0; }
  float maximum = -Infinity();  // Of the warp's query, as is `total`.
  double total = 0;
  float longest = -1;  // Of the lane's rows, squared.
  int32_t skip = 0, skip_end = 0;  // What is left of the warp's list.
  if (args.skips != nullptr) {
    const int64_t list = static_cast<int64_t>(first_query + warp) * thread.grid_x() + thread.block_x();
    skip = args.skip_begins[list];
    skip_end = args.skip_begins[list + 1];
  }
  for (int64_t first = static_cast<int64_t>(thread.block_x()) * kTileRows; first < args.row_count;
       first += static_cast<int64_t>(thread.grid_x()) * kTileRows) {
    const int rows = static_cast<int>(args.row_count - first < kTileRows ? args.row_count - first : kTileRows);
    thread.Sync();  // Nobody reads the last tile any longer.
    // A tile begins at a multiple of 16 bytes, whatever the dimension.
    const char* const from = reinterpret_cast<const char*>(args.rows + first * dim);
    const int bytes = rows * dim * static_cast<int>(sizeof(T));
    for (int at = 16 * index; at < bytes; at += 16 * kSoftmaxBlockSize) {
      thread.CopyAsync16(reinterpret_cast<char*>(tile) + at, from + at);
    }
    thread.CommitCopies();
    thread.template WaitCopies<0>();
    thread.Sync();

    // Sixteen lanes take two rows.
    const int half = index / 16, l = index % 16;
    const T* const low_row = tile + half * dim;
    const T* const high_row = tile + (half + kTileRows / 2) * dim;
    float low[kTileQueries], high[kTileQueries];
    LOCI_UNROLL for (int q = 0; q < kTileQueries; ++q) low[q] = high[q] = 0;
    float low_square = 0, high_square = 0;
    for (int d = l; d < padded_dim; d += 16) {
      const float x = d < dim && half < rows ? ToFloat(low_row[d]) : 0.0f;
      const float y = d < dim && half + kTileRows / 2 < rows ? ToFloat(high_row[d]) : 0.0f;
      if (measures) {
        low_square = MultiplyThenAdd(x, x, low_square);
        high_square = MultiplyThenAdd(y, y, high_square);
      }
      LOCI_UNROLL for (int q = 0; q < kTileQueries; ++q) {
        const float z = queries[q * padded_dim + d];
        low[q] = MultiplyThenAdd(z, x, low[q]);
        high[q] = MultiplyThenAdd(z, y, high[q]);
      }
    }
    LOCI_UNROLL for (int q = 0; q < kTileQueries; ++q) {
      for (int mask = 8; mask > 0; mask /= 2) {
        low[q] += thread.ShuffleXor(low[q], mask);
        high[q] += thread.ShuffleXor(high[q], mask);
      }
      if (l == 0) {
        weights[half * kTileQueries + q] = low[q];
        weights[(half + kTileRows / 2) * kTileQueries + q] = high[q];
      }
    }
    if (measures) {
      for (int mask = 8; mask > 0; mask /= 2) {
        low_square += thread.ShuffleXor(low_square, mask);
        high_square += thread.ShuffleXor(high_square, mask);
      }
      if (l == 0) {
        squares[half] = low_square;
        squares[half + kTileRows / 2] = high_square;
      }
    }
    thread.Sync();

    {
      const int64_t row = first + lane;
      const bool visible = lane < rows && (args.hidden == nullptr || (args.hidden[row / 32] >> (row % 32) & 1u) == 0);
      if (measures && visible) longest = Max(longest, squares[lane]);
      uint32_t skipped = 0;
      if (skip < skip_end && args.skips[skip].tile == static_cast<int32_t>(first / kTileRows)) skipped = args.skips[skip++].rows;
      const bool there = visible && (skipped >> lane & 1u) == 0;
      float& weight = weights[lane * kTileQueries + warp];
      const float score = there && weight == weight ? weight : -Infinity();
      float larger = score;
      for (int mask = 16; mask > 0; mask /= 2) larger = Max(larger, thread.ShuffleXor(larger, mask));
      larger = Max(larger, maximum);
      float sum = larger == -Infinity() ? 0 : Exp2((score - larger) * args.scale);
      weight = sum;
      for (int mask = 16; mask > 0; mask /= 2) sum += thread.ShuffleXor(sum, mask);
      const float factor = maximum == -Infinity() ? 0 : Exp2((maximum - larger) * args.scale);
      total = total * factor + sum;
      maximum = larger;
      if (lane == 0) factors[warp] = factor;
    }
    thread.Sync();

    if (args.weighted != nullptr) {
      LOCI_UNROLL for (int j = 0; j < kPieces; ++j) {
        const int d = index + j * kSoftmaxBlockSize;
        if (d >= dim) continue;
        LOCI_UNROLL for (int q = 0; q < kTileQueries; ++q) sums[j][q] *= factors[q];
        for (int r = 0; r < rows; ++r) {
          const float x = ToFloat(tile[r * dim + d]);
          LOCI_UNROLL for (int q = 0; q < kTileQueries; ++q) sums[j][q] =
              MultiplyThenAdd(weights[r * kTileQueries + q], x, sums[j][q]);
        }
      }
    }
  }

  const int64_t part = static_cast<int64_t>(first_query + warp) * thread.grid_x() + thread.block_x();
  if (lane == 0) {
    args.maxima[part] = maximum;
    args.sums[part] = total;
  }
  if (measures && warp == 0) {
    for (int mask = 16; mask > 0; mask /= 2) longest = Max(longest, thread.ShuffleXor(longest, mask));
    if (lane == 0) args.squared_lengths[thread.block_x()] = longest;
  }
  if (args.weighted != nullptr) {
    LOCI_UNROLL for (int j = 0; j < kPieces; ++j) {
      const int d = index + j * kSoftmaxBlockSize;
      if (d >= dim) continue;
      LOCI_UNROLL for (int q = 0; q < kTileQueries; ++q) {
        args.weighted[(static_cast<int64_t>(first_query + q) * thread.grid_x() + thread.block_x()) * dim + d] = sums[j][q];
      }
    }
  }
}

struct SoftmaxMergeArgs {
  const float* maxima;
  const double* sums;
  const float* weighted;
  double* out;  // [queries, 2 + dim]: the maximum, the sum and, where `weighted` is not null, the weighted sum, of all parts.
  float scale;
  int32_t parts;
  int32_t dim;
};

// Parts are added in their order. Grid: a block of kSoftmaxBlockSize threads for each query.
template <typename Thread>
LOCI_BODY void SoftmaxMergeBody(Thread& thread, const SoftmaxMergeArgs& args) {
  const int64_t first = static_cast<int64_t>(thread.block_x()) * args.parts;
  double* const out = args.out + static_cast<int64_t>(thread.block_x()) * (2 + args.dim);
  float maximum = -Infinity();
  for (int32_t i = 0; i < args.parts; ++i) maximum = Max(maximum, args.maxima[first + i]);
  const auto factor_of = [&](int32_t i) {
    const float largest = args.maxima[first + i];
    return largest == -Infinity() ? 0.0f : Exp2((largest - maximum) * args.scale);
  };
  if (thread.index() == 0) {
    double sum = 0;
    for (int32_t i = 0; i < args.parts; ++i) sum += factor_of(i) * args.sums[first + i];
    out[0] = maximum;
    out[1] = sum;
  }
  if (args.weighted == nullptr) return;
  for (int d = thread.index(); d < args.dim; d += thread.block_size()) {
    double sum = 0;
    for (int32_t i = 0; i < args.parts; ++i) sum += static_cast<double>(factor_of(i)) * args.weighted[(first + i) * args.dim + d];
    out[2 + d] = sum;
  }
}

}  // namespace loci::cuda

#endif  // LOCI_INDEX_CUDA_SOFTMAX_BODIES_H_
