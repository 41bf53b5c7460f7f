#include "index/cuda/cuda_exact_index.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "index/certified_bound.h"
#include "index/exact_index.h"

namespace loci {
namespace {

using cuda::Candidate;
using cuda::DeviceHit;
using cuda::QueryBound;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// How often a query is scanned for before it is left to the CPU.
constexpr int kMaxPasses = 3;
constexpr int kPaddedDimUnit = 16;
// Who waits for a lane looks at its limits so often.
constexpr std::chrono::milliseconds kLaneWait(5);
// What CheckItself compares: the best hits of so many queries at once, of which each takes another tiling.
constexpr int kCheckedHits = 10;
constexpr int64_t kCheckedQueries[] = {3, 33, 258};
// Rows that it scores between two looks at whether it is to end.
constexpr int64_t kCheckedRows = 1024;

int64_t RoundUpTo(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

QueryBound BoundOf(const float* query, int dim, const QuantizedVector& figures) {
  const CertifiedBound bound = CertifiedBoundOf(query, dim, figures);
  return {.length_factor = bound.length_factor,
          .error_factor = bound.error_factor,
          .slack = bound.slack,
          .inverse_scale = figures.inverse_scale};
}

// What a pass brings to the device and takes back lies in one block, on both sides at the same places: [begin, input_end) goes there,
// [output_begin, end) comes back.
struct PassLayout {
  int64_t codes, bounds, queries, scaled_thresholds, counts[2];
  int64_t output_begin, overflows, thresholds, input_end, hit_counts, hits, end;
};

PassLayout LayOutPass(int64_t query_count, int64_t padded_queries, int depth, int64_t padded_dim, int64_t hit_count) {
  int64_t at = 0;
  const auto take = [&at](int64_t bytes) { return std::exchange(at, at + RoundUpTo(bytes, 256)); };
  PassLayout layout;
  layout.codes = take(padded_queries * depth);
  layout.bounds = take(query_count * static_cast<int64_t>(sizeof(QueryBound)));
  layout.queries = take(query_count * padded_dim * 4);
  layout.scaled_thresholds = take(query_count * 4);
  layout.counts[0] = take(query_count * 4);
  layout.counts[1] = take(query_count * 4);
  layout.output_begin = at;
  layout.overflows = take(query_count * 4);
  layout.thresholds = take(query_count * 4);
  layout.input_end = at;
  layout.hit_counts = take(query_count * 4);
  layout.hits = take(hit_count * static_cast<int64_t>(sizeof(DeviceHit)));
  layout.end = at;
  return layout;
}

// The best of all rows, by the definition of their score, on this thread alone: the CPU's index would take the threads that requests want.
absl::Status FindByDefinition(const VectorFile& vectors, MatrixView<const float> queries,
                              const std::function<absl::Status()>& go_on, RowHit* hits) {
  TopKCollector best(queries.rows, kCheckedHits);
  std::vector<float> scores(static_cast<size_t>(queries.rows * std::min(kCheckedRows, vectors.rows())));
  for (int64_t first = 0; first < vectors.rows(); first += kCheckedRows) {
    LOCI_RETURN_IF_ERROR(go_on());
    const int64_t rows = std::min(kCheckedRows, vectors.rows() - first);
    ExactScores(queries, {.data = vectors.row(first), .type = vectors.element_type(), .rows = rows, .dim = vectors.dim()},
                scores.data());
    best.AddBlock(scores.data(), first, rows, RowMask());
  }
  best.Finish(hits);
  return vectors.Check();
}

// A step through `count` tiles that comes to all of them and leaves neighbours far apart.
int64_t StrideOf(int64_t count) {
  int64_t stride = std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(count) * 0.6180339887498949));
  while (std::gcd(stride, count) != 1) ++stride;
  return stride;
}

}  // namespace

// What one search under way has to itself.
struct CudaExactIndex::Lane {
  CudaStream stream;
  CudaEvent event;
  DeviceMemory block, mask, candidates[2];
  PinnedMemory pinned, pinned_mask;
};

