#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/utf8.h"
#include "base/vector_type.h"
#include "index/build_forecast.h"
#include "index/exact_index.h"
#include "index/faiss_index.h"
#include "index/file_sums.h"
#include "index/generation.h"
#include "index/index_chooser.h"
#include "index/index_specification.h"
#include "index/index_tuner.h"
#include "index/limits.h"
#include "index/quantized_vectors.h"
#include "index/recall.h"
#include "index/rocksdb_util.h"
#include "index/unsynced_file_system.h"
#include "rocksdb/db.h"
#include "rocksdb/env.h"
#include "rocksdb/file_system.h"
#include "rocksdb/options.h"
#include "rocksdb/table.h"
#include "rocksdb/write_batch.h"

namespace loci {
namespace {

constexpr char kStagingDirectory[] = "staging";  // Never in a manifest; gone before one is written.
constexpr char kColumnsStagingDirectory[] = "columns.staging";  // As well.
constexpr int64_t kCheckRows = 1024;  // Between looks at the limits.
constexpr int64_t kRoomBytes = 64 << 20;  // Between looks at the room on disk.
constexpr int kRecallTopK = 10;
constexpr char kTuningDirectory[] = "tuning";  // As well.
constexpr int64_t kRecallQueries = 200;
constexpr int64_t kChoosingQueries = 600;  // Half of which are held back.
constexpr int64_t kTimingQueries = 64;     // Where nothing is measured but the time of exact search.
constexpr int64_t kProbes = 16;

// Keys of the staging RocksDB: "d" + id -> vector (dim float32) + serialised passage; "i" + id -> nothing, to count ids by.
rocksdb::Options StagingOptions() {
  rocksdb::BlockBasedTableOptions table;
  table.no_block_cache = true;
  table.block_size = 64 << 10;
  rocksdb::Options options;
  options.create_if_missing = true;
  options.error_if_exists = true;
  options.info_log = SilentRocksDbLogger();
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.compression = rocksdb::kNoCompression;
  // Everything is read once, merged, and thrown away: sorting it on disk before would be work for nothing.
  options.disable_auto_compactions = true;
  options.level0_file_num_compaction_trigger = 1 << 30;
  options.level0_slowdown_writes_trigger = 1 << 30;
  options.level0_stop_writes_trigger = 1 << 30;
  options.soft_pending_compaction_bytes_limit = 0;
  options.hard_pending_compaction_bytes_limit = 0;
  options.write_buffer_size = 32 << 20;
  options.max_write_buffer_number = 2;
  options.max_open_files = 512;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  return options;
}

// What is not valid UTF-8 would be written but could not be parsed again.
absl::Status CheckPassage(const v1::Passage& passage) {
  const std::string& id = passage.id();
  if (id.empty() || id.size() > kMaxStoredIdBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a passage's id has ", id.size(), " bytes, it must have 1 to ", kMaxStoredIdBytes));
  }
  if (!IsValidUtf8(id) || id.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("a passage's id is not valid UTF-8 without NUL");
  }
  bool valid = IsValidUtf8(passage.title()) && IsValidUtf8(passage.text()) && IsValidUtf8(passage.document_id());
  for (const auto& [key, value] : passage.metadata()) {
    valid = valid && IsValidUtf8(key) && IsValidUtf8(value.string_value());
    for (const std::string& item : value.string_list_value().values()) valid = valid && IsValidUtf8(item);
  }
  if (!valid) return absl::InvalidArgumentError(absl::StrCat("passage ", id, " is not valid UTF-8"));
  return absl::OkStatus();
}

// RESOURCE_EXHAUSTED, DISK, where the file system of `path` has no room for `disk_bytes`.
absl::Status CheckDiskFits(const BuildOptions& options, int64_t passage_count, int64_t disk_bytes, const std::string& path) {
  if (options.available_disk_bytes == nullptr) return absl::OkStatus();
  return CheckDisk(absl::StrCat("a generation of ", passage_count, " passages"), disk_bytes, options.available_disk_bytes(path));
}

// RESOURCE_EXHAUSTED, MEMORY, where the process has no room to build the index.
absl::Status CheckMemoryFits(const BuildForecast& forecast, const BuildOptions& options, int64_t passage_count) {
  if (options.available_memory_bytes == nullptr || forecast.memory_bytes == 0) return absl::OkStatus();
  return CheckMemory(absl::StrCat("the build of an index ", options.index, " of ", passage_count, " passages"),
                     forecast.memory_bytes, options.available_memory_bytes());
}

class Builder : public GenerationBuilder {
 public:
  Builder(FileSystem& fs, std::string directory, const std::string& store, const std::string& generation, BuildOptions options)
      : fs_(fs), directory_(std::move(directory)), options_(std::move(options)) {
    manifest_.set_generation(generation);
    manifest_.set_store(store);
    manifest_.set_query_fingerprint(options_.query_fingerprint);
    manifest_.set_passage_fingerprint(options_.passage_fingerprint);
    manifest_.set_base_revision(options_.base_revision);
    manifest_.set_dim(options_.dim);
    manifest_.set_vector_type(static_cast<v1::VectorType>(options_.element_type));
    manifest_.set_metric("inner_product");
    if (IsAutoIndex(options_.index)) manifest_.set_index_specification(options_.index);
    SetIndex(options_.index);
    manifest_.set_folded_from(options_.folded_from);
  }

