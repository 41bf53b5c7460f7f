#include "index/index_tuner.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/device.h"
#include "base/status_macros.h"
#include "base/vector_type.h"
#include "index/build_forecast.h"
#include "index/exact_index.h"
#include "index/faiss_factory.h"
#include "index/faiss_index.h"
#include "index/quantized_vectors.h"
#include "index/tuning_choice.h"

namespace loci {
namespace {

using v1::TuningPoint;

constexpr double kNearlyAll = 0.998;  // Of recall_bound: more is not worth looking farther for.
constexpr int kGraphLinks = 32;
constexpr int64_t kMinQueries = 50;  // Fewer say too little of a mean.
constexpr int64_t kMinSampleRows = 256;  // That a product quantiser is trained with.

double ThreadCpuMicros() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e6 * static_cast<double>(now.tv_sec) + 1e-3 * static_cast<double>(now.tv_nsec);
}

// The power of two nearest to 4 sqrt(rows), of at least a few rows each.
int64_t ListCount(int64_t rows) {
  const double wanted = 4 * std::sqrt(static_cast<double>(rows));
  const int64_t lists = int64_t{1} << std::lround(std::log2(std::max(wanted, 1.0)));
  return std::clamp<int64_t>(lists, 1, std::min<int64_t>(65536, std::max<int64_t>(rows / 8, 1)));
}

// The ways to search an index, as runs of steps that each look farther than the one before.
std::vector<std::vector<TuningPoint>> LadderRuns(const FaissFactory& factory) {
  std::vector<int> rescore_factors = {1};
  if (factory.codec == FaissFactory::Codec::kScalar && !factory.hnsw)
    rescore_factors = {2, 4};  // A graph's codec is not what it is searched by.
  if (factory.codec == FaissFactory::Codec::kProduct) rescore_factors = {4, 16, 64};
  std::vector<std::vector<TuningPoint>> runs;
  if (factory.hnsw) {
    std::vector<TuningPoint>& run = runs.emplace_back();
    for (const int ef_search : {16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024}) {
      TuningPoint& point = run.emplace_back();
      point.set_ef_search(ef_search);
      point.set_rescore_factor(rescore_factors.front());
    }
    return runs;
  }
  if (factory.list_count == 0) {
    std::vector<TuningPoint>& run = runs.emplace_back();
    for (const int rescore_factor : rescore_factors) run.emplace_back().set_rescore_factor(rescore_factor);
    return runs;
  }
  for (const int rescore_factor : rescore_factors) {
    std::vector<TuningPoint>& run = runs.emplace_back();
    for (int64_t power = 1; power <= factory.list_count; power *= 2) {
      for (const int64_t nprobe : {power, power + power / 2}) {  // 1, 2, 3, 4, 6, 8, 12, ...
        if (nprobe > factory.list_count || (!run.empty() && run.back().nprobe() == nprobe)) continue;
        TuningPoint& point = run.emplace_back();
        point.set_nprobe(static_cast<int32_t>(nprobe));
        point.set_rescore_factor(rescore_factor);
      }
    }
  }
  return runs;
}

// Rows spread over the file, one of each stretch, drawn by the seed.
absl::StatusOr<std::shared_ptr<const VectorFile>> WriteSample(FileSystem& fs, const VectorFile& vectors, int64_t count, uint64_t seed,
                                                              const std::string& path, const RequestLimits& limits) {
  constexpr int64_t kCheckRows = 4096;
  LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<VectorFileWriter> writer,
                        VectorFileWriter::Create(fs, path, count, vectors.dim(), ElementType::kFloat32));
  std::mt19937_64 random(seed);
  std::vector<float> row(static_cast<size_t>(vectors.dim()));
  const auto begin = [&](int64_t i) { return static_cast<int64_t>(static_cast<__int128>(i) * vectors.rows() / count); };
  for (int64_t i = 0; i < count; ++i) {
    if (i % kCheckRows == 0) LOCI_RETURN_IF_ERROR(limits.Check(RealClock().NowMicros()));
    vectors.CopyRow(begin(i) + static_cast<int64_t>(random() % static_cast<uint64_t>(begin(i + 1) - begin(i))), row.data());
    LOCI_RETURN_IF_ERROR(writer->Append(row.data()));
  }
  LOCI_RETURN_IF_ERROR(writer->Finish());
  LOCI_ASSIGN_OR_RETURN(std::unique_ptr<VectorFile> file, VectorFile::Open(fs, path));
  return std::shared_ptr<const VectorFile>(std::move(file));
}

