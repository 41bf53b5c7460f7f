#include "index/softmax_tiles.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/vector_type.h"

namespace loci {
namespace {

using Double4 __attribute__((vector_size(32))) = double;

Double4 Load4(const double* from) {
  Double4 values;
  std::memcpy(&values, from, sizeof(values));
  return values;
}

Double4 Load4(const float* from) { return Double4{from[0], from[1], from[2], from[3]}; }

void WidenRow(const void* row, ElementType type, int dim, float* out) {
  switch (type) {
    case ElementType::kFloat16: Float16ToFloat32(static_cast<const uint16_t*>(row), out, dim); return;
    case ElementType::kBfloat16: Bfloat16ToFloat32(static_cast<const uint16_t*>(row), out, dim); return;
    default: std::memcpy(out, row, dim * sizeof(float)); return;
  }
}

}  // namespace

ScanPlan MakeScanPlan(std::span<const ScanSegment> segments) {
  ScanPlan plan;
  for (const ScanSegment& segment : segments) {
    for (int64_t offset = 0; offset < segment.rows; offset += kScanRangeRows) {
      plan.ranges.push_back({&segment, segment.first_row + offset, std::min(kScanRangeRows, segment.rows - offset),
                             plan.block_count + offset / kMassBlockRows});
    }
    plan.block_count += (segment.rows + kMassBlockRows - 1) / kMassBlockRows;
    plan.rows += segment.rows;
  }
  return plan;
}

std::vector<SkipList> SortSkipped(std::span<const std::vector<ViewRow>> skipped) {
  std::vector<SkipList> lists(skipped.size());
  for (size_t q = 0; q < skipped.size(); ++q) {
    for (const ViewRow& row : skipped[q]) (row.in_overlay ? lists[q].overlay : lists[q].body).push_back(row.row);
    std::sort(lists[q].body.begin(), lists[q].body.end());
    std::sort(lists[q].overlay.begin(), lists[q].overlay.end());
  }
  return lists;
}

void VisibleRows::List(const ScanSegment& segment, int dim, int64_t first, int64_t count) {
  data.clear();
  rows.clear();
  const int64_t row_bytes = dim * static_cast<int64_t>(ElementSize(segment.type));
  const char* const base = static_cast<const char*>(segment.data) - segment.first_row * row_bytes;
  for (int64_t begin = first; begin < first + count; begin += 64) {
    const int64_t left = first + count - begin;
    uint64_t bits = left >= 64 ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
    if (segment.hidden != nullptr) bits &= ~segment.hidden->word(begin);
    for (; bits != 0; bits &= bits - 1) {
      const int64_t row = begin + std::countr_zero(bits);
      rows.push_back(row);
      data.push_back(base + row * row_bytes);
    }
  }
}

absl::Status CheckScanArguments(std::span<const ScanSegment> segments, int64_t query_count, std::span<const std::vector<ViewRow>> skipped,
                                const SoftmaxScanOptions& options) {
  if (!(options.temperature >= kMinTemperature && options.temperature <= kMaxTemperature)) {
    return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("temperature is ", options.temperature, ", it must be in [",
                                                                   kMinTemperature, ", ", kMaxTemperature, "]")),
                           "INVALID_ARGUMENT", {{"field", "temperature"}});
  }
  if (!skipped.empty() && static_cast<int64_t>(skipped.size()) != query_count) {
    return absl::InvalidArgumentError(absl::StrCat(skipped.size(), " lists of skipped rows for ", query_count, " queries"));
  }
  for (const ScanSegment& segment : segments) {
    if (segment.first_row % 64 != 0) return absl::InternalError(absl::StrCat("a segment begins at row ", segment.first_row));
  }
  return absl::OkStatus();
}

FloatTile::FloatTile(MatrixView<const float> queries, const SoftmaxScanOptions& options)
    : dim_(static_cast<int>(queries.cols)),
      stride_(PaddedDim(queries.cols)),
      exact_(GetExactKernels(options.isa)),
      softmax_(GetSoftmaxKernels(options.isa)),
      inverse_temperature_(static_cast<float>(1 / options.temperature)),
      padded_(static_cast<size_t>(queries.rows * stride_)) {
  for (int64_t q = 0; q < queries.rows; ++q) std::copy_n(queries.row(q), queries.cols, padded_.data() + q * stride_);
}

void FloatTile::Scores(int64_t q, int count, ElementType type, const void* const* rows, int64_t row_count, const void* const* prefetch,
                       int64_t prefetch_count, float* scores) const {
  exact_.gather(type)(padded_.data() + q * stride_, count, rows, row_count, dim_, scores, kSoftmaxGroupRows, prefetch, prefetch_count);
}

DoubleTile::DoubleTile(MatrixView<const double> queries, const SoftmaxScanOptions& options)
    : queries_(queries), dim_(static_cast<int>(queries.cols)), temperature_(options.temperature) {}

void DoubleTile::Scores(int64_t q, int count, ElementType type, const void* const* rows, int64_t row_count, const void* const*, int64_t,
                        double* scores) const {
  std::vector<float> row(static_cast<size_t>(dim_));
  for (int64_t r = 0; r < row_count; ++r) {
    WidenRow(rows[r], type, dim_, row.data());
    for (int i = 0; i < count; ++i) scores[i * kSoftmaxGroupRows + r] = ExactScore64(queries_.row(q + i), row.data(), dim_);
  }
}

double DoubleTile::Max(const double* scores, int64_t count) const { return *std::max_element(scores, scores + count); }

double DoubleTile::Weigh(double* scores, int64_t count, double max) const {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    scores[i] = std::exp((scores[i] - max) / temperature_);
    sum += scores[i];
  }
  return sum;
}

void DoubleTile::Accumulate(const double* weights, int count, ElementType type, const void* const* rows, int64_t row_count,
                            double* sums) const {
  std::vector<float> row(static_cast<size_t>(dim_));
  for (int64_t r = 0; r < row_count; ++r) {
    WidenRow(rows[r], type, dim_, row.data());
    for (int i = 0; i < count; ++i) {
      const double weight = weights[i * kSoftmaxGroupRows + r];
      if (weight == 0) continue;
      double* const out = sums + static_cast<int64_t>(i) * dim_;
      int d = 0;
      for (; d + 4 <= dim_; d += 4) {
        const Double4 sum = Load4(out + d) + weight * Load4(row.data() + d);
        std::memcpy(out + d, &sum, sizeof(sum));
      }
      for (; d < dim_; ++d) out[d] += weight * row[d];
    }
  }
}

double ExactScore64(const double* query, const float* row, int dim) {
  Double4 even = {}, odd = {};
  int d = 0;
  for (; d + 8 <= dim; d += 8) {
    even += Load4(query + d) * Load4(row + d);
    odd += Load4(query + d + 4) * Load4(row + d + 4);
  }
  const Double4 both = even + odd;
  double sum = (both[0] + both[2]) + (both[1] + both[3]);
  for (; d < dim; ++d) sum += query[d] * row[d];
  return sum;
}

}  // namespace loci