namespace {

// Sizes of a lane's parts.
struct LaneBytes {
  int64_t block, mask, candidates;
  int64_t device() const { return block + mask + 2 * candidates; }
  int64_t pinned() const { return block + mask; }
};

LaneBytes PlanLane(int64_t rows, int dim, const CudaSearchOptions& options) {
  const int64_t most_hits = std::min<int64_t>(int64_t{options.max_queries} * kMaxCudaTopK,
                                              std::max<int64_t>(options.pass_candidates / options.capacity_factor, kMaxCudaTopK));
  return {.block = LayOutPass(options.max_queries, options.max_queries, static_cast<int>(RoundUpTo(dim, 32)),
                              RoundUpTo(dim, kPaddedDimUnit), most_hits)
                       .end,
          .mask = RoundUpTo((rows + 63) / 64 * 8, 256),
          .candidates = std::max({options.pass_candidates, int64_t{options.min_capacity},
                                  int64_t{options.capacity_factor} * kMaxCudaTopK}) *
                        static_cast<int64_t>(sizeof(Candidate))};
}

}  // namespace

CudaSearchMemory PlanCudaSearch(int64_t rows, int dim, const CudaSearchOptions& options) {
  const LaneBytes lane = PlanLane(rows, dim, options);
  return {.working_bytes = options.lanes * lane.device(), .pinned_bytes = options.lanes * lane.pinned()};
}

CudaExactIndex::CudaExactIndex(SearchDevice device, std::shared_ptr<const VectorFile> vectors,
                               std::shared_ptr<const PassageIndex> cpu, const CudaSearchOptions& options)
    : device_(std::move(device)), vectors_(std::move(vectors)), cpu_(std::move(cpu)), options_(options) {}

CudaExactIndex::~CudaExactIndex() = default;

absl::StatusOr<std::unique_ptr<CudaExactIndex>> CudaExactIndex::Create(
    SearchDevice device, std::shared_ptr<const VectorFile> vectors, std::shared_ptr<const QuantizedVectors> codes,
    std::shared_ptr<const PassageIndex> cpu, CudaSearchOptions options,
    const std::function<absl::Status(int64_t done_rows)>& progress) {
  LOCI_RETURN_IF_ERROR(device.health->Check());
  if (options.lanes < 1 || options.max_queries < 1 || options.max_queries % cuda::kMaxTileQueries != 0 || options.growth < 1 ||
      options.capacity_factor < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("exact search on a device has ", options.lanes, " lanes of ", options.max_queries, " queries, growth ",
                     options.growth, " and capacity factor ", options.capacity_factor,
                     "; queries must be a positive multiple of ", cuda::kMaxTileQueries, ", the others at least 1"));
  }
  LOCI_RETURN_IF_ERROR(device.kernels->ShapeOf(1, static_cast<int>(RoundUpTo(vectors->dim(), 32))).status());
  const CudaSearchMemory memory = PlanCudaSearch(vectors->rows(), vectors->dim(), options);
  options.limits.working_bytes = memory.working_bytes;
  auto index =
      std::unique_ptr<CudaExactIndex>(new CudaExactIndex(std::move(device), std::move(vectors), std::move(cpu), options));
  LOCI_ASSIGN_OR_RETURN(index->resident_,
                        ResidentVectors::Create(index->device_, *index->vectors_, codes.get(), options.limits, progress));
  for (int i = 0; i < options.lanes; ++i) {
    absl::StatusOr<std::unique_ptr<Lane>> lane = index->MakeLane();
    if (absl::IsUnavailable(lane.status())) return index->device_.health->Fail(lane.status());
    LOCI_RETURN_IF_ERROR(lane.status());
    index->lanes_.push_back(*std::move(lane));
  }
  const auto go_on = [&] { return progress == nullptr ? absl::OkStatus() : progress(index->row_count()); };
  if (options.self_check) LOCI_RETURN_IF_ERROR(index->CheckItself(go_on));
  index->device_bytes_ = index->resident_->plan().device_bytes() + options.limits.working_bytes;
  index->pinned_bytes_ = memory.pinned_bytes;
  LOCI_RETURN_IF_ERROR(go_on());
  LOCI_RETURN_IF_ERROR(index->MakeSoftmax());
  MutexLock lock(&index->mutex_);
  for (const std::unique_ptr<Lane>& lane : index->lanes_) index->free_lanes_.push_back(lane.get());
  return index;
}