// A folder that goes with it.
class ScratchDirectory {
 public:
  ScratchDirectory(FileSystem& fs, std::string path) : fs_(fs), path_(std::move(path)) {}
  ~ScratchDirectory() { fs_.DeleteRecursively(path_).IgnoreError(); }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  absl::Status Make() {
    if (fs_.Exists(path_)) return absl::AlreadyExistsError(absl::StrCat(path_, " exists"));
    // A folder that was deleted meanwhile, a store's, must not come back.
    const size_t slash = path_.rfind('/');
    if (slash != std::string::npos && slash > 0 && !fs_.IsDirectory(path_.substr(0, slash))) {
      return absl::NotFoundError(absl::StrCat(path_.substr(0, slash), " is not there"));
    }
    return fs_.CreateDirectories(path_);
  }

 private:
  FileSystem& fs_;
  const std::string path_;
};

// Builds and measures one candidate over the sample; nothing where it has no memory.
absl::StatusOr<std::vector<TuningPoint>> MeasureCandidate(const std::string& factory, const std::shared_ptr<const VectorFile>& sample,
                                                          const RecallMeter& meter, double exact_latency_us, const TunerOptions& options) {
  if (!FitsMemory({.passage_count = sample->rows(), .dim = sample->dim(), .index = factory}, options.available_memory_bytes)) {
    return std::vector<TuningPoint>();
  }
  const std::string path = JoinPath(options.scratch_directory, "index.faiss");
  const int64_t start_us = RealClock().NowMicros();
  LOCI_RETURN_IF_ERROR(BuildFaissIndex(*options.fs, factory, *sample, path, options.limits));
  const int64_t build_ms = (RealClock().NowMicros() - start_us) / 1000;
  LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<PassageIndex> index, OpenFaissIndex(*options.fs, path, factory, sample, nullptr));
  return MeasureLadder(*index, factory, meter, exact_latency_us, build_ms, options.limits, options.latency);
}

}  // namespace

IndexSearchOptions SearchOptionsOf(const TuningPoint& point) {
  IndexSearchOptions options;
  options.nprobe = point.nprobe();
  options.ef_search = point.ef_search();
  options.rescore_factor = point.rescore_factor();
  return options;
}

std::vector<std::string> CandidateFactories(int dim, int64_t rows, int64_t rows_of_families, int64_t exact_rows) {
  if (rows_of_families <= exact_rows) return {};
  const int64_t lists = ListCount(rows);
  constexpr int64_t kManyLists = 16384;  // That a graph finds faster.
  const std::string ivf = absl::StrCat("IVF", lists, ListCount(rows_of_families) >= kManyLists ? absl::StrCat("_HNSW", kGraphLinks) : "");
  std::vector<std::string> factories = {absl::StrCat(ivf, ",Flat"), absl::StrCat(ivf, ",SQ8")};
  for (const int part : {4, 3, 2, 5, 6, 7, 8}) {
    if (dim % part != 0) continue;
    if (rows_of_families >= kMinSampleRows) factories.push_back(absl::StrCat(ivf, ",PQ", dim / part));
    break;
  }
  if (rows_of_families <= kMaxGraphRows) factories.push_back(absl::StrCat("HNSW", kGraphLinks, ",SQ8"));
  return factories;
}

absl::StatusOr<double> MeasureLatency(const PassageIndex& index, const RecallMeter& meter, const IndexSearchOptions& options,
                                      const RequestLimits& limits) {
  constexpr int kRounds = 3;
  constexpr int64_t kMaxQueries = 32;
  const int64_t count = std::min(kMaxQueries, meter.queries().rows);
  if (count == 0) return 0.0;
  IndexSearchOptions one = options;
  one.top_k = meter.top_k();
  one.limits = limits;
  std::vector<RowHit> hits(static_cast<size_t>(one.top_k));
  std::vector<double> rounds;
  for (int round = 0; round < kRounds; ++round) {
    const double start_us = ThreadCpuMicros();
    for (int64_t q = 0; q < count; ++q) {
      LOCI_RETURN_IF_ERROR(index.Search({meter.queries().row(q), 1, meter.queries().cols}, one, RowMask(), hits.data()));
    }
    rounds.push_back((ThreadCpuMicros() - start_us) / static_cast<double>(count));
  }
  std::nth_element(rounds.begin(), rounds.begin() + kRounds / 2, rounds.end());
  return rounds[kRounds / 2];
}