  ~Builder() override {
    staging_.reset();
    if (!complete_) fs_.DeleteRecursively(directory_).IgnoreError();
  }

  // Its name is synced with those of the other files, before there is a manifest.
  absl::Status MarkFold() const {
    if (options_.folded_from.empty()) return absl::OkStatus();
    LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, fs_.NewWritableFile(JoinPath(directory_, kFoldMarkerFile)));
    return file->Close();
  }

  absl::Status OpenStaging() {
    rocksdb::Options options = StagingOptions();
    // Nobody looks at it after an end of this process.
    env_ = rocksdb::NewCompositeEnv(NewUnsyncedFileSystem(
        options_.rocksdb_file_system != nullptr ? options_.rocksdb_file_system : rocksdb::FileSystem::Default()));
    options.env = env_.get();
    rocksdb::DB* raw = nullptr;
    LOCI_RETURN_IF_ERROR(FromRocksDb(rocksdb::DB::Open(options, StagingPath(), &raw),
                                     absl::StrCat("cannot make ", StagingPath())));
    staging_.reset(raw);
    return absl::OkStatus();
  }

  absl::Status Add(std::span<const v1::Passage> passages, const float* vectors) override;
  absl::Status Remove(std::span<const std::string> ids) override;
  void AddPrecisions(PrecisionSet precisions) override { precisions_.Add(precisions); }
  int64_t added_count() const override { return added_count_; }
  int64_t duplicate_count() const override { return duplicate_count_; }
  absl::StatusOr<storage::Manifest> Finish(const RequestLimits& limits, const Progress& progress) override;

 private:
  std::string StagingPath() const { return JoinPath(directory_, kStagingDirectory); }
  absl::Status Check(const RequestLimits& limits) const { return limits.Check(RealClock().NowMicros()); }
  // One iterator step after another over the keys that begin with `prefix`.
  absl::Status ForEachStaged(char prefix, const std::function<absl::Status(std::string_view id, std::string_view value)>& visit) const;

