#include "index/faiss_index.h"

#include <cblas.h>
#include <faiss/IndexFlatCodes.h>
#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFPQ.h>
#include <faiss/IndexPQ.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/impl/io.h>
#include <faiss/index_factory.h>
#include <faiss/index_io.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/device.h"
#include "base/error.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "index/exact_kernels.h"
#include "index/faiss_factory.h"
#include "index/faiss_limits.h"
#include "index/flat_lists.h"
#include "index/graph_file.h"
#include "index/graph_search.h"
#include "index/integer_lists.h"
#include "index/rounded_centroids.h"

namespace loci {
namespace {

constexpr int kDefaultEfSearch = 64;
constexpr int64_t kAddRows = 16384;  // Between looks at the limits.
constexpr int64_t kQueriesPerTask = 8;
constexpr int64_t kWidenFactor = 8;

// The number of threads that OpenMP takes in regions that this thread opens. With one it starts none.
class OpenMpThreads {
 public:
  explicit OpenMpThreads(int count) : before_(omp_get_max_threads()) {
    static std::once_flag blas_once;
    std::call_once(blas_once, [] { openblas_set_num_threads(1); });
    InstallFaissLimits();
    omp_set_num_threads(count);
  }
  ~OpenMpThreads() { omp_set_num_threads(before_); }
  OpenMpThreads(const OpenMpThreads&) = delete;
  OpenMpThreads& operator=(const OpenMpThreads&) = delete;

 private:
  const int before_;
};

// Where exceptions end: FAISS's, and those of memory that is not there. `body` may return a status.
template <typename Body>
absl::Status CatchExceptions(const std::string& what, const Body& body) {
  try {
    if constexpr (std::is_void_v<decltype(body())>) {
      body();
      return absl::OkStatus();
    } else {
      return body();
    }
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": out of memory"));
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat(what, ": ", error.what()));
  }
}

class FileWriter : public faiss::IOWriter {
 public:
  explicit FileWriter(std::unique_ptr<WritableFile> file) : file_(std::move(file)) {}
  size_t operator()(const void* data, size_t size, size_t count) override {
    const std::string_view bytes(static_cast<const char*>(data), size * count);
    if (buffer_.size() + bytes.size() > kBufferBytes) Flush();
    if (bytes.size() > kBufferBytes) {  // All vectors may come at once: a copy of them would take as much memory again.
      if (status_.ok()) status_ = file_->Append(bytes);
    } else {
      buffer_.append(bytes);
    }
    return status_.ok() ? count : 0;
  }
  absl::Status Finish() {
    Flush();
    LOCI_RETURN_IF_ERROR(status_);
    LOCI_RETURN_IF_ERROR(file_->Sync());
    return file_->Close();
  }
  const absl::Status& status() const { return status_; }

 private:
  static constexpr size_t kBufferBytes = 1 << 20;
  void Flush() {
    if (status_.ok()) status_ = file_->Append(buffer_);
    buffer_.clear();
  }
  std::unique_ptr<WritableFile> file_;
  std::string buffer_;
  absl::Status status_;
};

class MappedReader : public faiss::IOReader {
 public:
  explicit MappedReader(std::string_view data) : rest_(data) {}
  size_t operator()(void* data, size_t size, size_t count) override {
    if (size == 0) return count;
    count = std::min(count, rest_.size() / size);
    if (count > 0) std::memcpy(data, rest_.data(), size * count);
    rest_.remove_prefix(size * count);
    return count;
  }

 private:
  std::string_view rest_;
};

struct VisibleRows : faiss::IDSelector {
  explicit VisibleRows(const RowMask& mask) : hidden(mask) {}
  bool is_member(idx_t id) const override { return !hidden.hidden(id); }
  const RowMask& hidden;
};

// The rows that training sees: spread evenly over the file.
std::vector<float> TrainingRows(const VectorFile& vectors, const FaissFactory& factory) {
  const int64_t count = factory.TrainingRowCount(vectors.dim(), vectors.rows());
  std::vector<float> rows(count * vectors.dim());
  for (int64_t i = 0; i < count; ++i) {
    vectors.CopyRow(static_cast<int64_t>(static_cast<__int128>(i) * vectors.rows() / count), rows.data() + i * vectors.dim());
  }
  return rows;
}

