// Builds candidate indexes over a sample of vectors, measures them, and says which to take.
//
//   LOCI_ASSIGN_OR_RETURN(v1::IndexTuning tuning, TuneIndex(vectors, queries, {.recall_target = 0.95, .scratch_directory = "scratch"}));
//   for (const v1::TuningPoint& point : tuning.front()) if (point.chosen()) ...
//
// Up to kAutoExactRows vectors nothing but exact search is measured: a query takes it a millisecond or two there, which another index
// would shorten by less than what encoding the query takes. Beyond, the candidates are exact search by a pass over 8-bit codes ("exact:int8", which
// finds the same), inverted lists (about 4 sqrt(rows) of them) of plain, 8-bit and product-quantised vectors, and, up to kMaxGraphRows, an HNSW
// graph. (Graphs that were linked by plain vectors are searched the same way and find as much as those by 8-bit ones, whose build takes a third of the
// memory and of the disk: the latter are enough.)
#ifndef LOCI_INDEX_INDEX_TUNER_H_
#define LOCI_INDEX_INDEX_TUNER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/file.h"
#include "base/matrix.h"
#include "index/index_specification.h"
#include "index/passage_index.h"
#include "index/recall.h"
#include "index/vector_file.h"
#include "proto/loci/v1/common.pb.h"

namespace loci {

inline constexpr int64_t kMaxGraphRows = 4'000'000;

// How a point was searched.
IndexSearchOptions SearchOptionsOf(const loci::v1::TuningPoint& point);

// CPU time of one query of those of the meter, searched one by one: the median of rounds.
absl::StatusOr<double> MeasureLatency(const PassageIndex& index, const RecallMeter& meter, const IndexSearchOptions& options,
                                      const RequestLimits& limits);
using LatencyMeter = std::function<absl::StatusOr<double>(const PassageIndex&, const RecallMeter&, const IndexSearchOptions&, const RequestLimits&)>;

struct TunerOptions {
  double recall_target = 0;         // (0, 1].
  int64_t memory_budget_bytes = 0;  // 0: any.
  int64_t sample_rows = kTuningSampleRows;  // At least 256 are taken. Files with fewer rows are measured as they are.
  int64_t exact_rows = kAutoExactRows;
  bool exact_codes =
      false;  // "exact:int8" is measured, not chosen, also where nothing but exact search is: of a generation that is searched so.
  uint64_t seed = 0;  // Of the sample.
  std::string query_source;
  // That this process may still take; -1: not known. What would take more to build is passed over. Null: nobody looks.
  std::function<int64_t()> available_memory_bytes;
  FileSystem* fs = &PosixFileSystem();
  std::string scratch_directory;  // Made, in a folder that is there (else NOT_FOUND), may not exist, and removed in any case.
  RequestLimits limits;           // Looked at between steps and in the rounds of k-means.
  std::function<void(int64_t done, int64_t total)> progress;  // Of candidates; may be null.
  LatencyMeter latency = MeasureLatency;                      // Another one for tests.
};

// FAISS factory strings worth trying for so many rows, one a family: strings of the same position in two results are of the same family, where
// `rows_of_families` is the same. Empty where it is at most `exact_rows`.
std::vector<std::string> CandidateFactories(int dim, int64_t rows, int64_t rows_of_families, int64_t exact_rows = kAutoExactRows);

// Writes 8-bit codes of `vectors` to `path` and measures exact search by them: a point "exact:int8". `progress` (may be null) is
// told of rows done. The file stays. Errors as TuneIndex.
absl::StatusOr<loci::v1::TuningPoint> MeasureCodes(FileSystem& fs, const std::shared_ptr<const VectorFile>& vectors,
                                                   const std::string& path, const RecallMeter& meter, const RequestLimits& limits,
                                                   const LatencyMeter& latency,
                                                   const std::function<void(int64_t done_rows)>& progress = nullptr);

// Measures an index over a ladder of what it can be searched with, cheapest first: each run until it finds nearly all, finds no more in two steps, or
// would be slower than exact search.
// `index` is opened without a pool; memory and recall are as measured, build_ms is given.
absl::StatusOr<std::vector<loci::v1::TuningPoint>> MeasureLadder(const PassageIndex& index, const std::string& factory, const RecallMeter& meter,
                                                                 double exact_latency_us, int64_t build_ms, const RequestLimits& limits,
                                                                 const LatencyMeter& latency = MeasureLatency);

// `queries` [n, vectors.dim()] are not rows of it; recall is measured at 10. The same for the same input and seed, but for latencies and times
// of builds, and what follows from these. INVALID_ARGUMENT for a target outside its range; CANCELLED or DEADLINE_EXCEEDED by limits. Blocks.
absl::StatusOr<loci::v1::IndexTuning> TuneIndex(std::shared_ptr<const VectorFile> vectors, MatrixView<const float> queries,
                                                const TunerOptions& options);

}  // namespace loci

#endif  // LOCI_INDEX_INDEX_TUNER_H_