  BuildForecast ForecastAdded() const;
  absl::Status CheckRoom();
  absl::StatusOr<int64_t> CountIds(const RequestLimits& limits) const;
  // As the manifest names it. (One that is to be chosen is named once it is.)
  void SetIndex(const std::string& index) {
    has_codes_ = index == kExactInt8Index;
    manifest_.set_format_version(has_codes_ ? kManifestFormatVersion : kManifestFormatWithoutCodes);
    manifest_.set_index(has_codes_ ? kExactIndex : index);
    if (has_codes_ && manifest_.index_specification().empty()) manifest_.set_index_specification(index);
  }
  static bool HasColumns(int64_t rows) { return rows <= kMaxRowSetRows; }
  absl::Status WriteRows(int64_t rows, const RequestLimits& limits, const Progress& progress) const;
  absl::Status DropStaging();
  absl::Status ChooseProbes(const VectorFile& vectors, const PassageFile& passages, const PassageIndex& exact,
                            const RequestLimits& limits);
  absl::Status MeasureMemory(const PassageFile& passages);
  // About `count`; says in the manifest where they come from.
  absl::StatusOr<std::vector<float>> RecallQueries(const VectorFile& vectors, const PassageFile& passages, int64_t count);
  absl::Status ChooseIndex(const std::shared_ptr<const VectorFile>& vectors, const PassageFile& passages, const RequestLimits& limits,
                           const Progress& progress);
  absl::Status BuildIndex(const RequestLimits& limits, const Progress& progress);
  absl::Status ListFiles(const RequestLimits& limits, const Progress& progress);
  absl::Status ListFile(const std::string& path, const RequestLimits& limits);