// What chooses candidates rounds the query and multiplies in float32, which goes well where its elements are neither very small nor very large. Only
// where it points to matters: returns `query` [dim], or that times a power of two, in `scaled`.
const float* ToMiddle(const float* query, int dim, std::vector<float>* scaled) {
  float largest = 0;
  for (int d = 0; d < dim; ++d) largest = std::max(largest, std::abs(query[d]));
  if (largest == 0 || (largest > 0x1p-30f && largest < 0x1p30f)) return query;
  const int exponent = std::ilogb(largest);
  scaled->resize(static_cast<size_t>(dim));
  for (int d = 0; d < dim; ++d) (*scaled)[static_cast<size_t>(d)] = std::ldexp(query[d], -exponent);
  return scaled->data();
}

// Room for `rows`, where they will lie in one piece: growing by doubling holds the old piece and the new one for a while.
void Reserve(faiss::Index& index, const FaissFactory& factory, int64_t rows) {
  faiss::Index* codes = &index;
  const size_t row_count = static_cast<size_t>(rows);
  if (auto* graph = dynamic_cast<faiss::IndexHNSW*>(&index)) {
    graph->hnsw.levels.reserve(row_count);
    graph->hnsw.offsets.reserve(row_count + 1);
    graph->hnsw.neighbors.reserve(row_count * static_cast<size_t>(factory.LinkBytes()) / sizeof(graph->hnsw.neighbors[0]));
    codes = graph->storage;
  }
  if (auto* flat = dynamic_cast<faiss::IndexFlatCodes*>(codes)) flat->codes.reserve(row_count * flat->code_size);
}

int64_t DefaultNprobe(int64_t list_count) { return std::min(list_count, std::max<int64_t>(8, list_count / 16)); }

class FaissIndex : public PassageIndex {
 public:
  // A graph is searched by `graph`, then `index` is null.
  FaissIndex(std::unique_ptr<faiss::Index> index, std::unique_ptr<const GraphSearch> graph, std::string name, const FaissFactory& factory,
             int64_t bytes, std::shared_ptr<const VectorFile> vectors, ThreadPool* pool, SearchLadder ladder, const ExactIndex* exact)
      : index_(std::move(index)),
        graph_(std::move(graph)),
        name_(std::move(name)),
        factory_(factory),
        bytes_(bytes),
        vectors_(std::move(vectors)),
        own_exact_(exact == nullptr ? std::make_unique<ExactIndex>(vectors_, pool) : nullptr),
        exact_(exact == nullptr ? *own_exact_ : *exact),
        pool_(pool),
        ladder_(std::move(ladder)) {}

  int64_t row_count() const override { return vectors_->rows(); }
  int dim() const override { return vectors_->dim(); }
  std::string name() const override { return name_; }
  int64_t memory_bytes() const override { return bytes_; }
  bool IsExact(const IndexSearchOptions& options, const RowMask& hidden) const override {
    if (options.exact || hidden.hidden_count() >= row_count()) return true;
    if (options.recall_target > 0 && CheapestStep(ladder_, options.recall_target) == nullptr) return true;
    return IsTooMany(FirstEffort(options, hidden).candidates);
  }

  absl::Status Search(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden,
                      RowHit* hits) const override {
    // FAISS ends the process on an exception in its HNSW search, by which lists may be found: nothing that it would refuse may come that far.
    LOCI_RETURN_IF_ERROR(CheckSearchArguments(*this, queries, options,
                                              {.list_count = factory_.list_count, .is_hnsw = factory_.hnsw, .rescores = true}));
    if (IsExact(options, hidden)) {
      IndexSearchOptions exact;
      exact.top_k = options.top_k;
      exact.limits = options.limits;
      return exact_.Search(queries, exact, hidden, hits);
    }
    const int64_t tasks = (queries.rows + kQueriesPerTask - 1) / kQueriesPerTask;
    Mutex mutex;
    absl::Status failure;
    std::atomic<bool> stopped{false};
    const auto task = [&](int64_t i) {
      if (stopped.load(std::memory_order_relaxed)) return;
      const int64_t first = i * kQueriesPerTask;
      const MatrixView<const float> part = {queries.row(first), std::min(kQueriesPerTask, queries.rows - first), queries.cols};
      absl::Status status = CatchExceptions(search_what_, [&] { return SearchPart(part, options, hidden, hits + first * options.top_k); });
      if (status.ok()) return;
      // Says why FAISS broke off.
      if (absl::Status ended = options.limits.Check(RealClock().NowMicros()); !ended.ok()) status = std::move(ended);
      stopped.store(true, std::memory_order_relaxed);
      MutexLock lock(&mutex);
      failure.Update(status);
    };
    if (pool_ == nullptr || tasks == 1) {
      for (int64_t i = 0; i < tasks; ++i) task(i);
    } else {
      pool_->ParallelFor(tasks, task);
    }
    LOCI_RETURN_IF_ERROR(failure);
    return vectors_->Check();
  }

