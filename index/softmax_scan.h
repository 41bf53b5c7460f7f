// One streaming pass over all passages for the exact softmax of each query: log-normaliser, mean vector, and draws.
//
// With scores s_i = q.z_i / temperature over the N rows that are there, p = softmax(s). Per query the pass keeps
//   (max s, sum_i e^(s_i - max), sum_i e^(s_i - max) z_i)
// as flash attention does (Dao et al. 2022; the online normaliser: Milakov and Gimelshein 2018). Such triples merge, over blocks, threads
// and shards, so that memory is O(queries * dim) a thread, whatever the rows. log Z = max + log(sum); E_p[z] = weighted / sum.
//
//   LOCI_ASSIGN_OR_RETURN(auto scan, ScanSoftmax(view.ScanSegments(), queries, head_rows, {.temperature = 0.05, .mean = true}));
//   const double log_z = scan.sums[0].LogMass(0.05);
//
// Scores are ExactIndex's, bit for bit. Products are added in float32 within kSoftmaxGroupRows rows and in float64 beyond; ranges of rows
// that depend on nothing but the segments are merged in their order, so that a result has the same bits on every machine and number of
// threads, as long as the rows are laid out the same: for one view, as a session holds it. The same passages written in another order,
// compacted or replayed after a restart lie in other groups and blocks: other last bits, and other draws of a seed. Hidden and skipped
// rows count exactly zero. A device that holds the rows of a body (device_softmax.h) adds in another order: its log Z and mean agree with
// these to about 1e-5, and have the same bits each time on one device.
#ifndef LOCI_INDEX_SOFTMAX_SCAN_H_
#define LOCI_INDEX_SOFTMAX_SCAN_H_

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/device.h"
#include "base/matrix.h"
#include "base/thread_pool.h"
#include "index/scan_segment.h"

namespace loci {

// Temperatures that are taken, both ends included.
inline constexpr double kMinTemperature = 1e-12;
inline constexpr double kMaxTemperature = 1e12;

// Rows of a block whose mass is kept: [0, 1024), [1024, 2048), ... of each segment.
inline constexpr int64_t kMassBlockRows = 1024;

struct SoftmaxScanOptions {
  double temperature = 1;      // In [kMinTemperature, kMaxTemperature].
  bool mean = false;           // Keep the weighted sum of the rows too: about twice the work.
  bool block_masses = false;   // For SampleSoftmax.
  bool max_length = false;     // For bounds.
  RequestLimits limits;        // Looked at about every million multiplications.
  ThreadPool* pool = nullptr;  // Borrowed; takes part. Null: the calling thread alone.
  CpuIsa isa = DetectCpuIsa();
};

// What was seen of one query's distribution; of nothing: max_score -infinity, sum 0. Merge joins what was seen of other rows.
struct SoftmaxSums {
  double max_score = -std::numeric_limits<double>::infinity();  // The largest q.z, not divided by the temperature.
  double sum = 0;                                               // Of e^((q.z - max_score) / temperature).
  std::vector<double> weighted;                                 // Of the same times z, [dim]; empty where no mean is kept.

  double LogMass(double temperature) const;  // log of the sum of e^(q.z / temperature); -infinity of nothing.
  void Merge(const SoftmaxSums& other, double temperature);
};

struct SoftmaxScan {
  std::vector<SoftmaxSums> sums;         // One a query.
  int64_t block_count = 0;               // Over all segments, in their order.
  std::vector<double> block_log_masses;  // With options.block_masses [query_count, block_count]: LogMass of each block.
  // With options.max_length: no row that is not hidden is longer than this, and the longest is shorter by a part in 10,000 at most, or by
  // 2e-19 sqrt(dim), below which float32 has no squares. 0 without rows.
  double max_length = 0;
};

// A row that was drawn, and its q.z.
struct SampledRow {
  ViewRow row;
  double score = 0;
};

// Scans all rows of `segments` that their masks do not hide. `queries` [n, dim], finite, of the segments' dimension, squared length at most
// kMaxSquaredLength; float32: scored as ExactIndex does; float64: products and sums in float64 throughout, several times slower.
// `skipped` (empty, or one list a query, in any order, repeats allowed): rows that count zero for that query alone.
// INVALID_ARGUMENT for a temperature out of range or shapes that do not fit; CANCELLED or DEADLINE_EXCEEDED by the limits. Blocks.
absl::StatusOr<SoftmaxScan> ScanSoftmax(std::span<const ScanSegment> segments, MatrixView<const float> queries,
                                        std::span<const std::vector<ViewRow>> skipped, const SoftmaxScanOptions& options);
absl::StatusOr<SoftmaxScan> ScanSoftmax(std::span<const ScanSegment> segments, MatrixView<const double> queries,
                                        std::span<const std::vector<ViewRow>> skipped, const SoftmaxScanOptions& options);

// `count` independent draws from the distribution of each query, in the order drawn, none where nothing has mass: a block by its mass,
// then, the block's rows scored again, a row by its own. `scan` is ScanSoftmax's of the same segments, queries, skipped and temperature,
// with block masses. The draws of query i are a function of seeds[i]. Errors as ScanSoftmax.
absl::StatusOr<std::vector<std::vector<SampledRow>>> SampleSoftmax(std::span<const ScanSegment> segments, MatrixView<const float> queries,
                                                                   std::span<const std::vector<ViewRow>> skipped,
                                                                   const SoftmaxScanOptions& options, const SoftmaxScan& scan,
                                                                   std::span<const uint64_t> seeds, int count);
absl::StatusOr<std::vector<std::vector<SampledRow>>> SampleSoftmax(std::span<const ScanSegment> segments, MatrixView<const double> queries,
                                                                   std::span<const std::vector<ViewRow>> skipped,
                                                                   const SoftmaxScanOptions& options, const SoftmaxScan& scan,
                                                                   std::span<const uint64_t> seeds, int count);

// SoftmaxScan::max_length by the largest squared length of a row, added in float32 in any order; negative: of no row.
double LengthNotBelow(float max_squared_length, int dim);

// The score of one row as the float64 scan has it. `query` and `row` [dim].
double ExactScore64(const double* query, const float* row, int dim);

// Statistically independent streams of one seed: what seeds[i] may be made of.
uint64_t MixSeed(uint64_t seed, uint64_t stream);

}  // namespace loci

#endif  // LOCI_INDEX_SOFTMAX_SCAN_H_
