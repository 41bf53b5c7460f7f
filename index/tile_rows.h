// Where the rows of a tile of scores are, and which rows it asks for ahead.
//
// Memory is asked for little by little, a few lines at each step of the products: where a tile asks for all at once, its own rows wait behind them.
// For files that are compiled with flags of their own, and for these alone: in an unnamed namespace, so that no other file's linker takes code from
// here. What prefetches is inlined for certain: g++ 12 takes a function that does nothing else for one without effect, and leaves out its calls.
#ifndef LOCI_INDEX_TILE_ROWS_H_
#define LOCI_INDEX_TILE_ROWS_H_

#include <cstdint>

namespace loci {
namespace {

constexpr int kLineBytes = 64;
// Chunks of 16 elements between one asking and the next.
constexpr int kChunksPerPrefetch = 4;
constexpr int PrefetchesOf(int chunks) { return (chunks + kChunksPerPrefetch - 1) / kChunksPerPrefetch; }

// A block of rows; ahead are `prefetch_bytes` from `prefetch` on.
class BlockRows {
 public:
  BlockRows(const void* rows, int64_t row_bytes, const char* prefetch, int64_t prefetch_bytes)
      : rows_(static_cast<const char*>(rows)), row_bytes_(row_bytes), next_(prefetch), end_(prefetch + prefetch_bytes) {}

  const char* row(int64_t i) const { return rows_ + i * row_bytes_; }

  // What is left to ask for goes to the next `steps` calls of PrefetchMore.
  void SpreadOver(int64_t steps) { lines_ = ((end_ - next_ + kLineBytes - 1) / kLineBytes + steps - 1) / steps; }
  [[gnu::always_inline]] void PrefetchMore() {
    for (int64_t i = 0; i < lines_ && next_ < end_; ++i, next_ += kLineBytes) __builtin_prefetch(next_, 0, 2);
  }

 private:
  const char* rows_;
  int64_t row_bytes_;
  const char* next_;
  const char* end_;
  int64_t lines_ = 0;
};

// Rows anywhere; ahead are `prefetch_count` of the same size.
class GatheredRows {
 public:
  GatheredRows(const void* const* rows, int64_t row_bytes, const void* const* prefetch, int64_t prefetch_count)
      : rows_(rows), row_bytes_(row_bytes), next_(prefetch), end_(prefetch + prefetch_count) {}

  const char* row(int64_t i) const { return static_cast<const char*>(rows_[i]); }

  // As BlockRows's.
  void SpreadOver(int64_t steps) {
    const int64_t lines = (end_ - next_) * ((row_bytes_ + kLineBytes - 1) / kLineBytes) - at_ / kLineBytes;
    lines_ = (lines + steps - 1) / steps;
  }
  [[gnu::always_inline]] void PrefetchMore() {
    for (int64_t i = 0; i < lines_ && next_ < end_; ++i) {
      __builtin_prefetch(static_cast<const char*>(*next_) + at_, 0, 2);
      at_ += kLineBytes;
      if (at_ < row_bytes_) continue;
      at_ = 0;
      ++next_;
    }
  }

 private:
  const void* const* rows_;
  int64_t row_bytes_;
  const void* const* next_;
  const void* const* end_;
  int64_t at_ = 0;  // Bytes of *next_ that were asked for.
  int64_t lines_ = 0;
};

}  // namespace
}  // namespace loci

#endif  // LOCI_INDEX_TILE_ROWS_H_