absl::StatusOr<TuningPoint> MeasureCodes(FileSystem& fs, const std::shared_ptr<const VectorFile>& vectors,
                                         const std::string& path, const RecallMeter& meter, const RequestLimits& limits,
                                         const LatencyMeter& latency, const std::function<void(int64_t done_rows)>& progress) {
  const int64_t start_us = RealClock().NowMicros();
  LOCI_RETURN_IF_ERROR(WriteQuantizedVectors(fs, *vectors, path, [&](int64_t done) {
    if (progress) progress(done);
    return limits.Check(RealClock().NowMicros());
  }));
  const int64_t build_ms = (RealClock().NowMicros() - start_us) / 1000;
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const QuantizedVectors> codes, QuantizedVectors::Open(fs, path));
  const ExactIndex index(vectors, nullptr, DetectCpuIsa(), std::move(codes));
  TuningPoint point;
  point.set_index(kExactInt8Index);
  point.set_recall_at_10(1);
  point.set_recall_bound(1);
  LOCI_ASSIGN_OR_RETURN(const double latency_us, latency(index, meter, {}, limits));
  point.set_latency_us(latency_us);
  point.set_build_ms(std::max<int64_t>(build_ms, 1));  // More than of plain exact search, which no other one beats in this.
  return point;
}

absl::StatusOr<std::vector<TuningPoint>> MeasureLadder(const PassageIndex& index, const std::string& factory, const RecallMeter& meter,
                                                       double exact_latency_us, int64_t build_ms, const RequestLimits& limits,
                                                       const LatencyMeter& latency) {
  LOCI_ASSIGN_OR_RETURN(const FaissFactory parsed, ParseFaissFactory(factory, index.dim(), index.row_count()));
  std::vector<TuningPoint> points;
  constexpr int kFruitless = 2;  // Steps in a row that find nothing more end a run: codes hide what is left, or nothing is.
  for (std::vector<TuningPoint>& run : LadderRuns(parsed)) {
    int fruitless_count = 0;
    double best = -1;
    for (TuningPoint& point : run) {
      const IndexSearchOptions options = SearchOptionsOf(point);
      IndexSearchOptions at_ten = options;
      at_ten.top_k = meter.top_k();
      if (index.IsExact(at_ten, RowMask())) break;
      LOCI_ASSIGN_OR_RETURN(const std::vector<double> recalls, meter.Measure(index, options, limits));
      LOCI_ASSIGN_OR_RETURN(const double latency_us, latency(index, meter, options, limits));
      if (latency_us > exact_latency_us) break;
      point.set_index(factory);
      point.set_recall_at_10(MeanRecall(recalls));
      point.set_recall_bound(RecallBound(recalls));
      point.set_latency_us(latency_us);
      point.set_memory_bytes(index.memory_bytes());
      point.set_build_ms(build_ms);
      fruitless_count = point.recall_at_10() <= best ? fruitless_count + 1 : 0;
      best = std::max(best, point.recall_at_10());
      const bool enough = point.recall_bound() >= kNearlyAll || fruitless_count == kFruitless;
      points.push_back(std::move(point));
      if (enough) break;
    }
  }
  return points;
}