absl::StatusOr<std::unique_ptr<CudaExactIndex::Lane>> CudaExactIndex::MakeLane() const {
  CudaRuntime& runtime = *device_.runtime;
  const LaneBytes bytes = PlanLane(row_count(), dim(), options_);
  auto lane = std::make_unique<Lane>();
  LOCI_ASSIGN_OR_RETURN(lane->stream, Own<CudaStream>(runtime, runtime.CreateStream()));
  LOCI_ASSIGN_OR_RETURN(lane->event, Own<CudaEvent>(runtime, runtime.CreateEvent(EventWait::kBlock)));
  LOCI_ASSIGN_OR_RETURN(lane->block, Own<DeviceMemory>(runtime, runtime.Allocate(bytes.block)));
  if (bytes.mask > 0) {
    LOCI_ASSIGN_OR_RETURN(lane->mask, Own<DeviceMemory>(runtime, runtime.Allocate(bytes.mask)));
    LOCI_ASSIGN_OR_RETURN(lane->pinned_mask, Own<PinnedMemory>(runtime, runtime.AllocatePinned(bytes.mask)));
  }
  for (DeviceMemory& candidates : lane->candidates) {
    LOCI_ASSIGN_OR_RETURN(candidates, Own<DeviceMemory>(runtime, runtime.Allocate(bytes.candidates)));
  }
  LOCI_ASSIGN_OR_RETURN(lane->pinned, Own<PinnedMemory>(runtime, runtime.AllocatePinned(bytes.block)));
  return lane;
}

absl::Status CudaExactIndex::CheckItself(const std::function<absl::Status()>& go_on) const {
  std::vector<float> probes;
  std::vector<float> row(static_cast<size_t>(dim()));
  for (const int64_t r : {int64_t{0}, row_count() / 2, row_count() - 1}) {
    if (r < 0 || r >= row_count()) continue;
    vectors_->CopyRow(r, row.data());
    if (CheckVector(row.data(), dim()).ok()) probes.insert(probes.end(), row.begin(), row.end());
  }
  LOCI_RETURN_IF_ERROR(vectors_->Check());
  const int64_t probe_count = static_cast<int64_t>(probes.size()) / dim();
  if (probe_count == 0) return absl::OkStatus();
  IndexSearchOptions options;
  options.top_k = kCheckedHits;
  int64_t compared = 0;
  std::vector<RowHit> expected(static_cast<size_t>(probe_count * kCheckedHits));
  LOCI_RETURN_IF_ERROR(FindByDefinition(*vectors_, {probes.data(), probe_count, dim()}, go_on, expected.data()));
  for (const int64_t count : kCheckedQueries) {
    LOCI_RETURN_IF_ERROR(go_on());
    std::vector<float> queries;
    for (int64_t q = 0; q < count; ++q) {
      const auto probe = probes.begin() + q % probe_count * dim();
      queries.insert(queries.end(), probe, probe + dim());
    }
    std::vector<RowHit> hits(static_cast<size_t>(count * kCheckedHits));
    std::vector<int64_t> left;
    LOCI_RETURN_IF_ERROR(
        SearchOnDevice(lanes_.front().get(), {queries.data(), count, dim()}, options, RowMask(), hits.data(), &left));
    std::sort(left.begin(), left.end());
    compared += count - static_cast<int64_t>(left.size());
    for (int64_t i = 0; i < count * kCheckedHits; ++i) {
      if (std::binary_search(left.begin(), left.end(), i / kCheckedHits)) continue;
      const RowHit& hit = hits[static_cast<size_t>(i)];
      const RowHit& wanted = expected[static_cast<size_t>(i % (probe_count * kCheckedHits))];
      if (hit.row == wanted.row && hit.score == wanted.score) continue;
      return absl::FailedPreconditionError(absl::StrCat("device ", device_.name, " does not find what the CPU finds: of ", count,
                                                        " queries at once, hit ", i % kCheckedHits, " of query ",
                                                        i / kCheckedHits, " is row ", hit.row, " of score ", hit.score,
                                                        ", on the CPU row ", wanted.row, " of score ", wanted.score));
    }
  }
  if (compared == 0) {
    Log(LogLevel::kWarning, "cuda_exact_index", "the device left every query of its check to the CPU, as it will most searches",
        {{"device", device_.name}});
  }
  repeated_.store(0, std::memory_order_relaxed);
  return absl::OkStatus();
}

