#include "index/graph_search.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"

namespace loci {
namespace {

// What a search with many candidates grew is not kept for others.
constexpr size_t kMaxKeptBytes = size_t{1} << 20;
// Rows that are gone on from between looks at the limits: a millisecond or two.
constexpr int64_t kCheckRows = 256;

// A row and its score in one number: of two rows the one with the higher score has the larger key, of equal scores the earlier row.
uint64_t KeyOf(float score, int32_t row) {
  uint32_t bits;
  score += 0.0f;  // -0 is 0.
  __builtin_memcpy(&bits, &score, sizeof(bits));
  bits ^= bits >> 31 != 0 ? 0xFFFFFFFFu : 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | ~static_cast<uint32_t>(row);
}
int32_t RowOf(uint64_t key) { return static_cast<int32_t>(~static_cast<uint32_t>(key)); }

// The larger the key, the better. Replaces the worst of `heap` (a heap by std::greater).
void ReplaceWorst(std::vector<uint64_t>& heap, uint64_t key) {
  const size_t size = heap.size();
  size_t at = 0;
  for (size_t child = 1; child < size; child = 2 * at + 1) {
    child += child + 1 < size && heap[child + 1] < heap[child];
    if (heap[child] >= key) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = key;
}

absl::Status CheckGraph(const faiss::HNSW& graph, int64_t rows) {
  const auto damaged = [](const auto&... what) { return absl::DataLossError(absl::StrCat("the graph is damaged: ", what...)); };
  const std::vector<int>& ends = graph.cum_nneighbor_per_level;
  if (static_cast<int64_t>(graph.levels.size()) != rows || static_cast<int64_t>(graph.offsets.size()) != rows + 1) {
    return damaged("it has ", graph.levels.size(), " rows, not ", rows);
  }
  if (graph.offsets[0] != 0 || graph.offsets.back() != graph.neighbors.size())
    return damaged("its links are not ", graph.offsets.back());
  if (ends.empty() || ends[0] != 0 || !std::is_sorted(ends.begin(), ends.end())) return damaged("its levels are not in order");
  const auto level_count = [&](int64_t row) { return static_cast<int64_t>(graph.levels[static_cast<size_t>(row)]); };
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t levels = level_count(row);
    if (levels < 1 || levels >= static_cast<int64_t>(ends.size()) ||
        graph.offsets[static_cast<size_t>(row) + 1] - graph.offsets[static_cast<size_t>(row)] !=
            static_cast<size_t>(ends[static_cast<size_t>(levels)])) {
      return damaged("row ", row, " has ", levels, " levels");
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t level = 0; level < level_count(row); ++level) {
      const size_t first = graph.offsets[static_cast<size_t>(row)];
      for (size_t i = first + static_cast<size_t>(ends[static_cast<size_t>(level)]);
           i < first + static_cast<size_t>(ends[static_cast<size_t>(level) + 1]); ++i) {
        const int64_t other = graph.neighbors[i];
        if (other < 0) break;
        if (other >= rows || level_count(other) <= level)
          return damaged("row ", row, " is linked to ", other, " on level ", level);
      }
    }
  }
  if (rows > 0 && (graph.entry_point < 0 || graph.entry_point >= rows || graph.max_level < 0 ||
                   level_count(graph.entry_point) <= graph.max_level)) {
    return damaged("it begins at row ", graph.entry_point, " of level ", graph.max_level);
  }
  return absl::OkStatus();
}

}  // namespace

// Used by one thread at a time.
struct GraphSearch::Scratch {
  explicit Scratch(int64_t row_count) : seen(static_cast<size_t>((row_count + 63) / 64)) {}