absl::StatusOr<v1::IndexTuning> TuneIndex(std::shared_ptr<const VectorFile> vectors, MatrixView<const float> queries,
                                          const TunerOptions& options) {
  if (!(options.recall_target > 0 && options.recall_target <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("the recall target is ", options.recall_target, "; it must be above 0 and at most 1"));
  }
  if (queries.rows > 0 && queries.cols != vectors->dim()) {
    return absl::InvalidArgumentError(absl::StrCat("the queries have dimension ", queries.cols, ", the vectors ", vectors->dim()));
  }
  const int64_t rows = vectors->rows();
  const bool is_small = rows <= options.exact_rows;
  const int64_t sample_rows = is_small ? rows : std::min(rows, std::max(options.sample_rows, kMinSampleRows));
  // Queries are needed to tell indexes apart.
  const bool can_measure = queries.rows > 0;
  const std::vector<std::string> of_sample =
      can_measure ? CandidateFactories(vectors->dim(), sample_rows, rows, options.exact_rows) : std::vector<std::string>();
  const std::vector<std::string> of_all = CandidateFactories(vectors->dim(), rows, rows, options.exact_rows);
  const auto report = [&](size_t done) {
    if (options.progress) options.progress(static_cast<int64_t>(done), static_cast<int64_t>(of_sample.size()));
  };
  report(0);
  LOCI_RETURN_IF_ERROR(options.limits.Check(RealClock().NowMicros()));
  ScratchDirectory scratch(*options.fs, options.scratch_directory);
  LOCI_RETURN_IF_ERROR(scratch.Make());
  std::shared_ptr<const VectorFile> sample = vectors;
  if (sample_rows < rows) {
    LOCI_ASSIGN_OR_RETURN(sample, WriteSample(*options.fs, *vectors, sample_rows, options.seed, JoinPath(options.scratch_directory, "vectors.bin"),
                                              options.limits));
  }
  const ExactIndex exact(sample, nullptr);
  LOCI_ASSIGN_OR_RETURN(const RecallMeter meter, RecallMeter::Create(exact, queries, kLadderTopK, options.limits));
  LOCI_ASSIGN_OR_RETURN(const double exact_latency_us, options.latency(exact, meter, {}, options.limits));

  TuningPoint exact_point;
  exact_point.set_index(kExactIndex);
  exact_point.set_recall_at_10(1);
  exact_point.set_recall_bound(1);
  exact_point.set_latency_us(exact_latency_us);
  LOCI_ASSIGN_OR_RETURN(exact_point, ExtrapolatePoint(exact_point, vectors->dim(), sample_rows, kExactIndex, rows));
  std::vector<TuningPoint> points = {std::move(exact_point)};
  // Beside more rows the steps that look farthest gain on exact search: what is slower here is left out only where these are all.
  double most_latency_us = exact_latency_us;
  if (can_measure && (!is_small || options.exact_codes)) {
    const std::string path = JoinPath(options.scratch_directory, "vectors.int8");
    LOCI_ASSIGN_OR_RETURN(const TuningPoint point,
                          MeasureCodes(*options.fs, sample, path, meter, options.limits, options.latency));
    if (sample_rows == rows) most_latency_us = std::min(most_latency_us, point.latency_us());
    LOCI_ASSIGN_OR_RETURN(points.emplace_back(), ExtrapolatePoint(point, vectors->dim(), sample_rows, kExactInt8Index, rows));
    LOCI_RETURN_IF_ERROR(options.fs->DeleteFile(path));  // Candidates have its room.
  }
  for (size_t i = 0; i < of_sample.size(); ++i) {
    LOCI_ASSIGN_OR_RETURN(const std::vector<TuningPoint> measured,
                          MeasureCandidate(of_sample[i], sample, meter, most_latency_us, options));
    for (const TuningPoint& point : measured) {
      LOCI_ASSIGN_OR_RETURN(points.emplace_back(), ExtrapolatePoint(point, vectors->dim(), sample_rows, of_all[i], rows));
    }
    report(i + 1);
  }

  v1::IndexTuning tuning;
  tuning.set_recall_target(options.recall_target);
  tuning.set_memory_budget_bytes(options.memory_budget_bytes);
  tuning.set_row_count(rows);
  tuning.set_sample_row_count(sample_rows);
  tuning.set_query_count(queries.rows);
  tuning.set_query_source(options.query_source);
  std::vector<TuningPoint> front = ParetoFront(points);
  TuningChoice choice = ChoosePoint(front, options.recall_target, options.memory_budget_bytes);
  if (is_small) {
    const auto is_plain = [](const TuningPoint& point) { return point.index() == kExactIndex; };
    choice.position = static_cast<int>(std::find_if(front.begin(), front.end(), is_plain) - front.begin());
    choice.reason = absl::StrCat("at most ", options.exact_rows, " vectors: searched exactly");
  } else if (queries.rows < kMinQueries) {
    choice.position = FastestExact(front);  // To tell times apart they are enough.
    choice.reason =
        absl::StrCat(queries.rows, options.query_source.empty() ? " queries" : absl::StrCat(" queries (", options.query_source, ")"),
                     " are too few to choose by, there must be ", kMinQueries, ": searched exactly",
                     front[static_cast<size_t>(choice.position)].index() == kExactInt8Index ? kByCodes : "");
  }
  front[static_cast<size_t>(choice.position)].set_chosen(true);
  for (TuningPoint& point : front) *tuning.add_front() = std::move(point);
  tuning.set_reason(choice.reason);
  return tuning;
}

}  // namespace loci