 private:
  // So many candidates are found faster by scoring every row.
  bool IsTooMany(int64_t candidates) const { return candidates > std::max<int64_t>(row_count() / 4, 4096); }

  // How far one pass looks.
  struct Effort {
    int64_t candidates;  // Per query: rows that codes or lists choose, to be rescored.
    int64_t nprobe;
  };

  // What a search's own parameters, its recall target or this index's defaults come to.
  SearchParameters Resolve(const IndexSearchOptions& options) const {
    if (const MeasuredSearch* const step = options.recall_target > 0 ? CheapestStep(ladder_, options.recall_target) : nullptr) {
      return step->parameters;
    }
    SearchParameters parameters = ladder_.defaults;
    if (options.nprobe != 0) parameters.nprobe = options.nprobe;
    if (options.ef_search != 0) parameters.ef_search = options.ef_search;
    if (options.rescore_factor != 0) parameters.rescore_factor = options.rescore_factor;
    return parameters;
  }

  // Some row is not hidden.
  Effort FirstEffort(const IndexSearchOptions& options, const RowMask& hidden) const {
    // Coded scores only choose candidates; the more they are off, the more of them are rescored.
    const int64_t factor = factory_.codec == FaissFactory::Codec::kFlat ? 1 : factory_.codec == FaissFactory::Codec::kScalar ? 2 : 4;
    const SearchParameters parameters = Resolve(options);
    Effort effort;
    if (options.rescore_factor != 0) {
      effort.candidates = int64_t{options.rescore_factor} * options.top_k;
    } else if (parameters.rescore_factor != 0) {
      // Of the ladder, which was measured at so many hits: for fewer the same is looked at.
      effort.candidates = std::min(int64_t{parameters.rescore_factor} * std::max(options.top_k, kLadderTopK),
                                   std::max<int64_t>(kMaxCandidates, options.top_k));
    } else {
      effort.candidates = factor * options.top_k + 16;
    }
    effort.nprobe = parameters.nprobe != 0 ? parameters.nprobe : DefaultNprobe(factory_.list_count);
    if (factory_.hnsw) {
      effort.candidates = std::max<int64_t>(effort.candidates, parameters.ef_search != 0 ? parameters.ef_search : kDefaultEfSearch);
    }
    // Where a filter hides many, the best of the others lie as much farther off.
    const double share = static_cast<double>(row_count() - hidden.hidden_count()) / static_cast<double>(row_count());
    const auto farther = [&](int64_t effort) { return share <= 0 ? row_count() : static_cast<int64_t>(std::ceil(static_cast<double>(effort) / share)); };
    if (options.nprobe == 0) effort.nprobe = std::min(farther(effort.nprobe), factory_.list_count);
    if (factory_.hnsw) effort.candidates = farther(effort.candidates);
    // What is hidden takes the places of others. It is seldom all near one query: where it is, the next pass looks farther.
    if (!TakesSelector()) effort.candidates = std::min(effort.candidates + hidden.hidden_count(), farther(2 * effort.candidates));
    effort.candidates = std::min(effort.candidates, row_count());
    return effort;
  }

  // IndexPQ is the one that can't be told which rows to look at.
  bool TakesSelector() const { return factory_.codec != FaissFactory::Codec::kProduct || factory_.list_count > 0; }

  // Throws.
  absl::Status SearchPart(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden,
                          RowHit* hits) const {
    const int64_t wanted = std::min<int64_t>(options.top_k, row_count() - hidden.hidden_count());
    std::vector<int64_t> left(queries.rows);
    for (int64_t q = 0; q < queries.rows; ++q) left[q] = q;
    Effort effort = FirstEffort(options, hidden);
    // Two passes at most; what they leave short is scanned.
    for (int pass = 0; pass < 2 && !left.empty() && wanted > 0; ++pass) {
      if (IsTooMany(effort.candidates)) break;  // Of the second pass: IsExact has seen the first.
      std::vector<int64_t> short_of;
      for (const int64_t q : left) {
        LOCI_RETURN_IF_ERROR(options.limits.Check(RealClock().NowMicros()));
        int64_t found = 0;
        LOCI_RETURN_IF_ERROR(SearchOne(queries.row(q), options, effort, hidden, hits + q * options.top_k, &found));
        if (found < wanted) short_of.push_back(q);
      }
      left = std::move(short_of);
      effort.candidates = std::min(effort.candidates * kWidenFactor, row_count());
      effort.nprobe = std::min(effort.nprobe * kWidenFactor, factory_.list_count);
    }
    IndexSearchOptions exact;
    exact.top_k = options.top_k;
    exact.limits = options.limits;
    for (const int64_t q : left) {
      LOCI_RETURN_IF_ERROR(exact_.Search({queries.row(q), 1, queries.cols}, exact, hidden, hits + q * options.top_k));
    }
    return absl::OkStatus();
  }