  FileSystem& fs_;
  const std::string directory_;
  const BuildOptions options_;
  std::unique_ptr<rocksdb::Env> env_;     // Over options_.rocksdb_file_system; null where that is.
  std::unique_ptr<rocksdb::DB> staging_;  // Null once Finish has read it.
  storage::Manifest manifest_;
  PrecisionSet precisions_;
  bool has_codes_ = false;  // Beside the vectors: of the index that was named, or chosen.
  int64_t added_count_ = 0;
  int64_t staged_bytes_ = 0;     // Vectors and passages of those.
  int64_t looked_at_bytes_ = 0;  // staged_bytes_ when it was last looked whether they have room.
  int64_t duplicate_count_ = 0;
  bool complete_ = false;
};

absl::Status Builder::Add(std::span<const v1::Passage> passages, const float* vectors) {
  if (staging_ == nullptr) return absl::FailedPreconditionError("the build was finished: nothing can be added");
  if (staged_bytes_ - looked_at_bytes_ > kRoomBytes) LOCI_RETURN_IF_ERROR(CheckRoom());
  const size_t vector_bytes = options_.dim * sizeof(float);
  rocksdb::WriteBatch batch;
  const float limit = LargestStorable(options_.element_type);
  std::string value;
  int64_t batch_bytes = 0;
  for (size_t i = 0; i < passages.size(); ++i) {
    LOCI_RETURN_IF_ERROR(CheckPassage(passages[i]));
    const float* vector = vectors + i * options_.dim;
    for (int d = 0; d < options_.dim; ++d) {
      if (!(std::abs(vector[d]) <= limit)) {
        return absl::InvalidArgumentError(
            absl::StrCat("the vector of passage ", passages[i].id(), " has ", vector[d], " at position ", d, ", the limit is ", limit));
      }
    }
    value.assign(reinterpret_cast<const char*>(vector), vector_bytes);
    if (!passages[i].AppendToString(&value)) {
      return absl::InvalidArgumentError(absl::StrCat("passage ", passages[i].id(), " can't be serialised"));
    }
    batch.Put("d" + passages[i].id(), value);
    batch_bytes += static_cast<int64_t>(value.size());
    batch.Put("i" + passages[i].id(), "");
  }
  rocksdb::WriteOptions write;
  write.disableWAL = true;  // A build that crashed is begun anew.
  LOCI_RETURN_IF_ERROR(FromRocksDb(staging_->Write(write, &batch), absl::StrCat("cannot write ", StagingPath())));
  staged_bytes_ += batch_bytes;
  added_count_ += static_cast<int64_t>(passages.size());
  return absl::OkStatus();
}

BuildForecast Builder::ForecastAdded() const {
  return ForecastBuild({.passage_count = added_count_,
                        .passage_bytes = staged_bytes_ - added_count_ * options_.dim * static_cast<int64_t>(sizeof(float)),
                        .dim = options_.dim,
                        .element_type = options_.element_type,
                        .index = options_.index});
}

// Whether what was added has room to be written out beside its staging, most of which is on disk already.
absl::Status Builder::CheckRoom() {
  looked_at_bytes_ = staged_bytes_;
  const BuildForecast forecast = ForecastAdded();
  return CheckDiskFits(options_, added_count_, forecast.peak_bytes() - forecast.staging_bytes, directory_);
}

absl::Status Builder::Remove(std::span<const std::string> ids) {
  if (staging_ == nullptr) return absl::FailedPreconditionError("the build was finished: nothing can be removed");
  rocksdb::WriteBatch batch;
  for (const std::string& id : ids) {
    batch.Delete("d" + id);
    batch.Delete("i" + id);
  }
  rocksdb::WriteOptions write;
  write.disableWAL = true;
  return FromRocksDb(staging_->Write(write, &batch), absl::StrCat("cannot write ", StagingPath()));
}

absl::Status Builder::ForEachStaged(char prefix,
                                    const std::function<absl::Status(std::string_view, std::string_view)>& visit) const {
  rocksdb::ReadOptions read;
  const std::string end(1, static_cast<char>(prefix + 1));
  const rocksdb::Slice upper_bound(end);
  read.iterate_upper_bound = &upper_bound;
  read.fill_cache = false;
  const std::unique_ptr<rocksdb::Iterator> it(staging_->NewIterator(read));
  for (it->Seek(rocksdb::Slice(&prefix, 1)); it->Valid(); it->Next()) {
    LOCI_RETURN_IF_ERROR(visit({it->key().data() + 1, it->key().size() - 1}, {it->value().data(), it->value().size()}));
  }
  return FromRocksDb(it->status(), absl::StrCat("cannot read ", StagingPath()));
}

absl::StatusOr<int64_t> Builder::CountIds(const RequestLimits& limits) const {
  int64_t count = 0;
  LOCI_RETURN_IF_ERROR(ForEachStaged('i', [&](std::string_view, std::string_view) {
    return ++count % (64 * kCheckRows) == 0 ? Check(limits) : absl::OkStatus();
  }));
  return count;
}

absl::Status Builder::WriteRows(int64_t rows, const RequestLimits& limits, const Progress& progress) const {
  LOCI_ASSIGN_OR_RETURN(const auto vectors, VectorFileWriter::Create(fs_, JoinPath(directory_, kVectorsFile), rows, options_.dim,
                                                                     options_.element_type));
  LOCI_ASSIGN_OR_RETURN(const auto passages, PassageFileWriter::Create(fs_, JoinPath(directory_, kPassagesDirectory),
                                                                       options_.rocksdb_file_system));
  const auto columns = !HasColumns(rows) ? nullptr
                                         : MetadataColumnsBuilder::Create(fs_, JoinPath(directory_, kColumnsFile),
                                                                          JoinPath(directory_, kColumnsStagingDirectory));
  const size_t vector_bytes = options_.dim * sizeof(float);
  std::vector<float> vector(options_.dim);
  int64_t done = 0;
  LOCI_RETURN_IF_ERROR(ForEachStaged('d', [&](std::string_view id, std::string_view value) -> absl::Status {
    v1::Passage passage;
    if (value.size() < vector_bytes || !passage.ParseFromArray(value.data() + vector_bytes, value.size() - vector_bytes) ||
        passage.id() != id) {
      return absl::DataLossError(absl::StrCat(StagingPath(), ": passage ", AbslView(id), " is damaged"));
    }
    std::memcpy(vector.data(), value.data(), vector_bytes);
    LOCI_RETURN_IF_ERROR(vectors->Append(vector.data()));
    LOCI_RETURN_IF_ERROR(passages->Append(passage));
    if (columns != nullptr) LOCI_RETURN_IF_ERROR(columns->Add(done, passage));
    if (++done % kCheckRows == 0) {
      LOCI_RETURN_IF_ERROR(Check(limits));
      progress("write", done, rows);
    }
    return absl::OkStatus();
  }));
  LOCI_RETURN_IF_ERROR(vectors->Finish());
  LOCI_RETURN_IF_ERROR(passages->Finish());
  if (columns != nullptr) LOCI_RETURN_IF_ERROR(columns->Finish(rows, limits));
  progress("write", rows, rows);
  return absl::OkStatus();
}

absl::Status Builder::DropStaging() {
  const rocksdb::Status closed = staging_->Close();
  staging_.reset();
  LOCI_RETURN_IF_ERROR(FromRocksDb(closed, absl::StrCat("cannot close ", StagingPath())));
  return fs_.DeleteRecursively(StagingPath());
}

// Rows spread over the file whose own vectors find them. (A row may lose to more than ten longer or equal ones: no probe then.)
absl::Status Builder::ChooseProbes(const VectorFile& vectors, const PassageFile& passages, const PassageIndex& exact,
                                   const RequestLimits& limits) {
  const int64_t count = std::min(kProbes, vectors.rows());
  std::vector<float> queries(count * vectors.dim());
  std::vector<int64_t> rows(count);
  for (int64_t i = 0; i < count; ++i) {
    rows[i] = vectors.rows() * i / count;
    vectors.CopyRow(rows[i], queries.data() + i * vectors.dim());
  }
  IndexSearchOptions options;
  options.top_k = kRecallTopK;
  options.limits = limits;
  std::vector<RowHit> hits(count * kRecallTopK);
  LOCI_RETURN_IF_ERROR(exact.Search({queries.data(), count, vectors.dim()}, options, RowMask(), hits.data()));
  for (int64_t i = 0; i < count; ++i) {
    const auto begin = hits.begin() + i * kRecallTopK;
    if (std::none_of(begin, begin + kRecallTopK, [&](const RowHit& hit) { return hit.row == rows[i]; })) continue;
    LOCI_ASSIGN_OR_RETURN(std::string id, passages.ReadId(rows[i]));
    storage::Probe* probe = manifest_.add_probes();
    probe->set_row(rows[i]);
    probe->set_id(std::move(id));
  }
  return absl::OkStatus();
}

// `passages` have been read as far as an opening reads them but for the lookups of the probes' ids.
absl::Status Builder::MeasureMemory(const PassageFile& passages) {
  storage::MemoryFigures& figures = *manifest_.mutable_memory();
  for (const storage::Probe& probe : manifest_.probes()) LOCI_RETURN_IF_ERROR(passages.FindRow(probe.id()).status());
  figures.set_passages_bytes(passages.memory_bytes());
  LOCI_ASSIGN_OR_RETURN(const PassageFile::Filled filled, passages.FillCache());
  figures.set_passage_ids_bytes(filled.ids_bytes);
  figures.set_passages_most_bytes(filled.all_bytes);
  if (HasColumns(manifest_.passage_count())) {
    LOCI_ASSIGN_OR_RETURN(const auto columns, MetadataColumns::Open(fs_, JoinPath(directory_, kColumnsFile), manifest_.passage_count()));
    figures.set_columns_bytes(columns->memory_bytes());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> Builder::RecallQueries(const VectorFile& vectors, const PassageFile& passages, int64_t count) {
  if (options_.recall_queries == nullptr) {
    manifest_.set_recall_query_source(kMidpointQuerySource);
    return MakeMidpointQueries(vectors, count);
  }
  count = std::min(count, vectors.rows());
  std::vector<int64_t> rows(count);
  for (int64_t i = 0; i < count; ++i) rows[i] = vectors.rows() * i / count;
  std::vector<v1::Passage> sample;
  LOCI_RETURN_IF_ERROR(passages.Read(rows, &sample));
  LOCI_ASSIGN_OR_RETURN(std::vector<float> queries, options_.recall_queries(sample));
  if (queries.size() % options_.dim != 0) {
    return absl::InternalError(absl::StrCat("the recall queries have ", queries.size(), " elements of dimension ", options_.dim));
  }
  manifest_.set_recall_query_source(options_.recall_query_source);
  return queries;
}

absl::Status Builder::BuildIndex(const RequestLimits& limits, const Progress& progress) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const VectorFile> vectors, VectorFile::Open(fs_, JoinPath(directory_, kVectorsFile)));
  LOCI_ASSIGN_OR_RETURN(const auto passages, PassageFile::Open(JoinPath(directory_, kPassagesDirectory), vectors->rows()));
  const ExactIndex exact(vectors, nullptr);
  LOCI_RETURN_IF_ERROR(ChooseProbes(*vectors, *passages, exact, limits));
  LOCI_RETURN_IF_ERROR(MeasureMemory(*passages));
  manifest_.set_recall_at_10(1);
  if (has_codes_) {
    progress("index", 0, vectors->rows());
    LOCI_RETURN_IF_ERROR(WriteQuantizedVectors(fs_, *vectors, JoinPath(directory_, kCodesFile), [&](int64_t done) {
      progress("index", done, vectors->rows());
      return Check(limits);
    }));
    progress("index", vectors->rows(), vectors->rows());
  }
  if (IsExactIndex(options_.index)) return absl::OkStatus();
  if (IsAutoIndex(options_.index)) return ChooseIndex(vectors, *passages, limits, progress);

  progress("index", 0, vectors->rows());
  const std::string path = JoinPath(directory_, kIndexFile);
  const int64_t start_us = RealClock().NowMicros();
  LOCI_RETURN_IF_ERROR(BuildFaissIndex(fs_, options_.index, *vectors, path, limits));
  const int64_t build_ms = (RealClock().NowMicros() - start_us) / 1000;
  progress("index", vectors->rows(), vectors->rows());

  LOCI_ASSIGN_OR_RETURN(const auto index, OpenFaissIndex(fs_, path, options_.index, vectors, nullptr));
  manifest_.mutable_memory()->set_index_bytes(index->memory_bytes());
  LOCI_ASSIGN_OR_RETURN(const std::vector<float> queries, RecallQueries(*vectors, *passages, kRecallQueries));
  const int64_t query_count = static_cast<int64_t>(queries.size()) / options_.dim;
  progress("recall", 0, query_count);
  LOCI_ASSIGN_OR_RETURN(const RecallMeter meter,
                        RecallMeter::Create(exact, {queries.data(), query_count, options_.dim}, kRecallTopK, limits));
  LOCI_ASSIGN_OR_RETURN(const std::vector<double> recalls, meter.Measure(*index, {}, limits));
  manifest_.set_recall_at_10(MeanRecall(recalls));
  manifest_.set_recall_query_count(query_count);
  // What a request's recall target chooses from.
  LOCI_ASSIGN_OR_RETURN(const double exact_latency_us, options_.tuner.latency(exact, meter, {}, limits));
  LOCI_ASSIGN_OR_RETURN(const std::vector<v1::TuningPoint> ladder,
                        MeasureLadder(*index, options_.index, meter, exact_latency_us, build_ms, limits, options_.tuner.latency));
  for (const v1::TuningPoint& point : ladder) *manifest_.add_ladder() = point;
  progress("recall", query_count, query_count);
  return absl::OkStatus();
}

absl::Status Builder::ChooseIndex(const std::shared_ptr<const VectorFile>& vectors, const PassageFile& passages, const RequestLimits& limits,
                                  const Progress& progress) {
  ChooserOptions chooser;
  LOCI_ASSIGN_OR_RETURN(chooser.wanted, ParseAutoIndex(options_.index));
  chooser.earlier = options_.earlier_tuning.has_value() ? &*options_.earlier_tuning : nullptr;
  chooser.progress = progress;
  chooser.codes_path = JoinPath(directory_, kCodesFile);
  chooser.tuner = options_.tuner;
  chooser.tuner.available_memory_bytes = options_.available_memory_bytes;
  chooser.tuner.fs = &fs_;
  chooser.tuner.scratch_directory = JoinPath(directory_, kTuningDirectory);
  const bool is_small = vectors->rows() <= options_.tuner.exact_rows;
  std::vector<float> queries;
  if (is_small) {
    queries = MakeMidpointQueries(*vectors, kTimingQueries);
    chooser.tuner.query_source = kMidpointQuerySource;
  } else {
    LOCI_ASSIGN_OR_RETURN(queries, RecallQueries(*vectors, passages, kChoosingQueries));
    chooser.tuner.query_source = manifest_.recall_query_source();
  }
  const int64_t query_count = static_cast<int64_t>(queries.size()) / options_.dim;
  LOCI_ASSIGN_OR_RETURN(const ChosenIndex chosen, BuildChosenIndex(vectors, {queries.data(), query_count, options_.dim},
                                                                   JoinPath(directory_, kIndexFile), chooser, limits));
  SetIndex(chosen.factory);
  *manifest_.mutable_tuning() = chosen.tuning;
  for (const v1::TuningPoint& point : chosen.ladder) *manifest_.add_ladder() = point;
  if (!chosen.ladder.empty()) manifest_.mutable_memory()->set_index_bytes(chosen.ladder.front().memory_bytes());  // The same in all.
  manifest_.set_recall_at_10(chosen.recall_at_10);
  manifest_.set_recall_query_count(chosen.recall_query_count);
  if (chosen.recall_query_count == 0) manifest_.clear_recall_query_source();
  return absl::OkStatus();
}

absl::Status Builder::ListFile(const std::string& path, const RequestLimits& limits) {
  LOCI_ASSIGN_OR_RETURN(*manifest_.add_files(), SumFile(fs_, directory_, path, [&](int64_t) { return Check(limits); }));
  return absl::OkStatus();
}

absl::Status Builder::ListFiles(const RequestLimits& limits, const Progress& progress) {
  LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> names, fs_.List(JoinPath(directory_, kPassagesDirectory)));
  std::vector<std::string> paths = {kVectorsFile};
  if (has_codes_) paths.push_back(kCodesFile);
  if (manifest_.index() != kExactIndex) paths.push_back(kIndexFile);
  if (HasColumns(manifest_.passage_count())) paths.push_back(kColumnsFile);
  for (const std::string& name : names) paths.push_back(absl::StrCat(kPassagesDirectory, "/", name));
  for (size_t i = 0; i < paths.size(); ++i) {
    progress("checksum", static_cast<int64_t>(i), static_cast<int64_t>(paths.size()));
    LOCI_RETURN_IF_ERROR(ListFile(paths[i], limits));
  }
  progress("checksum", static_cast<int64_t>(paths.size()), static_cast<int64_t>(paths.size()));
  return absl::OkStatus();
}

