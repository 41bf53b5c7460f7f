// Kernel bodies of exact search: the certified pass over 8-bit codes, the choice among what it leaves, and the scores of that.
//
// The first pass is index/certified_scan.h's, its arithmetic included: integer products, which matrix units give exactly, and for each a bound of
// its distance to the score. Rows whose upper bound reaches the query's threshold are appended to the query's list of candidates; Select raises
// the threshold to the top_k-th largest lower bound and drops what is below it. Rescore gives candidates their scores in exact_index.h's order of
// summation, and SelectExact sorts out the top_k best of (score, row).
#ifndef LOCI_INDEX_CUDA_SEARCH_BODIES_H_
#define LOCI_INDEX_CUDA_SEARCH_BODIES_H_

#include <cstdint>
#include <cstring>

#if !defined(__CUDACC__)
#include <cmath>
#include <limits>
#endif

#include "base/cuda/element.h"

namespace loci::cuda {

#if defined(__CUDACC__)
LOCI_BODY float RoundDown(double x) { return __double2float_rd(x); }
LOCI_BODY float RoundUp(double x) { return __double2float_ru(x); }
LOCI_BODY uint32_t BitsOf(float x) { return __float_as_uint(x); }
LOCI_BODY float FloatOf(uint32_t bits) { return __uint_as_float(bits); }
LOCI_BODY float MultiplyThenAdd(float a, float b, float c) { return __fmaf_rn(a, b, c); }
LOCI_BODY float Infinity() { return __uint_as_float(0x7f800000u); }
#else
inline float Infinity() { return std::numeric_limits<float>::infinity(); }
inline float RoundDown(double x) {
  const float rounded = static_cast<float>(x);
  return static_cast<double>(rounded) <= x ? rounded : std::nextafter(rounded, -Infinity());
}
inline float RoundUp(double x) {
  const float rounded = static_cast<float>(x);
  return static_cast<double>(rounded) >= x ? rounded : std::nextafter(rounded, Infinity());
}
inline uint32_t BitsOf(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline float FloatOf(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline float MultiplyThenAdd(float a, float b, float c) { return std::fma(a, b, c); }
#endif

// Numbers in the order of the floats, none of which is NaN; both zeros are one number.
LOCI_BODY uint32_t OrderedBits(float x) {
  const uint32_t bits = x == 0 ? 0 : BitsOf(x);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
LOCI_BODY float FromOrderedBits(uint32_t bits) { return FloatOf((bits & 0x80000000u) != 0 ? bits & 0x7fffffffu : ~bits); }

// A row that may be among the best, with bounds of its score; once rescored both are the score.
struct Candidate {
  float lower;
  float upper;
  int32_t row;
};

struct DeviceHit {
  float score;
  int32_t row;
};

// Of a query: what Int8Bound (index/int8_kernels.h) has, but the threshold.
struct QueryBound {
  float length_factor;
  float error_factor;
  float slack;
  float inverse_scale;  // Of its codes.
};

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

inline constexpr int kSelectBlockSize = 256;

struct SelectArgs {
  const Candidate* from;       // [query_count, capacity]
  const int32_t* from_counts;  // [query_count]; beyond the capacity where candidates were lost.
  int32_t capacity;
  int32_t top_k;
  // Select alone:
  Candidate* to;             // [query_count, capacity], not `from`.
  float* thresholds;         // [query_count]: raised.
  float* scaled_thresholds;  // [query_count]: ScanArgs's, set.
  const QueryBound* bounds;  // [query_count]
  double underflow;
  int32_t* overflows;  // [query_count]: set to 1 where candidates were lost.
  // Of both:
  int32_t* to_counts;  // [query_count]
  // SelectExact alone:
  DeviceHit* hits;  // [query_count, top_k], of which to_counts are set, best first.
};

constexpr int SelectSharedBytes(bool exact, int top_k) { return 4 * (kSelectBlockSize + 4) + (exact ? 12 * top_k : 0); }

// The top_k-th largest lower bound is found digit by digit of 8 bits. Grid: a block of kSelectBlockSize threads for each query.
template <bool kExact, typename Thread>
LOCI_BODY void SelectBody(Thread& thread, const SelectArgs& args) {
  constexpr int kDigits = kExact ? 8 : 4;
  const int query = thread.block_x(), index = thread.index();
  const int32_t all = args.from_counts[query], count = all < args.capacity ? all : args.capacity;
  const Candidate* const from = args.from + static_cast<int64_t>(query) * args.capacity;
  uint64_t* const kept_keys = static_cast<uint64_t*>(thread.shared());
  int32_t* const kept = reinterpret_cast<int32_t*>(kept_keys + (kExact ? args.top_k : 0));
  int32_t* const sums = kept + (kExact ? args.top_k : 0);
  int32_t* const state = sums + kSelectBlockSize;  // The digit, what is to be found below it, the number of those kept.

  // No two are equal where the row is in it.
  const auto key_of = [&](const Candidate& candidate) {
    const uint64_t key = OrderedBits(candidate.lower);
    return kExact ? key << 32 | static_cast<uint32_t>(~candidate.row) : key;
  };
  if (index == 0) state[2] = 0;
  uint64_t last = 0;
  if (count >= args.top_k) {
    int32_t rank = args.top_k;
    for (int digit = kDigits - 1; digit >= 0; --digit) {
      sums[index] = 0;
      thread.Sync();
      for (int32_t i = index; i < count; i += kSelectBlockSize) {
        const uint64_t key = key_of(from[i]) >> (8 * digit);
        if (key >> 8 == last) thread.AtomicAdd(sums + (key & 255u), 1);
      }
      thread.Sync();
      // sums[i] becomes the number of those whose digit is i or larger.
      for (int step = 1; step < 256; step *= 2) {
        const int32_t above = index + step < 256 ? sums[index + step] : 0;
        thread.Sync();
        sums[index] += above;
        thread.Sync();
      }
      const int32_t larger = index < 255 ? sums[index + 1] : 0;
      if (sums[index] >= rank && larger < rank) {
        state[0] = index;
        state[1] = rank - larger;
      }
      thread.Sync();
      last = last << 8 | static_cast<uint32_t>(state[0]);
      rank = state[1];
    }
  } else {
    thread.Sync();
  }

  if constexpr (kExact) {
    for (int32_t i = index; i < count; i += kSelectBlockSize) {
      const uint64_t key = key_of(from[i]);
      if (key < last) continue;
      const int32_t slot = thread.AtomicAdd(state + 2, 1);
      kept_keys[slot] = key;
      kept[slot] = i;
    }
    thread.Sync();
    const int32_t kept_count = state[2];
    for (int32_t i = index; i < kept_count; i += kSelectBlockSize) {
      int32_t rank = 0;
      for (int32_t j = 0; j < kept_count; ++j) rank += kept_keys[j] > kept_keys[i] ? 1 : 0;
      const Candidate& candidate = from[kept[i]];
      args.hits[static_cast<int64_t>(query) * args.top_k + rank] = {candidate.lower, candidate.row};
    }
  } else {
    float threshold = args.thresholds[query];
    if (count >= args.top_k) threshold = Max(threshold, FromOrderedBits(static_cast<uint32_t>(last)));
    Candidate* const to = args.to + static_cast<int64_t>(query) * args.capacity;
    for (int32_t i = index; i < count; i += kSelectBlockSize) {
      if (from[i].upper < threshold) continue;
      to[thread.AtomicAdd(state + 2, 1)] = from[i];
    }
    thread.Sync();  // All have read the old threshold.
    if (index == 0) {
      args.thresholds[query] = threshold;
      args.scaled_thresholds[query] =
          static_cast<float>((static_cast<double>(threshold) - args.underflow) * args.bounds[query].inverse_scale);
      if (all > args.capacity) args.overflows[query] = 1;
    }
  }
  if (index == 0) args.to_counts[query] = state[2];
}

inline constexpr int kRescoreBlockSize = 256;

template <typename T>
struct RescoreArgs {
  const T* rows;          // [rows, dim]
  const float* queries;   // [query_count, padded_dim], zero beyond dim; padded_dim is a multiple of 16.
  Candidate* candidates;  // [query_count, capacity]
  const int32_t* counts;  // [query_count]
  int32_t capacity;
  int32_t dim;
  int32_t padded_dim;
};

// Sixteen lanes a row, as exact_index.h numbers them. Grid: any number of blocks of kRescoreBlockSize times the queries.
template <typename T, typename Thread>
LOCI_BODY void RescoreBody(Thread& thread, const RescoreArgs<T>& args) {
  const int query_number = thread.block_y(), l = thread.lane() % 16;
  const int32_t all = args.counts[query_number], count = all < args.capacity ? all : args.capacity;
  const float* const query = args.queries + static_cast<int64_t>(query_number) * args.padded_dim;
  Candidate* const candidates = args.candidates + static_cast<int64_t>(query_number) * args.capacity;
  const int pairs = thread.block_size() / 32;
  // The same number of rounds for both halves of a warp: both shuffle.
  for (int32_t first = 2 * (thread.block_x() * pairs + thread.warp()); first < count; first += 2 * pairs * thread.grid_x()) {
    const int32_t i = first + thread.lane() / 16;
    const bool has = i < count;
    const T* const row = args.rows + static_cast<int64_t>(candidates[has ? i : first].row) * args.dim;
    float sum = 0;
    for (int d = l; d < args.padded_dim; d += 16) sum = MultiplyThenAdd(query[d], d < args.dim ? ToFloat(row[d]) : 0.0f, sum);
    for (int mask = 8; mask > 0; mask /= 2) sum += thread.ShuffleXor(sum, mask);
    if (has && l == 0) {
      if (sum != sum) sum = -Infinity();
      candidates[i].lower = sum;
      candidates[i].upper = sum;
    }
  }
}

}  // namespace loci::cuda

#endif  // LOCI_INDEX_CUDA_SEARCH_BODIES_H_