  // Whether this is the first time.
  bool See(int32_t row) {
    uint64_t& word = seen[static_cast<size_t>(row) / 64];
    const uint64_t bit = uint64_t{1} << (row % 64);
    if ((word & bit) != 0) return false;
    word |= bit;
    touched.push_back(row);
    return true;
  }
  // That grew with what searches looked at.
  size_t room_bytes() const {
    return touched.capacity() * sizeof(touched[0]) + (next.capacity() + best.capacity() + visible.capacity()) * sizeof(next[0]);
  }
  void Forget() {
    for (const int32_t row : touched) seen[static_cast<size_t>(row) / 64] = 0;
    touched.clear();
  }

  std::vector<uint64_t> seen;
  std::vector<int32_t> touched;  // Rows that were seen.
  std::vector<uint64_t> next;    // Keys of rows to go on from, a heap with the best one first.
  std::vector<uint64_t> best;    // Keys of the best rows that were seen, a heap with the worst one first.
  std::vector<uint64_t> visible;
  std::vector<int32_t> rows;  // What is scored together:
  std::vector<int32_t> products;
  std::vector<float> scores;
};

absl::StatusOr<std::unique_ptr<GraphSearch>> GraphSearch::Create(faiss::HNSW graph, const VectorFile& vectors, ScanIsa isa,
                                                                 const std::function<absl::Status()>& check) {
  LOCI_RETURN_IF_ERROR(CheckGraph(graph, vectors.rows()));
  const auto copy_row = [&](int64_t row, float* out) { vectors.CopyRow(row, out); };
  LOCI_ASSIGN_OR_RETURN(RowCodes codes, RowCodes::Create(vectors.rows(), vectors.dim(), isa, copy_row, check));
  return std::unique_ptr<GraphSearch>(new GraphSearch(std::move(graph), vectors.dim(), std::move(codes)));
}

GraphSearch::GraphSearch(faiss::HNSW graph, int dim, RowCodes codes)
    : graph_(std::move(graph)), dim_(dim), codes_(std::move(codes)) {}

GraphSearch::~GraphSearch() = default;

int64_t GraphSearch::memory_bytes() const {
  return codes_.memory_bytes() + static_cast<int64_t>(graph_.neighbors.size() * sizeof(graph_.neighbors[0]) +
                                                      graph_.offsets.size() * sizeof(graph_.offsets[0]) +
                                                      graph_.levels.size() * sizeof(graph_.levels[0]));
}

void GraphSearch::ScoreAll(const RowCodeQuery& query, Scratch& scratch) const {
  const size_t count = scratch.rows.size();
  if (scratch.scores.size() < count) {
    scratch.products.resize(count);
    scratch.scores.resize(count);
  }
  codes_.Score(query, scratch.rows.data(), static_cast<int64_t>(count), scratch.products.data(), scratch.scores.data());
}

absl::Status GraphSearch::Search(const float* query, int64_t ef_search, const RowMask& hidden, const RequestLimits& limits,
                                 std::vector<int64_t>* rows) const {
  rows->clear();
  if (graph_.levels.empty()) return absl::OkStatus();
  std::unique_ptr<Scratch> scratch;
  {
    MutexLock lock(&mutex_);
    if (!scratch_.empty()) {
      scratch = std::move(scratch_.back());
      scratch_.pop_back();
    }
  }
  if (scratch == nullptr) scratch = std::make_unique<Scratch>(static_cast<int64_t>(graph_.levels.size()));
  const absl::Status status = SearchWith(query, ef_search, hidden, limits, *scratch, rows);
  scratch->Forget();
  if (scratch->room_bytes() > kMaxKeptBytes) return status;
  MutexLock lock(&mutex_);
  scratch_.push_back(std::move(scratch));
  return status;
}

absl::Status GraphSearch::SearchWith(const float* query, int64_t ef_search, const RowMask& hidden, const RequestLimits& limits,
                                     Scratch& scratch, std::vector<int64_t>* rows) const {
  const RoundedQuery rounded(query, dim_, codes_.stride(), codes_.isa());
  const RowCodeQuery codes = rounded.codes();
  const int32_t* const links = graph_.neighbors.data();
  const auto begin = [&](int32_t row, int level) {
    return graph_.offsets[static_cast<size_t>(row)] +
           static_cast<size_t>(graph_.cum_nneighbor_per_level[static_cast<size_t>(level)]);
  };

  // From the highest level down to the best row of each, as far as going on to a better neighbour leads.
  scratch.rows.assign(1, graph_.entry_point);
  ScoreAll(codes, scratch);
  uint64_t nearest = KeyOf(scratch.scores[0], graph_.entry_point);
  for (int level = graph_.max_level; level >= 1; --level) {
    for (uint64_t before = 0; before != nearest;) {
      before = nearest;
      scratch.rows.clear();
      const int32_t row = RowOf(nearest);
      for (size_t i = begin(row, level), end = begin(row, level + 1); i < end && links[i] >= 0; ++i)
        scratch.rows.push_back(links[i]);
      ScoreAll(codes, scratch);
      for (size_t i = 0; i < scratch.rows.size(); ++i) nearest = std::max(nearest, KeyOf(scratch.scores[i], scratch.rows[i]));
    }
  }

  const size_t limit = static_cast<size_t>(ef_search);
  const bool masked = hidden.hidden_count() > 0;
  scratch.next.clear();
  scratch.best.clear();
  scratch.visible.clear();
  const auto keep_visible = [&](uint64_t key) {
    if (hidden.hidden(RowOf(key))) return;
    if (scratch.visible.size() < limit) {
      scratch.visible.push_back(key);
      std::push_heap(scratch.visible.begin(), scratch.visible.end(), std::greater<>());
    } else if (key > scratch.visible.front()) {
      ReplaceWorst(scratch.visible, key);
    }
  };
  scratch.See(RowOf(nearest));
  scratch.next.push_back(nearest);
  scratch.best.push_back(nearest);
  if (masked) keep_visible(nearest);
  for (int64_t gone_on_from = 1; !scratch.next.empty(); ++gone_on_from) {
    if (gone_on_from % kCheckRows == 0) LOCI_RETURN_IF_ERROR(limits.Check(RealClock().NowMicros()));
    const uint64_t from = scratch.next.front();
    if (scratch.best.size() >= limit && from < scratch.best.front()) break;
    std::pop_heap(scratch.next.begin(), scratch.next.end());
    scratch.next.pop_back();
    scratch.rows.clear();
    for (size_t i = begin(RowOf(from), 0), end = begin(RowOf(from), 1); i < end && links[i] >= 0; ++i) {
      if (!scratch.See(links[i])) continue;
      scratch.rows.push_back(links[i]);
      if (scratch.rows.size() <= 8) codes_.Prefetch(links[i]);
    }
    ScoreAll(codes, scratch);
    for (size_t i = 0; i < scratch.rows.size(); ++i) {
      const uint64_t key = KeyOf(scratch.scores[i], scratch.rows[i]);
      if (masked) keep_visible(key);
      if (scratch.best.size() < limit) {
        scratch.best.push_back(key);
        std::push_heap(scratch.best.begin(), scratch.best.end(), std::greater<>());
      } else if (key > scratch.best.front()) {
        ReplaceWorst(scratch.best, key);
      } else {
        continue;
      }
      __builtin_prefetch(&graph_.offsets[static_cast<size_t>(RowOf(key))]);
      scratch.next.push_back(key);
      std::push_heap(scratch.next.begin(), scratch.next.end());
    }
    if (!scratch.next.empty()) {
      const size_t first = begin(RowOf(scratch.next.front()), 0);
      for (int64_t line = 0; line < 4; ++line) __builtin_prefetch(links + first + 16 * line);
    }
  }
  const std::vector<uint64_t>& found = masked ? scratch.visible : scratch.best;
  rows->reserve(found.size());
  for (const uint64_t key : found) rows->push_back(RowOf(key));
  return absl::OkStatus();
}

}  // namespace loci
