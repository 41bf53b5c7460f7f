// The certified pass over 8-bit codes.
//
// It is index/certified_scan.h's, its arithmetic included: integer products, which matrix units give exactly, and for each a bound of its distance to
// the score. Rows whose upper bound reaches the query's threshold are appended to the query's list of candidates.
#ifndef LOCI_INDEX_CUDA_SCAN_BODY_H_
#define LOCI_INDEX_CUDA_SCAN_BODY_H_

#include <cstdint>

#include "index/cuda/candidates.h"

namespace loci::cuda {

// Codes of a row or query are signed bytes, `depth` of them: the dimension rounded up to 32, the rest zero.
struct ScanArgs {
  const int8_t* codes;          // [rows rounded up to tiles, depth]
  const float* inverse_scales;  // Of rows: PanelHeader's figures, [rows rounded up to tiles] each.
  const float* lengths;
  const float* errors;
  const uint32_t* hidden;          // Null, or bit row % 32 of word row / 32.
  const int8_t* query_codes;       // [query_count rounded up to tiles, depth]
  const QueryBound* bounds;        // [query_count]
  const float* scaled_thresholds;  // [query_count]: the threshold, less underflow, times the query's inverse_scale.
  Candidate* candidates;           // [query_count, capacity]
  int32_t* counts;                 // [query_count]: of candidates; more than the capacity where some were lost.
  double underflow;                // What roundings below the normal numbers may change a score by.
  int64_t tile_count;              // Of rows.
  int64_t tile_stride;             // Without a common divisor with tile_count. Position i is tile i * tile_stride % tile_count.
  int64_t first_position;          // Those of this launch: a sample of all rows, whatever their order.
  int64_t end_position;
  int32_t capacity;
  int32_t rows;
  int32_t depth;
  int32_t query_count;
};

// Products of tiles of kTileRows rows and kTileQueries queries, a block each; the queries stay in shared memory while the block takes every grid_x-th
// tile of rows, the next being copied meanwhile. Warps are kWarpsM x kWarpsN, with kFragmentsM x 16 rows and kFragmentsN x 8 queries each.
// What survives of a tile is gathered in shared memory, a piece at a time, and appended to the lists by all threads alike: the products themselves are
// judged without a branch.
// Grid: any number of blocks times the tiles of queries.
template <int kWarpsM_, int kWarpsN_, int kFragmentsM_, int kFragmentsN_, int kStages_>
struct ScanTiling {
  static constexpr int kWarpsM = kWarpsM_, kWarpsN = kWarpsN_, kFragmentsM = kFragmentsM_, kFragmentsN = kFragmentsN_,
                       kStages = kStages_;
  static constexpr int kBlockSize = 32 * kWarpsM * kWarpsN;
  static constexpr int kTileRows = 16 * kFragmentsM * kWarpsM;
  static constexpr int kTileQueries = 8 * kFragmentsN * kWarpsN;
  static_assert(kFragmentsN % 2 == 0, "queries are loaded 16 at a time");
  static_assert(kFragmentsM <= 4, "a word has the bits of two fragments of queries");