// Last, so that it takes no room from search.
absl::Status CudaExactIndex::MakeSoftmax() {
  if (!options_.softmax.has_value()) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<CudaSoftmax>> softmax = CudaSoftmax::Create(device_, resident_, vectors_, *options_.softmax);
  if (absl::IsResourceExhausted(softmax.status()) || absl::IsFailedPrecondition(softmax.status())) {
    Log(LogLevel::kWarning, "cuda_exact_index", absl::StrCat("log Z and mean vectors are the CPU's: ", softmax.status().message()),
        {{"device", device_.name}});
    return absl::OkStatus();
  }
  LOCI_RETURN_IF_ERROR(softmax.status());
  softmax_ = *std::move(softmax);
  device_bytes_ += softmax_->memory().device_bytes;
  pinned_bytes_ += softmax_->memory().pinned_bytes;
  return absl::OkStatus();
}

const DeviceSoftmax* CudaExactIndex::softmax(const RowMask& hidden) const {
  const int64_t visible = row_count() - hidden.hidden_count();
  return visible < std::max<int64_t>(options_.min_visible_rows, 1) ? nullptr : softmax_.get();
}

int CudaExactIndex::Capacity(int top_k) const { return std::max(options_.min_capacity, options_.capacity_factor * top_k); }

CudaExactIndex::Counts CudaExactIndex::counts() const {
  return {.answered = answered_.load(std::memory_order_relaxed),
          .repeated = repeated_.load(std::memory_order_relaxed),
          .left = left_.load(std::memory_order_relaxed)};
}