absl::StatusOr<storage::Manifest> Builder::Finish(const RequestLimits& limits, const Progress& progress) {
  if (staging_ == nullptr) return absl::FailedPreconditionError("Finish was called before");
  const Progress report = progress != nullptr ? progress : [](std::string_view, int64_t, int64_t) {};
  LOCI_RETURN_IF_ERROR(Check(limits));
  LOCI_ASSIGN_OR_RETURN(const int64_t rows, CountIds(limits));
  duplicate_count_ = added_count_ - rows;
  if (!IsExactIndex(options_.index) && !IsAutoIndex(options_.index)) LOCI_RETURN_IF_ERROR(ValidateFaissFactory(options_.index, options_.dim, rows));
  LOCI_RETURN_IF_ERROR(CheckRoom());
  // Not before: what another build holds meanwhile is given back.
  LOCI_RETURN_IF_ERROR(CheckMemoryFits(ForecastAdded(), options_, added_count_));
  LOCI_RETURN_IF_ERROR(WriteRows(rows, limits, report));
  LOCI_RETURN_IF_ERROR(DropStaging());
  manifest_.set_passage_count(rows);
  manifest_.set_vector_count(rows);
  if (rows > 0) {
    for (std::string& name : (precisions_.empty() ? PrecisionSet(VectorPrecision::kUnknown) : precisions_).Names()) {
      manifest_.add_encoder_precisions(std::move(name));
    }
  }
  LOCI_RETURN_IF_ERROR(BuildIndex(limits, report));
  LOCI_RETURN_IF_ERROR(ListFiles(limits, report));
  manifest_.set_created_unix_us(RealClock().UnixMicros());

  // Every file was synced by its writer; now their names, then the manifest, then the folder's own name.
  LOCI_RETURN_IF_ERROR(fs_.SyncDirectory(JoinPath(directory_, kPassagesDirectory)));
  LOCI_RETURN_IF_ERROR(fs_.SyncDirectory(directory_));
  LOCI_RETURN_IF_ERROR(Check(limits));
  const std::string content = SerializeManifest(manifest_);
  LOCI_RETURN_IF_ERROR(ParseManifest(content).status());  // Never write what would not be read.
  LOCI_RETURN_IF_ERROR(WriteFileAtomically(fs_, JoinPath(directory_, kManifestFile), content));
  LOCI_RETURN_IF_ERROR(fs_.SyncDirectory(ParentPath(directory_)));
  complete_ = true;
  return manifest_;
}

}  // namespace