  // Throws. `found` is the number of candidates.
  absl::Status SearchOne(const float* query, const IndexSearchOptions& options, const Effort& effort, const RowMask& hidden,
                         RowHit* hits, int64_t* found) const {
    std::vector<int64_t> rows;
    std::vector<float> scaled;
    const float* const direction = ToMiddle(query, dim(), &scaled);
    if (graph_ != nullptr) {
      LOCI_RETURN_IF_ERROR(graph_->Search(direction, effort.candidates, hidden, options.limits, &rows));
    } else {
      LOCI_RETURN_IF_ERROR(FindByFaiss(direction, effort, hidden, options.limits, &rows));
    }
    std::erase_if(rows, [&](int64_t row) { return row < 0 || row >= row_count() || hidden.hidden(row); });
    *found = static_cast<int64_t>(rows.size());
    return Rescore(query, options, rows, hits);
  }

  // Throws.
  absl::Status FindByFaiss(const float* query, const Effort& effort, const RowMask& hidden, const RequestLimits& limits,
                           std::vector<int64_t>* found) const {
    std::vector<faiss::Index::idx_t> rows(effort.candidates, -1);
    std::vector<float> scores(effort.candidates);
    VisibleRows visible(hidden);
    faiss::IDSelector* selector = hidden.hidden_count() > 0 ? &visible : nullptr;
    const OpenMpThreads one(1);
    const ScopedFaissLimits scoped_limits(limits);
    if (factory_.list_count > 0) {
      faiss::SearchParametersIVF parameters;
      parameters.nprobe = effort.nprobe;
      parameters.sel = selector;
      index_->search(1, query, effort.candidates, scores.data(), rows.data(), &parameters);
    } else if (TakesSelector() && selector != nullptr) {
      faiss::SearchParameters parameters;
      parameters.sel = selector;
      index_->search(1, query, effort.candidates, scores.data(), rows.data(), &parameters);
    } else {
      index_->search(1, query, effort.candidates, scores.data(), rows.data());
    }
    found->assign(rows.begin(), rows.end());
    return limits.Check(RealClock().NowMicros());  // Lists that end with the limits may have been left out.
  }

  absl::Status Rescore(const float* query, const IndexSearchOptions& options, const std::vector<int64_t>& rows, RowHit* hits) const {
    constexpr int64_t kBlockRows = 64, kCheckRows = 32 * kBlockRows;
    std::vector<float> padded(static_cast<size_t>(PaddedDim(dim())));
    std::copy_n(query, dim(), padded.data());
    const ExactKernels::GatherTile gather = GetExactKernels(isa_).gather(vectors_->element_type());
    TopKCollector best(1, options.top_k, isa_);
    const int64_t row_total = static_cast<int64_t>(rows.size());
    const void* data[2 * kBlockRows];
    float scores[kBlockRows];
    for (int64_t first = 0; first < row_total; first += kBlockRows) {
      const int64_t count = std::min(kBlockRows, row_total - first), ahead = std::min(kBlockRows, row_total - first - count);
      for (int64_t i = 0; i < count + ahead; ++i) data[i] = vectors_->row(rows[static_cast<size_t>(first + i)]);
      gather(padded.data(), 1, data, count, dim(), scores, kBlockRows, data + count, ahead);
      best.AddRows(0, scores, rows.data() + first, count);
      if ((first + kBlockRows) % kCheckRows == 0) LOCI_RETURN_IF_ERROR(options.limits.Check(RealClock().NowMicros()));
    }
    best.Finish(hits);
    return absl::OkStatus();
  }

  const CpuIsa isa_ = DetectCpuIsa();
  const std::unique_ptr<faiss::Index> index_;
  const std::unique_ptr<const GraphSearch> graph_;
  const std::string name_;
  const std::string search_what_ = absl::StrCat("cannot search the index ", name_);
  const FaissFactory factory_;
  const int64_t bytes_;
  const std::shared_ptr<const VectorFile> vectors_;
  const std::unique_ptr<const ExactIndex> own_exact_;  // Null where another one is borrowed.
  const ExactIndex& exact_;
  ThreadPool* const pool_;
  const SearchLadder ladder_;
};

