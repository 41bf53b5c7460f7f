#include "index/cuda/cuda_softmax.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/field_error.h"
#include "base/status_macros.h"

namespace loci {
namespace {

constexpr double kLog2E = 1.4426950408889634;

int64_t RoundUpTo(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Device memory of a pass, and what of it the host has too.
struct SoftmaxLayout {
  int64_t queries, results, shared_end;  // The host's too.
  int64_t mask, maxima, sums, weighted, end;
};

SoftmaxLayout LayOut(int64_t rows, int64_t queries, int64_t dim, int64_t parts) {
  int64_t at = 0;
  const auto take = [&at](int64_t bytes) { return std::exchange(at, at + RoundUpTo(bytes, 256)); };
  SoftmaxLayout layout;
  layout.queries = take(queries * RoundUpTo(dim, 16) * 4);
  layout.results = take(queries * (2 + dim) * 8);
  layout.mask = take((rows + 63) / 64 * 8);
  layout.shared_end = at;
  layout.maxima = take(queries * parts * 4);
  layout.sums = take(queries * parts * 8);
  layout.weighted = take(queries * parts * dim * 4);
  layout.end = at;
  return layout;
}

}  // namespace

struct CudaSoftmax::Lane {
  CudaStream stream;
  CudaEvent event;
  DeviceMemory memory;
  PinnedMemory pinned;
  SoftmaxLayout layout;
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
  if (options.max_queries < 1 || options.max_queries % cuda::kSoftmaxTileQueries != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a pass of the softmax has ", options.max_queries,
                                                   " queries; it must be a positive multiple of ", cuda::kSoftmaxTileQueries));
  }
  auto softmax =
      std::unique_ptr<CudaSoftmax>(new CudaSoftmax(std::move(device), std::move(resident), std::move(vectors), options));
  const absl::Status status = softmax->Init();
  if (absl::IsUnavailable(status)) return softmax->device_.health->Fail(status);
  LOCI_RETURN_IF_ERROR(status);
  return softmax;
}