absl::StatusOr<std::unique_ptr<GenerationBuilder>> GenerationBuilder::Create(FileSystem& fs, const std::string& directory,
                                                                             const std::string& store, const std::string& generation,
                                                                             BuildOptions options) {
  if (options.dim < 1 || options.dim > kMaxDim) {
    return absl::InvalidArgumentError(absl::StrCat("dimension ", options.dim, " is not in [1, ", kMaxDim, "]"));
  }
  const ElementType type = options.element_type;
  if (type != ElementType::kFloat32 && type != ElementType::kFloat16 && type != ElementType::kBfloat16) {
    return absl::InvalidArgumentError(
        absl::StrCat("vectors can be stored as float32, float16 or bfloat16, not as ", AbslView(ElementTypeName(type))));
  }
  // How many rows there will be is not known yet: Finish looks at it again.
  if (IsAutoIndex(options.index)) {
    LOCI_RETURN_IF_ERROR(ParseAutoIndex(options.index).status());
  } else if (IsExactIndex(options.index)) {
    LOCI_RETURN_IF_ERROR(ParseExactIndex(options.index).status());
  } else {
    LOCI_RETURN_IF_ERROR(ValidateFaissFactory(options.index, options.dim, INT64_MAX));
  }
  std::string path = directory;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  if (fs.Exists(path)) return absl::AlreadyExistsError(absl::StrCat(path, " exists"));
  if (options.expected_passages > 0) {
    const BuildForecast forecast = ForecastBuild({.passage_count = options.expected_passages,
                                                  .passage_bytes = options.expected_passage_bytes,
                                                  .dim = options.dim,
                                                  .element_type = options.element_type,
                                                  .index = options.index});
    LOCI_RETURN_IF_ERROR(CheckDiskFits(options, options.expected_passages, forecast.peak_bytes(), ParentPath(path)));
    LOCI_RETURN_IF_ERROR(CheckMemoryFits(forecast, options, options.expected_passages));
  }
  LOCI_RETURN_IF_ERROR(fs.CreateDirectories(path));
  auto builder = std::make_unique<Builder>(fs, path, store, generation, std::move(options));
  LOCI_RETURN_IF_ERROR(builder->MarkFold());
  LOCI_RETURN_IF_ERROR(builder->OpenStaging());
  return builder;
}

}  // namespace loci