bool Fits(const SearchParameters& parameters, const FaissFactory& factory) {
  return parameters.nprobe >= 0 && parameters.nprobe <= factory.list_count && parameters.ef_search >= 0 &&
         parameters.ef_search <= kMaxCandidates && (parameters.ef_search == 0 || factory.hnsw) && parameters.rescore_factor >= 0 && parameters.rescore_factor <= kMaxRescoreFactor;
}

// Its links alone: the vectors behind them, of which the codes take the place, would for a while be most of the memory.
absl::StatusOr<std::unique_ptr<const GraphSearch>> OpenGraph(const std::string& path, const MappedFile& file, const VectorFile& vectors,
                                                             const std::function<absl::Status()>& check) {
  std::unique_ptr<const GraphSearch> graph;
  const absl::Status status = CatchExceptions(path, [&]() -> absl::Status {
    absl::StatusOr<faiss::HNSW> links = ReadGraph(file.data(), vectors.rows(), vectors.dim());
    LOCI_RETURN_IF_ERROR(file.Check());
    if (!links.ok()) return Annotate(links.status(), path);
    auto search = GraphSearch::Create(*std::move(links), vectors, DetectScanIsa(), check);
    if (absl::IsDataLoss(search.status()) || absl::IsResourceExhausted(search.status())) return Annotate(search.status(), path);
    LOCI_RETURN_IF_ERROR(search.status());
    LOCI_RETURN_IF_ERROR(vectors.Check());  // They were all read: what could not be would have codes of zeros.
    graph = *std::move(search);
    return absl::OkStatus();
  });
  LOCI_RETURN_IF_ERROR(status);
  return graph;
}

// Any other index. Adds to `bytes` what it takes beside the file's bytes.
absl::StatusOr<std::unique_ptr<faiss::Index>> OpenLists(const std::string& path, const MappedFile& file, const std::string& factory,
                                                        const FaissFactory& parsed, const VectorFile& vectors, int64_t* bytes) {
  std::unique_ptr<faiss::Index> index;
  const absl::Status read = CatchExceptions(path, [&] {
    MappedReader reader(file.data());
    index.reset(faiss::read_index(&reader));
  });
  LOCI_RETURN_IF_ERROR(file.Check());
  if (absl::IsInternal(read)) return absl::DataLossError(read.message());
  LOCI_RETURN_IF_ERROR(read);
  auto* ivf = dynamic_cast<faiss::IndexIVF*>(index.get());
  if (index->ntotal != vectors.rows() || index->d != vectors.dim() || index->metric_type != faiss::METRIC_INNER_PRODUCT ||
      (ivf == nullptr ? 0 : static_cast<int64_t>(ivf->nlist)) != parsed.list_count ||
      dynamic_cast<faiss::IndexHNSW*>(index.get()) != nullptr) {
    return absl::DataLossError(absl::StrCat(path, " is not the index ", factory, " over ", vectors.rows(), " rows of dimension ",
                                            vectors.dim()));
  }
  if (ivf != nullptr) {
    ivf->parallel_mode = 0;
    // A graph that finds lists must look at more of them than it returns.
    if (auto* coarse = dynamic_cast<faiss::IndexHNSW*>(ivf->quantizer)) {
      coarse->hnsw.efSearch = static_cast<int>(std::max<int64_t>(kDefaultEfSearch, 2 * DefaultNprobe(parsed.list_count)));
    }
  }
  LOCI_RETURN_IF_ERROR(CatchExceptions(path, [&]() -> absl::Status {
    if (ivf != nullptr) {
      LOCI_ASSIGN_OR_RETURN(const int64_t centroid_bytes, UseRoundedCentroids(*ivf));
      *bytes += centroid_bytes;
    }
    index = WithIntegerLists(WithFlatLists(std::move(index)));
    return absl::OkStatus();
  }));
  return index;
}

}  // namespace

absl::Status ValidateFaissFactory(const std::string& factory, int dim, int64_t row_count) {
  return ParseFaissFactory(factory, dim, row_count).status();
}

