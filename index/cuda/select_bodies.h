// The choice among candidates, and their scores.
//
// Select raises a query's threshold to the top_k-th largest lower bound and drops what is below it. Rescore gives candidates their scores in
// exact_index.h's order of summation, and SelectExact sorts out the top_k best of (score, row).
#ifndef LOCI_INDEX_CUDA_SELECT_BODIES_H_
#define LOCI_INDEX_CUDA_SELECT_BODIES_H_

#include <cstdint>

#include "index/cuda/candidates.h"

namespace loci::cuda {

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

#endif  // LOCI_INDEX_CUDA_SELECT_BODIES_H_