absl::Status CudaExactIndex::Search(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden,
                                    RowHit* hits) const {
  LOCI_RETURN_IF_ERROR(CheckSearchArguments(*this, queries, options, {}));
  LOCI_RETURN_IF_ERROR(device_.health->Check());
  if (queries.rows == 0) return absl::OkStatus();
  const int64_t visible = row_count() - hidden.hidden_count();
  if (options.top_k > kMaxCudaTopK || visible < std::max<int64_t>(options_.min_visible_rows, 1) || !vain_passes_.TakeTurn()) {
    left_.fetch_add(queries.rows, std::memory_order_relaxed);
    return cpu_->Search(queries, options, hidden, hits);
  }
  Lane* lane = nullptr;
  {
    MutexLock lock(&mutex_);
    while (free_lanes_.empty()) {
      LOCI_RETURN_IF_ERROR(options.limits.Check(RealClock().NowMicros()));
      lane_is_free_.WaitFor(&mutex_, kLaneWait);
    }
    lane = free_lanes_.back();
    free_lanes_.pop_back();
  }
  std::vector<int64_t> left;
  // Who waited for a lane may have waited for a device that failed.
  absl::Status status = device_.health->Check();
  if (status.ok()) status = SearchOnDevice(lane, queries, options, hidden, hits, &left);
  {
    MutexLock lock(&mutex_);
    free_lanes_.push_back(lane);
  }
  lane_is_free_.NotifyOne();
  LOCI_RETURN_IF_ERROR(status);
  // A zero query is left whatever the rows are: it says nothing of the others' passes.
  const auto tells = [&](int64_t q) { return std::any_of(queries.row(q), queries.row(q) + queries.cols, [](float x) { return x != 0; }); };
  int64_t telling = 0;
  for (int64_t q = 0; q < queries.rows; ++q) telling += tells(q);
  if (telling > 0) vain_passes_.EndTurn(telling, std::count_if(left.begin(), left.end(), tells));
  answered_.fetch_add(queries.rows - static_cast<int64_t>(left.size()), std::memory_order_relaxed);
  if (left.empty()) return absl::OkStatus();
  left_.fetch_add(static_cast<int64_t>(left.size()), std::memory_order_relaxed);
  const size_t top_k = static_cast<size_t>(options.top_k);
  std::vector<float> left_queries;
  for (const int64_t q : left) left_queries.insert(left_queries.end(), queries.row(q), queries.row(q) + queries.cols);
  std::vector<RowHit> left_hits(left.size() * top_k);
  LOCI_RETURN_IF_ERROR(
      cpu_->Search({left_queries.data(), static_cast<int64_t>(left.size()), queries.cols}, options, hidden, left_hits.data()));
  for (size_t i = 0; i < left.size(); ++i) {
    std::copy_n(left_hits.data() + i * top_k, top_k, hits + left[i] * options.top_k);
  }
  return absl::OkStatus();
}

absl::Status CudaExactIndex::SearchOnDevice(Lane* lane, MatrixView<const float> queries, const IndexSearchOptions& options,
                                            const RowMask& hidden, RowHit* hits, std::vector<int64_t>* left) const {
  LOCI_RETURN_IF_ERROR(options.limits.Check(RealClock().NowMicros()));
  absl::Status status = SearchInPasses(lane, queries, options, hidden, hits, left);
  if (status.ok()) return status;
  if (!absl::IsUnavailable(status)) {
    // The device still works: who takes the lane next writes over what a copy may be reading.
    absl::Status ended = device_.runtime->Record(lane->event.get(), lane->stream.get());
    if (ended.ok()) ended = device_.runtime->Wait(lane->event.get());
    if (ended.ok()) return status;
    status = std::move(ended);
  }
  return device_.health->Fail(status);
}