absl::Status BuildFaissIndex(FileSystem& fs, const std::string& factory, const VectorFile& vectors, const std::string& path,
                             const RequestLimits& limits) {
  const auto check = [&] { return limits.Check(RealClock().NowMicros()); };
  LOCI_ASSIGN_OR_RETURN(const FaissFactory parsed, ParseFaissFactory(factory, vectors.dim(), vectors.rows()));
  LOCI_RETURN_IF_ERROR(check());
  // Threads of FAISS link a graph in the order in which they come: with one it is the same every time.
  // Few rows are not worth a second one.
  const bool alone = parsed.hnsw || parsed.hnsw_coarse || vectors.rows() < 50'000;
  const OpenMpThreads threads(alone ? 1 : std::min(2, omp_get_num_procs()));
  const std::string what = absl::StrCat("cannot build the index ", factory);
  const ScopedFaissLimits scoped_limits(limits);
  std::unique_ptr<faiss::Index> index;
  const absl::Status trained = CatchExceptions(what, [&] {
    index.reset(faiss::index_factory(vectors.dim(), factory.c_str(), faiss::METRIC_INNER_PRODUCT));
    if (auto* ivf = dynamic_cast<faiss::IndexIVF*>(index.get())) ivf->cp.min_points_per_centroid = 1;  // No warnings on stderr.
    if (auto* ivf_pq = dynamic_cast<faiss::IndexIVFPQ*>(index.get())) {
      ivf_pq->do_polysemous_training = false;  // Serves Hamming distances only, and takes long.
      ivf_pq->pq.cp.min_points_per_centroid = 1;
    }
    if (auto* pq = dynamic_cast<faiss::IndexPQ*>(index.get())) {
      pq->do_polysemous_training = false;
      pq->pq.cp.min_points_per_centroid = 1;
    }
    if (vectors.rows() > 0 && !index->is_trained) {
      const std::vector<float> training = TrainingRows(vectors, parsed);
      index->train(static_cast<int64_t>(training.size()) / vectors.dim(), training.data());
    }
    Reserve(*index, parsed, vectors.rows());
  });
  LOCI_RETURN_IF_ERROR(check());  // Says why FAISS broke off.
  LOCI_RETURN_IF_ERROR(trained);
  std::vector<float> rows;
  for (int64_t first = 0; first < vectors.rows(); first += kAddRows) {
    const int64_t count = std::min(kAddRows, vectors.rows() - first);
    const absl::Status added = CatchExceptions(what, [&] {
      rows.resize(count * vectors.dim());
      for (int64_t i = 0; i < count; ++i) vectors.CopyRow(first + i, rows.data() + i * vectors.dim());
      index->add(count, rows.data());
    });
    LOCI_RETURN_IF_ERROR(check());
    LOCI_RETURN_IF_ERROR(added);
  }
  LOCI_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, fs.NewWritableFile(path));
  FileWriter writer(std::move(file));
  const absl::Status written = CatchExceptions(what, [&] { faiss::write_index(index.get(), &writer); });
  LOCI_RETURN_IF_ERROR(writer.status());  // Says more than FAISS's exception.
  LOCI_RETURN_IF_ERROR(written);
  return writer.Finish();
}

absl::StatusOr<std::unique_ptr<PassageIndex>> OpenFaissIndex(FileSystem& fs, const std::string& path, const std::string& factory,
                                                             std::shared_ptr<const VectorFile> vectors, ThreadPool* pool,
                                                             SearchLadder ladder, const std::function<absl::Status()>& check,
                                                             const ExactIndex* exact) {
  LOCI_ASSIGN_OR_RETURN(const FaissFactory parsed, ParseFaissFactory(factory, vectors->dim(), vectors->rows()));
  bool fits = Fits(ladder.defaults, parsed);
  for (const MeasuredSearch& step : ladder.steps) fits = fits && Fits(step.parameters, parsed);
  if (!fits) return absl::DataLossError(absl::StrCat(path, ": the search parameters of its manifest are not of the index ", factory));
  LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file, fs.Map(path));
  int64_t bytes = static_cast<int64_t>(file->data().size());
  std::unique_ptr<faiss::Index> index;
  std::unique_ptr<const GraphSearch> graph;
  if (parsed.hnsw) {
    LOCI_ASSIGN_OR_RETURN(graph, OpenGraph(path, *file, *vectors, check));
    bytes = graph->memory_bytes();
  } else {
    LOCI_ASSIGN_OR_RETURN(index, OpenLists(path, *file, factory, parsed, *vectors, &bytes));
  }
  return std::make_unique<FaissIndex>(std::move(index), std::move(graph), factory, parsed, bytes, std::move(vectors), pool, std::move(ladder),
                                      exact);
}

}  // namespace loci