  // Rows of 16 bytes more, so that eight of them lie in different banks.
  static constexpr int RowStride(int depth) { return depth + 16; }
  static constexpr int StageBytes(int depth) { return kTileRows * (RowStride(depth) + 3 * 4); }
  // Of a tile, that are held at a time.
  static constexpr int kSurvivors = kTileRows * kTileQueries / 8 < 2048 ? kTileRows * kTileQueries / 8 : 2048;
  static constexpr int SharedBytes(int depth) {
    return kTileQueries * (RowStride(depth) + 16) + kStages * StageBytes(depth) + kSurvivors * 8 + 16;
  }
};

// A product of a tile that may belong to one of the best rows.
struct Survivor {
  int32_t product;
  int32_t at;  // Row of the tile * kTileQueries + query of the tile.
};

template <typename Tiling, typename Thread>
LOCI_BODY void ScanBody(Thread& thread, const ScanArgs& args) {
  constexpr int kTileRows = Tiling::kTileRows, kTileQueries = Tiling::kTileQueries;
  constexpr int kFragmentsM = Tiling::kFragmentsM, kFragmentsN = Tiling::kFragmentsN;
  const int depth = args.depth, stride = Tiling::RowStride(depth), pieces = depth / 16;
  const int lane = thread.lane(), warp_m = thread.warp() / Tiling::kWarpsN, warp_n = thread.warp() % Tiling::kWarpsN;
  const int first_query = thread.block_y() * kTileQueries;
  char* const queries = static_cast<char*>(thread.shared());
  float* const query_figures = reinterpret_cast<float*>(queries + kTileQueries * stride);  // threshold, two factors, slack
  char* const stages = reinterpret_cast<char*>(query_figures + 4 * kTileQueries);
  Survivor* const survivors = reinterpret_cast<Survivor*>(stages + Tiling::kStages * Tiling::StageBytes(depth));
  int32_t* const survivor_counts = reinterpret_cast<int32_t*>(survivors + Tiling::kSurvivors);  // Of this round and the next.

  for (int i = thread.index(); i < kTileQueries * pieces; i += thread.block_size()) {
    const int q = i / pieces, piece = i % pieces;
    thread.CopyAsync16(queries + q * stride + 16 * piece,
                       args.query_codes + static_cast<int64_t>(first_query + q) * depth + 16 * piece);
  }
  for (int q = thread.index(); q < kTileQueries; q += thread.block_size()) {
    const bool has = first_query + q < args.query_count;
    const QueryBound* const bound = args.bounds + first_query + q;
    query_figures[4 * q] = has ? args.scaled_thresholds[first_query + q] : Infinity();
    query_figures[4 * q + 1] = has ? bound->length_factor : 0;
    query_figures[4 * q + 2] = has ? bound->error_factor : 0;
    query_figures[4 * q + 3] = has ? bound->slack : 0;
  }

  const auto first_row_of = [&](int64_t position) { return position * args.tile_stride % args.tile_count * kTileRows; };
  const auto load = [&](int64_t position, int stage) {
    if (position < args.end_position) {
      const int64_t first_row = first_row_of(position);
      char* const rows = stages + stage * Tiling::StageBytes(depth);
      char* const figures = rows + kTileRows * stride;
      for (int i = thread.index(); i < kTileRows * pieces; i += thread.block_size()) {
        const int r = i / pieces, piece = i % pieces;
        thread.CopyAsync16(rows + r * stride + 16 * piece, args.codes + (first_row + r) * depth + 16 * piece);
      }
      for (int i = thread.index(); i < 3 * kTileRows / 4; i += thread.block_size()) {
        const int of = i / (kTileRows / 4), at = i % (kTileRows / 4);
        const float* const from = of == 0 ? args.inverse_scales : of == 1 ? args.lengths : args.errors;
        thread.CopyAsync16(figures + 16 * i, from + first_row + 4 * at);
      }
    }
    thread.CommitCopies();
  };

  if (thread.index() == 0) survivor_counts[0] = 0;
  int64_t position = args.first_position + thread.block_x();
  for (int s = 0; s < Tiling::kStages - 1; ++s) load(position + static_cast<int64_t>(s) * thread.grid_x(), s);
  for (int round = 0; position < args.end_position; ++round, position += thread.grid_x()) {
    thread.template WaitCopies<Tiling::kStages - 2>();
    thread.Sync();  // Copies of all threads are there, and nobody reads any longer what the next ones go to.
    load(position + static_cast<int64_t>(Tiling::kStages - 1) * thread.grid_x(), (round + Tiling::kStages - 1) % Tiling::kStages);

    const char* const rows = stages + round % Tiling::kStages * Tiling::StageBytes(depth);
    const char* const row_base = rows + (warp_m * kFragmentsM * 16 + lane % 16) * stride + lane / 16 * 16;
    const char* const query_base = queries + (warp_n * kFragmentsN * 8 + lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 16;
    int32_t sums[kFragmentsM][kFragmentsN][4];
    LOCI_UNROLL for (int m = 0; m < kFragmentsM; ++m) {
      LOCI_UNROLL for (int n = 0; n < kFragmentsN; ++n) { LOCI_UNROLL for (int i = 0; i < 4; ++i) sums[m][n][i] = 0; }
    }
    for (int d = 0; d < depth; d += 32) {
      uint32_t row_codes[kFragmentsM][4];
      LOCI_UNROLL for (int m = 0; m < kFragmentsM; ++m) thread.LoadMatrices(row_codes[m], row_base + 16 * m * stride + d);
      LOCI_UNROLL for (int n = 0; n < kFragmentsN; n += 2) {
        uint32_t codes[4];
        thread.LoadMatrices(codes, query_base + 8 * n * stride + d);
        LOCI_UNROLL for (int m = 0; m < kFragmentsM; ++m) {
          thread.MultiplyAddInt8(sums[m][n], row_codes[m], codes[0], codes[1]);
          thread.MultiplyAddInt8(sums[m][n + 1], row_codes[m], codes[2], codes[3]);
        }
      }
    }

    const float* const figures = reinterpret_cast<const float*>(rows + kTileRows * stride);
    const int lane_row = warp_m * kFragmentsM * 16 + lane / 4, lane_query = warp_n * kFragmentsN * 8 + lane % 4 * 2;
    float row_figures[2 * kFragmentsM][3];
    LOCI_UNROLL for (int h = 0; h < 2 * kFragmentsM; ++h) {
      LOCI_UNROLL for (int i = 0; i < 3; ++i) row_figures[h][i] = figures[i * kTileRows + lane_row + 8 * h];
    }
    uint32_t kept[kFragmentsN / 2];
    LOCI_UNROLL for (int n = 0; n < kFragmentsN; ++n) {
      if (n % 2 == 0) kept[n / 2] = 0;
      LOCI_UNROLL for (int j = 0; j < 2; ++j) {
        const float* const of = query_figures + 4 * (lane_query + 8 * n + j);
        const float threshold = of[0], length_factor = of[1], error_factor = of[2], slack = of[3];
        LOCI_UNROLL for (int h = 0; h < 2 * kFragmentsM; ++h) {
          const float product = static_cast<float>(sums[h / 2][n][h % 2 * 2 + j]);
          // A NaN is kept.
          const bool below = product + row_figures[h][1] * length_factor + row_figures[h][2] * error_factor + slack <
                             threshold * row_figures[h][0];
          kept[n / 2] |= static_cast<uint32_t>(!below) << ((n % 2 * 2 + j) * 2 * kFragmentsM + h);
        }
      }
    }

    const int64_t first_row = first_row_of(position);
    int32_t* const survivor_count = survivor_counts + round % 2;
    // Of the next round: all have read it, nobody counts with it yet.
    if (thread.index() == 0) survivor_counts[(round + 1) % 2] = 0;
    while (true) {
      LOCI_UNROLL for (int w = 0; w < kFragmentsN / 2; ++w) {
        if (kept[w] == 0) continue;
        LOCI_UNROLL for (int b = 0; b < 8 * kFragmentsM; ++b) {
          if ((kept[w] >> b & 1u) == 0) continue;
          const int32_t slot = thread.AtomicAdd(survivor_count, 1);
          if (slot >= Tiling::kSurvivors) continue;
          kept[w] &= ~(1u << b);
          const int h = b % (2 * kFragmentsM), n = 2 * w + b / (4 * kFragmentsM), j = b / (2 * kFragmentsM) % 2;
          survivors[slot] = {sums[h / 2][n][h % 2 * 2 + j], (lane_row + 8 * h) * kTileQueries + lane_query + 8 * n + j};
        }
      }
      thread.Sync();  // All survivors are there, or as many as are held.
      const int32_t found = *survivor_count;
      for (int i = thread.index(); i < found && i < Tiling::kSurvivors; i += thread.block_size()) {
        const int r = survivors[i].at / kTileQueries, q = survivors[i].at % kTileQueries;
        const int64_t row = first_row + r;
        const int query = first_query + q;
        if (row >= args.rows || query >= args.query_count) continue;
        if (args.hidden != nullptr && (args.hidden[row / 32] >> (row % 32) & 1u) != 0) continue;
        // Where the list is full, to count on would only make all wait for one word.
        if (*const_cast<const volatile int32_t*>(args.counts + query) > args.capacity) continue;
        const int32_t slot = thread.AtomicAdd(args.counts + query, 1);
        if (slot >= args.capacity) continue;
        const float product = static_cast<float>(survivors[i].product);
        const float* const of = query_figures + 4 * q;
        const double distance =
            static_cast<double>(figures[kTileRows + r]) * of[1] + static_cast<double>(figures[2 * kTileRows + r]) * of[2] + of[3];
        const double step = 1 / (static_cast<double>(figures[r]) * args.bounds[query].inverse_scale);
        Candidate candidate = {-Infinity(), Infinity(), static_cast<int32_t>(row)};
        // Else nothing is known of the row.
        if (distance >= 0 && distance < Infinity() && step > 0 && step < Infinity()) {
          candidate.lower = RoundDown((product - distance) * step - args.underflow);
          candidate.upper = RoundUp((product + distance) * step + args.underflow);
        }
        args.candidates[static_cast<int64_t>(query) * args.capacity + slot] = candidate;
      }
      if (found <= Tiling::kSurvivors) break;
      thread.Sync();  // They have been appended.
      if (thread.index() == 0) *survivor_count = 0;
      thread.Sync();
    }
  }
  // None is under way when the block ends.
  thread.template WaitCopies<0>();
}

}  // namespace loci::cuda

#endif  // LOCI_INDEX_CUDA_SCAN_BODY_H_
