#include "index/cuda/cuda_softmax.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/field_error.h"
#include "base/status_macros.h"
#include "index/passage_index.h"

namespace loci {
namespace {

using cuda::kSoftmaxTileQueries;
using cuda::kSoftmaxTileRows;
using cuda::SoftmaxSkip;

constexpr double kLog2E = 1.4426950408889634;
// Who waits for another scan looks at its limits so often.
constexpr std::chrono::milliseconds kLaneWait(5);
// What CheckItself compares: so many queries over so many rows, that may differ by so much.
constexpr int64_t kCheckedQueries = kSoftmaxTileQueries + 3;
constexpr int64_t kCheckedRows = 2048;
constexpr double kCheckedError = 1e-4;

int64_t RoundUpTo(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

int64_t TilesOf(int64_t rows) { return (rows + kSoftmaxTileRows - 1) / kSoftmaxTileRows; }

// Parts of the grid that there is memory for.
int64_t HeldParts(int64_t rows, int64_t dim, const CudaSoftmaxOptions& options) {
  const int64_t held = options.part_bytes / (std::max<int64_t>(options.max_queries, 1) * (dim * 4 + 12));
  return std::max<int64_t>(std::min(TilesOf(rows), held), 1);
}

// Tiles of a pass that there is room for, in which its queries skip rows: one query's always fit.
int64_t HeldSkips(int64_t rows, const CudaSoftmaxOptions& options) {
  const int64_t tiles = TilesOf(rows);
  const int64_t wanted = std::max(tiles, options.max_queries * std::min<int64_t>(tiles, options.skipped_tiles));
  return std::min<int64_t>(wanted, std::numeric_limits<int32_t>::max());  // Places in the list are 32 bits wide; the tiles of the most rows fit.
}

// Device memory of a pass, and what of it the host has too.
struct SoftmaxLayout {
  int64_t queries, mask, skip_begins, skips, squared_lengths, results, shared_end;  // The host's too.
  int64_t maxima, sums, weighted, end;
};

SoftmaxLayout LayOut(int64_t rows, int64_t dim, const CudaSoftmaxOptions& options) {
  const int64_t queries = options.max_queries, parts = HeldParts(rows, dim, options);
  int64_t at = 0;
  const auto take = [&at](int64_t bytes) { return std::exchange(at, at + RoundUpTo(bytes, 256)); };
  SoftmaxLayout layout;
  layout.queries = take(queries * RoundUpTo(dim, 16) * 4);
  layout.mask = take((rows + 63) / 64 * 8);
  layout.skip_begins = take((queries * parts + 1) * 4);
  layout.skips = take(HeldSkips(rows, options) * static_cast<int64_t>(sizeof(SoftmaxSkip)));
  layout.squared_lengths = take(parts * 4);
  layout.results = take(queries * (2 + dim) * 8);
  layout.shared_end = at;
  layout.maxima = take(queries * parts * 4);
  layout.sums = take(queries * parts * 8);
  layout.weighted = take(queries * parts * dim * 4);
  layout.end = at;
  return layout;
}

// The tiles in which rows of the body among `skipped` lie, as they come to `parts` parts, one after the other.
void ListSkips(const std::vector<ViewRow>& skipped, int64_t row_count, int parts, std::vector<SoftmaxSkip>* skips) {
  std::vector<int64_t> rows;
  for (const ViewRow& row : skipped) {
    if (!row.in_overlay && row.row >= 0 && row.row < row_count) rows.push_back(row.row);
  }
  std::sort(rows.begin(), rows.end());
  skips->clear();
  for (const int64_t row : rows) {
    const int32_t tile = static_cast<int32_t>(row / kSoftmaxTileRows);
    if (skips->empty() || skips->back().tile != tile) skips->push_back({tile, 0});
    skips->back().rows |= uint32_t{1} << (row % kSoftmaxTileRows);
  }
  std::sort(skips->begin(), skips->end(), [parts](const SoftmaxSkip& a, const SoftmaxSkip& b) {
    return a.tile % parts != b.tile % parts ? a.tile % parts < b.tile % parts : a.tile < b.tile;
  });
}

}  // namespace

CudaSoftmaxMemory PlanCudaSoftmax(int64_t rows, int dim, const CudaSoftmaxOptions& options) {
  const SoftmaxLayout layout = LayOut(rows, dim, options);
  return {.device_bytes = layout.end, .pinned_bytes = layout.shared_end};
}

struct CudaSoftmax::Lane {
  CudaStream stream;
  CudaEvent event;
  DeviceMemory memory;
  PinnedMemory pinned;
  SoftmaxLayout layout;
};

// Queries that are scanned for together; what they skip lies in pinned memory.
struct CudaSoftmax::Pass {
  int64_t first = 0;
  int64_t count = 0;
  int64_t skip_count = 0;
};

CudaSoftmax::CudaSoftmax(SearchDevice device, std::shared_ptr<const ResidentVectors> resident,
                         std::shared_ptr<const VectorFile> vectors, const CudaSoftmaxOptions& options)
    : device_(std::move(device)), resident_(std::move(resident)), vectors_(std::move(vectors)), options_(options) {}

CudaSoftmax::~CudaSoftmax() = default;

absl::StatusOr<std::unique_ptr<CudaSoftmax>> CudaSoftmax::Create(SearchDevice device,
                                                                 std::shared_ptr<const ResidentVectors> resident,
                                                                 std::shared_ptr<const VectorFile> vectors,
                                                                 const CudaSoftmaxOptions& options) {
  LOCI_RETURN_IF_ERROR(device.health->Check());
  if (options.max_queries < 1 || options.max_queries % kSoftmaxTileQueries != 0 || options.skipped_tiles < 0) {
    return absl::InvalidArgumentError(absl::StrCat("a pass of the softmax has ", options.max_queries, " queries and ", options.skipped_tiles,
                                                   " skipped tiles a query; queries must be a positive multiple of ", kSoftmaxTileQueries,
                                                   ", tiles not negative"));
  }
  auto softmax =
      std::unique_ptr<CudaSoftmax>(new CudaSoftmax(std::move(device), std::move(resident), std::move(vectors), options));
  const absl::Status status = softmax->Init();
  if (absl::IsUnavailable(status)) return softmax->device_.health->Fail(status);
  LOCI_RETURN_IF_ERROR(status);
  if (options.self_check) LOCI_RETURN_IF_ERROR(softmax->CheckItself());
  return softmax;
}

absl::Status CudaSoftmax::Init() {
  CudaRuntime& runtime = *device_.runtime;
  const int64_t rows = vectors_->rows();
  const int dim = vectors_->dim();
  LOCI_ASSIGN_OR_RETURN(const int most_parts, device_.kernels->SoftmaxParts(vectors_->element_type(), dim));
  parts_ = static_cast<int>(std::min<int64_t>(HeldParts(rows, dim, options_), most_parts));
  lane_ = std::make_unique<Lane>();
  Lane& lane = *lane_;
  lane.layout = LayOut(rows, dim, options_);
  LOCI_ASSIGN_OR_RETURN(const CudaRuntime::Memory memory, runtime.GetMemory());
  if (lane.layout.end > memory.free_bytes - options_.reserved_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("log Z of ", rows, " rows of ", dim, " takes ", lane.layout.end,
                                                     " bytes of working memory; ", memory.free_bytes, " are free, of which ",
                                                     options_.reserved_bytes, " are left alone"));
  }
  LOCI_ASSIGN_OR_RETURN(lane.stream, Own<CudaStream>(runtime, runtime.CreateStream()));
  LOCI_ASSIGN_OR_RETURN(lane.event, Own<CudaEvent>(runtime, runtime.CreateEvent(EventWait::kBlock)));
  LOCI_ASSIGN_OR_RETURN(lane.memory, Own<DeviceMemory>(runtime, runtime.Allocate(lane.layout.end)));
  LOCI_ASSIGN_OR_RETURN(lane.pinned, Own<PinnedMemory>(runtime, runtime.AllocatePinned(lane.layout.shared_end)));
  return absl::OkStatus();
}

absl::Status CudaSoftmax::CheckItself() const {
  const int64_t row_count = vectors_->rows();
  const int dim = vectors_->dim();
  if (row_count == 0) return absl::OkStatus();
  // All rows, or such as lie in many columns of tiles all over the file, and its whole last tile.
  std::vector<int64_t> rows;
  const int64_t step = std::max<int64_t>(row_count / kCheckedRows, 1);
  for (int64_t i = 0; i * step + i % step < row_count; ++i) rows.push_back(i * step + i % step);
  RowMask hidden;
  if (step > 1) {
    for (int64_t r = std::max<int64_t>(row_count - kSoftmaxTileRows, 0); r < row_count; ++r) rows.push_back(r);
    std::vector<uint64_t> visible(static_cast<size_t>((row_count + 63) / 64));
    for (const int64_t r : rows) visible[static_cast<size_t>(r / 64)] |= uint64_t{1} << (r % 64);
    hidden = hidden.RestrictedTo(row_count, visible);
  }
  // Query i is one of three rows, and skips each row whose place leaves i when it is divided; the first skips nothing, the last everything.
  std::vector<float> queries, row(static_cast<size_t>(dim));
  double squared_length = 0;
  for (int64_t i = 0; i < kCheckedQueries; ++i) {
    const int64_t probes[] = {rows.front(), rows[rows.size() / 2], rows.back()};
    vectors_->CopyRow(probes[i % 3], row.data());
    if (!CheckVector(row.data(), dim).ok()) std::fill(row.begin(), row.end(), 0.0f);
    double squares = 0;
    for (const float x : row) squares += static_cast<double>(x) * x;
    squared_length = std::max(squared_length, squares);
    queries.insert(queries.end(), row.begin(), row.end());
  }
  std::vector<std::vector<ViewRow>> skipped(kCheckedQueries);
  for (size_t i = 0; i < rows.size(); ++i) {
    skipped.back().push_back({false, rows[i]});
    if (const size_t q = i % kCheckedQueries; q > 0 && q + 1 < kCheckedQueries) skipped[q].push_back({false, rows[i]});
  }
  const SoftmaxScanOptions options = {.temperature = std::clamp(squared_length / 8, kMinTemperature, kMaxTemperature),
                                      .mean = true,
                                      .max_length = true};
  const ScanSegment segments[] = {
      {.data = vectors_->row(0), .type = vectors_->element_type(), .rows = row_count, .hidden = &hidden}};
  const MatrixView<const float> view = {queries.data(), kCheckedQueries, dim};
  LOCI_ASSIGN_OR_RETURN(const SoftmaxScan expected, ScanSoftmax(segments, view, skipped, options));
  LOCI_RETURN_IF_ERROR(vectors_->Check());
  LOCI_ASSIGN_OR_RETURN(const SoftmaxScan found, Scan(view, hidden, skipped, options));
  const auto differ = [&](const auto&... what) {
    return absl::FailedPreconditionError(
        absl::StrCat("device ", device_.name, " does not find the log Z and mean that the CPU finds: ", what...));
  };
  const auto near = [](double mine, double theirs, double scale) { return std::abs(mine - theirs) <= kCheckedError * scale; };
  if (!near(found.max_length, expected.max_length, expected.max_length)) {
    return differ("the longest row has length ", found.max_length, ", on the CPU ", expected.max_length);
  }
  for (int64_t q = 0; q < kCheckedQueries; ++q) {
    const SoftmaxSums& mine = found.sums[static_cast<size_t>(q)];
    const SoftmaxSums& theirs = expected.sums[static_cast<size_t>(q)];
    if (mine.max_score != theirs.max_score || !near(mine.sum, theirs.sum, theirs.sum)) {
      return differ("query ", q, " of ", kCheckedQueries, " has a largest score of ", mine.max_score, " and a sum of ", mine.sum,
                    ", on the CPU ", theirs.max_score, " and ", theirs.sum);
    }
    for (int d = 0; d < dim; ++d) {
      const double mine_here = mine.weighted[static_cast<size_t>(d)], theirs_here = theirs.weighted[static_cast<size_t>(d)];
      if (near(mine_here, theirs_here, theirs.sum * expected.max_length)) continue;
      return differ("element ", d, " of the weighted sum of query ", q, " of ", kCheckedQueries, " is ", mine_here, ", on the CPU ",
                    theirs_here);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<SoftmaxScan> CudaSoftmax::Scan(MatrixView<const float> queries, const RowMask& hidden,
                                              std::span<const std::vector<ViewRow>> skipped, const SoftmaxScanOptions& options) const {
  if (queries.rows > 0 && queries.cols != vectors_->dim()) {
    return absl::InvalidArgumentError(absl::StrCat("queries have ", queries.cols, " dimensions, the passages ", vectors_->dim()));
  }
  if (!skipped.empty() && static_cast<int64_t>(skipped.size()) != queries.rows) {
    return absl::InvalidArgumentError(absl::StrCat(skipped.size(), " lists of skipped rows for ", queries.rows, " queries"));
  }
  if (options.block_masses) return absl::InvalidArgumentError("a device keeps no masses of blocks");
  if (!(options.temperature >= kMinTemperature && options.temperature <= kMaxTemperature)) {
    return InvalidField("temperature", absl::StrCat("is ", options.temperature, "; it must be in [", kMinTemperature, ", ",
                                                    kMaxTemperature, "]"));
  }
  SoftmaxScan scan;
  scan.sums.resize(static_cast<size_t>(queries.rows));
  if (queries.rows == 0) return scan;
  {
    MutexLock lock(&mutex_);
    while (busy_) {
      LOCI_RETURN_IF_ERROR(options.limits.Check(RealClock().NowMicros()));
      is_free_.WaitFor(&mutex_, kLaneWait);
    }
    busy_ = true;
  }
  // Who waited may have waited for a device that failed.
  absl::Status status = device_.health->Check();
  if (status.ok()) {
    status = ScanInPasses(queries, hidden, skipped, options, &scan);
    if (!status.ok() && !absl::IsUnavailable(status)) {
      // The device still works: who comes next writes over what a copy may be reading.
      absl::Status ended = device_.runtime->Record(lane_->event.get(), lane_->stream.get());
      if (ended.ok()) ended = device_.runtime->Wait(lane_->event.get());
      if (!ended.ok()) status = device_.health->Fail(ended);
    } else if (!status.ok()) {
      status = device_.health->Fail(status);
    }
  }
  {
    MutexLock lock(&mutex_);
    busy_ = false;
  }
  is_free_.NotifyOne();
  LOCI_RETURN_IF_ERROR(status);
  return scan;
}

absl::Status CudaSoftmax::ScanInPasses(MatrixView<const float> queries, const RowMask& hidden,
                                       std::span<const std::vector<ViewRow>> skipped, const SoftmaxScanOptions& options,
                                       SoftmaxScan* scan) const {
  LOCI_RETURN_IF_ERROR(options.limits.Check(RealClock().NowMicros()));
  const bool masked = hidden.hidden_count() > 0;
  if (masked) {
    uint64_t* const words = reinterpret_cast<uint64_t*>(static_cast<char*>(lane_->pinned.get()) + lane_->layout.mask);
    const int64_t count = (vectors_->rows() + 63) / 64;
    for (int64_t i = 0; i < count; ++i) words[i] = hidden.word(64 * i);
    LOCI_RETURN_IF_ERROR(device_.runtime->CopyToDevice(static_cast<char*>(lane_->memory.get()) + lane_->layout.mask, words,
                                                       8 * count, lane_->stream.get()));
  }
  Pass pass;
  for (int64_t first = 0; first < queries.rows; first += pass.count) {
    LOCI_RETURN_IF_ERROR(options.limits.Check(RealClock().NowMicros()));
    pass = ListPass(first, queries.rows, skipped);
    LOCI_RETURN_IF_ERROR(RunPass(queries, pass, masked, options, scan));
  }
  return absl::OkStatus();
}

CudaSoftmax::Pass CudaSoftmax::ListPass(int64_t first, int64_t query_count, std::span<const std::vector<ViewRow>> skipped) const {
  Pass pass = {.first = first, .count = std::min<int64_t>(options_.max_queries, query_count - first)};
  if (skipped.empty()) return pass;
  char* const pinned = static_cast<char*>(lane_->pinned.get());
  int32_t* const begins = reinterpret_cast<int32_t*>(pinned + lane_->layout.skip_begins);
  SoftmaxSkip* const skips = reinterpret_cast<SoftmaxSkip*>(pinned + lane_->layout.skips);
  const int64_t room = HeldSkips(vectors_->rows(), options_);
  std::vector<SoftmaxSkip> own;
  for (int64_t q = 0; q < pass.count; ++q) {
    ListSkips(skipped[static_cast<size_t>(first + q)], vectors_->rows(), parts_, &own);
    const int64_t own_count = static_cast<int64_t>(own.size());
    if (pass.skip_count + own_count > room) {  // Never the first's.
      pass.count = q;
      break;
    }
    int64_t next = 0;
    for (int part = 0; part < parts_; ++part) {
      begins[q * parts_ + part] = static_cast<int32_t>(pass.skip_count + next);
      while (next < own_count && own[static_cast<size_t>(next)].tile % parts_ == part) ++next;
    }
    std::copy(own.begin(), own.end(), skips + pass.skip_count);
    pass.skip_count += own_count;
  }
  const int64_t padded_count = RoundUpTo(pass.count, kSoftmaxTileQueries);
  std::fill(begins + pass.count * parts_, begins + padded_count * parts_ + 1, static_cast<int32_t>(pass.skip_count));
  return pass;
}

absl::Status CudaSoftmax::RunPass(MatrixView<const float> queries, const Pass& pass, bool masked, const SoftmaxScanOptions& options,
                                  SoftmaxScan* scan) const {
  CudaRuntime& runtime = *device_.runtime;
  const SoftmaxLayout& layout = lane_->layout;
  const CudaHandle stream = lane_->stream.get();
  const int dim = vectors_->dim();
  const int64_t padded_dim = RoundUpTo(dim, 16), padded_queries = RoundUpTo(pass.count, kSoftmaxTileQueries);
  char* const pinned = static_cast<char*>(lane_->pinned.get());
  char* const memory = static_cast<char*>(lane_->memory.get());
  const auto to_device = [&](int64_t at, int64_t bytes) { return runtime.CopyToDevice(memory + at, pinned + at, bytes, stream); };
  const auto to_host = [&](int64_t at, int64_t bytes) { return runtime.CopyToHost(pinned + at, memory + at, bytes, stream); };
  float* const padded = reinterpret_cast<float*>(pinned + layout.queries);
  std::memset(padded, 0, static_cast<size_t>(padded_queries * padded_dim * 4));
  for (int64_t q = 0; q < pass.count; ++q) std::copy_n(queries.row(pass.first + q), dim, padded + q * padded_dim);
  LOCI_RETURN_IF_ERROR(to_device(layout.queries, padded_queries * padded_dim * 4));
  if (pass.skip_count > 0) {
    LOCI_RETURN_IF_ERROR(to_device(layout.skip_begins, (padded_queries * parts_ + 1) * 4));
    LOCI_RETURN_IF_ERROR(to_device(layout.skips, pass.skip_count * static_cast<int64_t>(sizeof(SoftmaxSkip))));
  }
  const float scale = static_cast<float>(kLog2E / options.temperature);
  float* const weighted = options.mean ? reinterpret_cast<float*>(memory + layout.weighted) : nullptr;
  const bool measures = options.max_length && pass.first == 0;
  const int sum_dim = options.mean ? dim : 0;
  const cuda::SoftmaxArgs<void> args = {
      .rows = resident_->rows(),
      .queries = reinterpret_cast<const float*>(memory + layout.queries),
      .hidden = masked ? reinterpret_cast<const uint32_t*>(memory + layout.mask) : nullptr,
      .skips = pass.skip_count > 0 ? reinterpret_cast<const SoftmaxSkip*>(memory + layout.skips) : nullptr,
      .skip_begins = reinterpret_cast<const int32_t*>(memory + layout.skip_begins),
      .maxima = reinterpret_cast<float*>(memory + layout.maxima),
      .sums = reinterpret_cast<double*>(memory + layout.sums),
      .weighted = weighted,
      .squared_lengths = measures ? reinterpret_cast<float*>(memory + layout.squared_lengths) : nullptr,
      .scale = scale,
      .row_count = static_cast<int32_t>(vectors_->rows()),
      .dim = dim,
      .padded_dim = static_cast<int32_t>(padded_dim)};
  LOCI_RETURN_IF_ERROR(device_.kernels->Softmax(vectors_->element_type(), args, parts_,
                                                static_cast<int>(padded_queries / kSoftmaxTileQueries), stream));
  const cuda::SoftmaxMergeArgs merge = {.maxima = args.maxima,
                                        .sums = args.sums,
                                        .weighted = weighted,
                                        .out = reinterpret_cast<double*>(memory + layout.results),
                                        .scale = scale,
                                        .parts = parts_,
                                        .dim = sum_dim};
  LOCI_RETURN_IF_ERROR(device_.kernels->SoftmaxMerge(merge, static_cast<int>(pass.count), stream));
  const int64_t stride = 2 + sum_dim;
  LOCI_RETURN_IF_ERROR(to_host(layout.results, pass.count * stride * 8));
  if (measures) LOCI_RETURN_IF_ERROR(to_host(layout.squared_lengths, int64_t{parts_} * 4));
  LOCI_RETURN_IF_ERROR(runtime.Record(lane_->event.get(), stream));
  LOCI_RETURN_IF_ERROR(runtime.Wait(lane_->event.get()));
  const double* const results = reinterpret_cast<const double*>(pinned + layout.results);
  for (int64_t q = 0; q < pass.count; ++q) {
    const double* const result = results + q * stride;
    SoftmaxSums& sums = scan->sums[static_cast<size_t>(pass.first + q)];
    sums.max_score = result[0];
    sums.sum = result[1];
    if (options.mean) sums.weighted.assign(result + 2, result + stride);
  }
  if (measures) {
    const float* const squares = reinterpret_cast<const float*>(pinned + layout.squared_lengths);
    scan->max_length = LengthNotBelow(*std::max_element(squares, squares + parts_), dim);
  }
  return absl::OkStatus();
}

}  // namespace loci