absl::Status CudaExactIndex::SearchInPasses(Lane* lane, MatrixView<const float> queries, const IndexSearchOptions& options,
                                            const RowMask& hidden, RowHit* hits, std::vector<int64_t>* left) const {
  const bool masked = hidden.hidden_count() > 0;
  if (masked) LOCI_RETURN_IF_ERROR(UploadMask(lane, hidden));
  const int64_t pass_queries = std::clamp<int64_t>(options_.pass_candidates / Capacity(options.top_k), 1, options_.max_queries);
  std::vector<Pending> waiting, overflowed;
  for (int64_t q = 0; q < queries.rows; ++q) waiting.push_back({q, -kInfinity, -kInfinity});
  for (int pass = 0; pass < kMaxPasses && !waiting.empty(); ++pass) {
    if (pass > 0) repeated_.fetch_add(static_cast<int64_t>(waiting.size()), std::memory_order_relaxed);
    overflowed.clear();
    for (size_t first = 0; first < waiting.size(); first += static_cast<size_t>(pass_queries)) {
      LOCI_RETURN_IF_ERROR(options.limits.Check(RealClock().NowMicros()));
      const size_t count = std::min(static_cast<size_t>(pass_queries), waiting.size() - first);
      LOCI_RETURN_IF_ERROR(RunPass(lane, queries, std::span(waiting).subspan(first, count), options.top_k, masked,
                                   /*sample=*/pass == 0, hits, &overflowed));
    }
    waiting.clear();
    for (const Pending& each : overflowed) {
      // Without a higher threshold the next pass would be like this one.
      if (each.threshold > each.last_threshold && pass + 1 < kMaxPasses) {
        waiting.push_back(each);
      } else {
        left->push_back(each.position);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CudaExactIndex::UploadMask(Lane* lane, const RowMask& hidden) const {
  uint64_t* const words = static_cast<uint64_t*>(lane->pinned_mask.get());
  const int64_t count = (row_count() + 63) / 64;
  for (int64_t i = 0; i < count; ++i) words[i] = hidden.word(64 * i);
  return device_.runtime->CopyToDevice(lane->mask.get(), words, 8 * count, lane->stream.get());
}

absl::Status CudaExactIndex::RunPass(Lane* lane, MatrixView<const float> queries, std::span<const Pending> pass, int top_k,
                                     bool masked, bool sample, RowHit* hits, std::vector<Pending>* overflowed) const {
  CudaRuntime& runtime = *device_.runtime;
  cuda::SearchKernels& kernels = *device_.kernels;
  const CudaHandle stream = lane->stream.get();
  const int query_count = static_cast<int>(pass.size()), depth = resident_->plan().depth;
  const int64_t padded_dim = RoundUpTo(dim(), kPaddedDimUnit);
  LOCI_ASSIGN_OR_RETURN(const cuda::TileShape shape, kernels.ShapeOf(query_count, depth));
  const int64_t padded_queries = RoundUpTo(query_count, shape.queries);
  const PassLayout layout = LayOutPass(query_count, padded_queries, depth, padded_dim, int64_t{query_count} * top_k);

  char* const pinned = static_cast<char*>(lane->pinned.get());
  std::memset(pinned, 0, static_cast<size_t>(layout.input_end));
  int8_t* const codes = reinterpret_cast<int8_t*>(pinned + layout.codes);
  QueryBound* const bounds = reinterpret_cast<QueryBound*>(pinned + layout.bounds);
  float* const padded = reinterpret_cast<float*>(pinned + layout.queries);
  float* const scaled = reinterpret_cast<float*>(pinned + layout.scaled_thresholds);
  float* const thresholds = reinterpret_cast<float*>(pinned + layout.thresholds);
  for (int i = 0; i < query_count; ++i) {
    const Pending& each = pass[static_cast<size_t>(i)];
    const float* const query = queries.row(each.position);
    bounds[i] = BoundOf(query, dim(), Quantize(query, dim(), codes + int64_t{i} * depth));
    std::copy_n(query, dim(), padded + i * padded_dim);
    thresholds[i] = each.threshold;
    scaled[i] = static_cast<float>((static_cast<double>(each.threshold) - ScoreUnderflow(dim())) * bounds[i].inverse_scale);
  }
  char* const block = static_cast<char*>(lane->block.get());
  LOCI_RETURN_IF_ERROR(runtime.CopyToDevice(block, pinned, layout.input_end, stream));

  const auto ints = [block](int64_t at) { return reinterpret_cast<int32_t*>(block + at); };
  const auto floats = [block](int64_t at) { return reinterpret_cast<float*>(block + at); };
  const int capacity = Capacity(top_k);
  const int64_t tile_count = (row_count() + shape.rows - 1) / shape.rows;
  int now = 0;
  const auto candidates = [lane](int which) { return static_cast<Candidate*>(lane->candidates[which].get()); };
  // All rows of the first launch fit into the list.
  int64_t end = sample ? std::clamp<int64_t>(capacity / 2 / shape.rows, 1, tile_count) : tile_count;
  for (int64_t first = 0; first < tile_count;
       first = std::exchange(end, std::min(tile_count, end * (1 + int64_t{options_.growth})))) {
    const cuda::ScanArgs scan = {.codes = resident_->codes(),
                                 .inverse_scales = resident_->inverse_scales(),
                                 .lengths = resident_->lengths(),
                                 .errors = resident_->errors(),
                                 .hidden = masked ? static_cast<const uint32_t*>(lane->mask.get()) : nullptr,
                                 .query_codes = reinterpret_cast<const int8_t*>(block + layout.codes),
                                 .bounds = reinterpret_cast<const QueryBound*>(block + layout.bounds),
                                 .scaled_thresholds = floats(layout.scaled_thresholds),
                                 .candidates = candidates(now),
                                 .counts = ints(layout.counts[now]),
                                 .underflow = ScoreUnderflow(dim()),
                                 .tile_count = tile_count,
                                 .tile_stride = StrideOf(tile_count),
                                 .first_position = first,
                                 .end_position = end,
                                 .capacity = capacity,
                                 .rows = static_cast<int32_t>(row_count()),
                                 .depth = depth,
                                 .query_count = query_count};
    LOCI_RETURN_IF_ERROR(kernels.Scan(scan, stream));
    const cuda::SelectArgs select = {.from = candidates(now),
                                     .from_counts = ints(layout.counts[now]),
                                     .capacity = capacity,
                                     .top_k = top_k,
                                     .to = candidates(1 - now),
                                     .thresholds = floats(layout.thresholds),
                                     .scaled_thresholds = floats(layout.scaled_thresholds),
                                     .bounds = reinterpret_cast<const QueryBound*>(block + layout.bounds),
                                     .underflow = ScoreUnderflow(dim()),
                                     .overflows = ints(layout.overflows),
                                     .to_counts = ints(layout.counts[1 - now])};
    LOCI_RETURN_IF_ERROR(kernels.Select(select, query_count, stream));
    now = 1 - now;
  }
  const cuda::RescoreArgs<void> rescore = {.rows = resident_->rows(),
                                           .queries = floats(layout.queries),
                                           .candidates = candidates(now),
                                           .counts = ints(layout.counts[now]),
                                           .capacity = capacity,
                                           .dim = dim(),
                                           .padded_dim = static_cast<int32_t>(padded_dim)};
  LOCI_RETURN_IF_ERROR(kernels.Rescore(vectors_->element_type(), rescore, query_count, stream));
  const cuda::SelectArgs best = {.from = candidates(now),
                                 .from_counts = ints(layout.counts[now]),
                                 .capacity = capacity,
                                 .top_k = top_k,
                                 .to_counts = ints(layout.hit_counts),
                                 .hits = reinterpret_cast<DeviceHit*>(block + layout.hits)};
  LOCI_RETURN_IF_ERROR(kernels.SelectExact(best, query_count, stream));
  LOCI_RETURN_IF_ERROR(
      runtime.CopyToHost(pinned + layout.output_begin, block + layout.output_begin, layout.end - layout.output_begin, stream));
  LOCI_RETURN_IF_ERROR(runtime.Record(lane->event.get(), stream));
  LOCI_RETURN_IF_ERROR(runtime.Wait(lane->event.get()));

  const int32_t* const overflows = reinterpret_cast<const int32_t*>(pinned + layout.overflows);
  const int32_t* const hit_counts = reinterpret_cast<const int32_t*>(pinned + layout.hit_counts);
  const DeviceHit* const device_hits = reinterpret_cast<const DeviceHit*>(pinned + layout.hits);
  for (int i = 0; i < query_count; ++i) {
    const auto& [position, threshold, last_threshold] = pass[static_cast<size_t>(i)];
    if (overflows[i] != 0) {
      overflowed->push_back({position, thresholds[i], threshold});
      continue;
    }
    RowHit* const out = hits + position * top_k;
    for (int32_t k = 0; k < top_k; ++k) {
      const DeviceHit& hit = device_hits[int64_t{i} * top_k + k];
      out[k] = k < hit_counts[i] ? RowHit{hit.row, hit.score} : RowHit{-1, -kInfinity};
    }
  }
  return absl::OkStatus();
}

}  // namespace loci