absl::Status CudaSoftmax::Init() {
  CudaRuntime& runtime = *device_.runtime;
  const int dim = vectors_->dim();
  LOCI_ASSIGN_OR_RETURN(const int most_parts, device_.kernels->SoftmaxParts(vectors_->element_type(), dim));
  const int64_t tiles = (vectors_->rows() + cuda::kSoftmaxTileRows - 1) / cuda::kSoftmaxTileRows;
  const int64_t held = options_.part_bytes / (options_.max_queries * (int64_t{dim} * 4 + 12));
  parts_ = static_cast<int>(std::clamp<int64_t>(std::min(tiles, held), 1, most_parts));
  lane_ = std::make_unique<Lane>();
  Lane& lane = *lane_;
  lane.layout = LayOut(vectors_->rows(), options_.max_queries, dim, parts_);
  LOCI_ASSIGN_OR_RETURN(lane.stream, Own<CudaStream>(runtime, runtime.CreateStream()));
  LOCI_ASSIGN_OR_RETURN(lane.event, Own<CudaEvent>(runtime, runtime.CreateEvent(EventWait::kBlock)));
  LOCI_ASSIGN_OR_RETURN(lane.memory, Own<DeviceMemory>(runtime, runtime.Allocate(lane.layout.end)));
  LOCI_ASSIGN_OR_RETURN(lane.pinned, Own<PinnedMemory>(runtime, runtime.AllocatePinned(lane.layout.shared_end)));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<SoftmaxSums>> CudaSoftmax::Scan(MatrixView<const float> queries, const RowMask& hidden,
                                                           const SoftmaxScanOptions& options) const {
  if (queries.rows > 0 && queries.cols != vectors_->dim()) {
    return absl::InvalidArgumentError(absl::StrCat("queries have ", queries.cols, " dimensions, the passages ", vectors_->dim()));
  }
  if (!(options.temperature >= kMinTemperature && options.temperature <= kMaxTemperature)) {
    return InvalidField("temperature", absl::StrCat("is ", options.temperature, "; it must be in [", kMinTemperature, ", ",
                                                    kMaxTemperature, "]"));
  }
  std::vector<SoftmaxSums> sums(static_cast<size_t>(queries.rows));
  if (queries.rows == 0) return sums;
  {
    MutexLock lock(&mutex_);
    while (busy_) is_free_.Wait(&mutex_);
    busy_ = true;
  }
  absl::Status status = device_.health->Check();
  if (status.ok()) {
    status = ScanInPasses(queries, hidden, options, &sums);
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
  return sums;
}

absl::Status CudaSoftmax::ScanInPasses(MatrixView<const float> queries, const RowMask& hidden, const SoftmaxScanOptions& options,
                                       std::vector<SoftmaxSums>* sums) const {
  LOCI_RETURN_IF_ERROR(options.limits.Check(RealClock().NowMicros()));
  const bool masked = hidden.hidden_count() > 0;
  if (masked) {
    uint64_t* const words = reinterpret_cast<uint64_t*>(static_cast<char*>(lane_->pinned.get()) + lane_->layout.mask);
    const int64_t count = (vectors_->rows() + 63) / 64;
    for (int64_t i = 0; i < count; ++i) words[i] = hidden.word(64 * i);
    LOCI_RETURN_IF_ERROR(device_.runtime->CopyToDevice(static_cast<char*>(lane_->memory.get()) + lane_->layout.mask, words,
                                                       8 * count, lane_->stream.get()));
  }
  for (int64_t first = 0; first < queries.rows; first += options_.max_queries) {
    LOCI_RETURN_IF_ERROR(options.limits.Check(RealClock().NowMicros()));
    const int64_t count = std::min<int64_t>(options_.max_queries, queries.rows - first);
    LOCI_RETURN_IF_ERROR(
        RunPass({queries.row(first), count, queries.cols}, masked, options, &(*sums)[static_cast<size_t>(first)]));
  }
  return absl::OkStatus();
}

absl::Status CudaSoftmax::RunPass(MatrixView<const float> queries, bool masked, const SoftmaxScanOptions& options,
                                  SoftmaxSums* sums) const {
  CudaRuntime& runtime = *device_.runtime;
  const SoftmaxLayout& layout = lane_->layout;
  const CudaHandle stream = lane_->stream.get();
  const int dim = vectors_->dim();
  const int64_t padded_dim = RoundUpTo(dim, 16), padded_queries = RoundUpTo(queries.rows, cuda::kSoftmaxTileQueries);
  char* const pinned = static_cast<char*>(lane_->pinned.get());
  char* const memory = static_cast<char*>(lane_->memory.get());
  float* const padded = reinterpret_cast<float*>(pinned + layout.queries);
  std::memset(padded, 0, static_cast<size_t>(padded_queries * padded_dim * 4));
  for (int64_t q = 0; q < queries.rows; ++q) std::copy_n(queries.row(q), dim, padded + q * padded_dim);
  LOCI_RETURN_IF_ERROR(runtime.CopyToDevice(memory + layout.queries, padded, padded_queries * padded_dim * 4, stream));
  const float scale = static_cast<float>(kLog2E / options.temperature);
  float* const weighted = options.mean ? reinterpret_cast<float*>(memory + layout.weighted) : nullptr;
  const cuda::SoftmaxArgs<void> scan = {.rows = resident_->rows(),
                                        .queries = reinterpret_cast<const float*>(memory + layout.queries),
                                        .hidden = masked ? reinterpret_cast<const uint32_t*>(memory + layout.mask) : nullptr,
                                        .maxima = reinterpret_cast<float*>(memory + layout.maxima),
                                        .sums = reinterpret_cast<double*>(memory + layout.sums),
                                        .weighted = weighted,
                                        .scale = scale,
                                        .row_count = static_cast<int32_t>(vectors_->rows()),
                                        .dim = dim,
                                        .padded_dim = static_cast<int32_t>(padded_dim)};
  LOCI_RETURN_IF_ERROR(device_.kernels->Softmax(vectors_->element_type(), scan, parts_,
                                                static_cast<int>(padded_queries / cuda::kSoftmaxTileQueries), stream));
  const cuda::SoftmaxMergeArgs merge = {.maxima = scan.maxima,
                                        .sums = scan.sums,
                                        .weighted = weighted,
                                        .out = reinterpret_cast<double*>(memory + layout.results),
                                        .scale = scale,
                                        .parts = parts_,
                                        .dim = dim};
  LOCI_RETURN_IF_ERROR(device_.kernels->SoftmaxMerge(merge, static_cast<int>(queries.rows), stream));
  const int64_t stride = 2 + dim;
  LOCI_RETURN_IF_ERROR(runtime.CopyToHost(pinned + layout.results, memory + layout.results, queries.rows * stride * 8, stream));
  LOCI_RETURN_IF_ERROR(runtime.Record(lane_->event.get(), stream));
  LOCI_RETURN_IF_ERROR(runtime.Wait(lane_->event.get()));
  const double* const results = reinterpret_cast<const double*>(pinned + layout.results);
  for (int64_t q = 0; q < queries.rows; ++q) {
    const double* const result = results + q * stride;
    sums[q].max_score = result[0];
    sums[q].sum = result[1];
    if (options.mean) sums[q].weighted.assign(result + 2, result + stride);
  }
  return absl::OkStatus();
}

}  // namespace loci
