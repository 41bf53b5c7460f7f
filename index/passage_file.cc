#include "index/passage_file.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/checksum.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "index/rocksdb_util.h"
#include "index/unsynced_file_system.h"
#include "rocksdb/cache.h"
#include "rocksdb/db.h"
#include "rocksdb/env.h"
#include "rocksdb/file_system.h"
#include "rocksdb/filter_policy.h"
#include "rocksdb/options.h"
#include "rocksdb/sst_file_writer.h"
#include "rocksdb/table.h"

namespace loci {
namespace {

constexpr size_t kChecksumBytes = 8;
constexpr char kIdPrefix = 'i';

std::string BigEndian(int64_t row) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(static_cast<uint64_t>(row) >> (56 - 8 * i));
  return bytes;
}

int64_t FromBigEndian(std::string_view bytes) {
  uint64_t row = 0;
  for (const char byte : bytes) row = row << 8 | static_cast<uint8_t>(byte);
  return static_cast<int64_t>(row);
}

std::string RowKey(int64_t row) { return "r" + BigEndian(row); }

std::string IdKey(std::string_view id) {
  std::string key(1, kIdPrefix);
  key.append(id);
  return key;
}

// The id in a record, where it is the passage's first field.
std::optional<std::string_view> IdOf(std::string_view record) {
  constexpr uint8_t kIdTag = loci::v1::Passage::kIdFieldNumber << 3 | 2;
  size_t at = kChecksumBytes;
  if (record.size() < at + 2 || static_cast<uint8_t>(record[at++]) != kIdTag) return std::nullopt;
  size_t size = 0;
  for (int shift = 0;; shift += 7) {
    if (at == record.size() || shift > 14) return std::nullopt;  // An id has 512 bytes at most.
    const uint8_t byte = static_cast<uint8_t>(record[at++]);
    size |= static_cast<size_t>(byte & 0x7f) << shift;
    if (byte < 0x80) break;
  }
  if (size == 0 || size > record.size() - at) return std::nullopt;
  return record.substr(at, size);
}

// `cache` is null for a writer.
rocksdb::Options TableOptions(std::shared_ptr<rocksdb::Cache> cache, rocksdb::Env* env = rocksdb::Env::Default()) {
  rocksdb::BlockBasedTableOptions table;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table.format_version = 5;
  table.block_size = 8 << 10;
  if (cache != nullptr) {
    table.block_cache = std::move(cache);
    table.cache_index_and_filter_blocks = true;
    table.cache_index_and_filter_blocks_with_high_priority = true;
  } else {
    table.no_block_cache = true;
  }
  rocksdb::Options options;
  options.env = env;
  options.info_log = SilentRocksDbLogger();
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.compression = rocksdb::kLZ4Compression;
  options.disable_auto_compactions = true;
  options.paranoid_checks = true;
  options.max_open_files = -1;  // All tables, at once: their folder may be deleted while they are read.
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  options.write_buffer_size = 1 << 20;
  return options;
}

class RocksPassageFile : public PassageFile {
 public:
  RocksPassageFile(std::unique_ptr<rocksdb::DB> db, std::shared_ptr<rocksdb::Cache> cache, std::string directory, int64_t row_count)
      : db_(std::move(db)), cache_(std::move(cache)), directory_(std::move(directory)), row_count_(row_count) {}

  int64_t row_count() const override { return row_count_; }

  absl::Status Read(std::span<const int64_t> rows, std::vector<loci::v1::Passage>* passages) const override {
    passages->clear();
    passages->resize(rows.size());
    return ReadRecords(rows, [&](size_t i, std::string_view record) { return Parse(rows[i], record, &(*passages)[i]); });
  }

  absl::Status ReadIds(std::span<const int64_t> rows, std::vector<std::string>* ids) const override {
    ids->clear();
    ids->resize(rows.size());
    return ReadRecords(rows, [&](size_t i, std::string_view record) -> absl::Status {
      const std::optional<std::string_view> id = IdOf(record);
      if (id.has_value()) {
        (*ids)[i] = *id;
        return absl::OkStatus();
      }
      // Not as the writer writes it. Parsing says what is wrong; other serialisers may have put the fields in another order.
      loci::v1::Passage passage;
      LOCI_RETURN_IF_ERROR(Parse(rows[i], record, &passage));
      (*ids)[i] = std::move(*passage.mutable_id());
      return absl::OkStatus();
    });
  }

  absl::StatusOr<std::optional<int64_t>> FindRow(std::string_view id) const override {
    rocksdb::PinnableSlice value;
    const rocksdb::Status status = db_->Get(rocksdb::ReadOptions(), db_->DefaultColumnFamily(), IdKey(id), &value);
    if (status.IsNotFound()) return std::nullopt;
    LOCI_RETURN_IF_ERROR(FromRocksDb(status, absl::StrCat("cannot look up an id in ", directory_)));
    const int64_t row = value.size() == 8 ? FromBigEndian({value.data(), value.size()}) : -1;
    if (row < 0 || row >= row_count_) {
      return absl::DataLossError(absl::StrCat(directory_, ": the row of passage ", AbslView(id), " is damaged"));
    }
    return row;
  }

  int64_t memory_bytes() const override {
    uint64_t readers = 0;
    db_->GetIntProperty(rocksdb::DB::Properties::kEstimateTableReadersMem, &readers);
    return static_cast<int64_t>(cache_->GetUsage() + readers) + kPassageFileBytes;
  }

  absl::StatusOr<Filled> FillCache() const override {
    Filled filled{.ids_bytes = memory_bytes()};
    const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(rocksdb::ReadOptions()));
    size_t read_bytes = 0;  // A cache that has seen twice its size is as full as it gets.
    for (it->SeekToFirst(); it->Valid() && read_bytes < 2 * kPassageCacheBytes; it->Next()) {
      if (it->key()[0] == kIdPrefix) filled.ids_bytes = memory_bytes();
      read_bytes += it->key().size() + it->value().size();
    }
    LOCI_RETURN_IF_ERROR(FromRocksDb(it->status(), absl::StrCat("cannot read ", directory_)));
    filled.all_bytes = memory_bytes();
    return filled;
  }

  // DATA_LOSS unless the last row is row_count - 1.
  absl::Status CheckRowCount() const {
    const std::unique_ptr<rocksdb::Iterator> last(db_->NewIterator(rocksdb::ReadOptions()));
    last->SeekToLast();
    LOCI_RETURN_IF_ERROR(FromRocksDb(last->status(), absl::StrCat("cannot read ", directory_)));
    const std::string expected = row_count_ == 0 ? "" : RowKey(row_count_ - 1);
    const std::string found = last->Valid() ? last->key().ToString() : "";
    if (found == expected) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(directory_, ": the last passage is not row ", row_count_ - 1));
  }

 private:
  absl::Status CheckRow(int64_t row) const {
    if (row >= 0 && row < row_count_) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("row ", row, " is not in [0, ", row_count_, ")"));
  }

  // Calls visit(position in `rows`, record) for each row.
  template <typename Visit>
  absl::Status ReadRecords(std::span<const int64_t> rows, const Visit& visit) const {
    std::vector<std::string> names;
    names.reserve(rows.size());
    for (const int64_t row : rows) {
      LOCI_RETURN_IF_ERROR(CheckRow(row));
      names.push_back(RowKey(row));
    }
    const std::vector<rocksdb::Slice> keys(names.begin(), names.end());
    std::vector<rocksdb::PinnableSlice> values(rows.size());
    std::vector<rocksdb::Status> statuses(rows.size());
    db_->MultiGet(rocksdb::ReadOptions(), db_->DefaultColumnFamily(), keys.size(), keys.data(), values.data(), statuses.data());
    for (size_t i = 0; i < rows.size(); ++i) {
      if (statuses[i].IsNotFound()) return absl::DataLossError(absl::StrCat(directory_, ": passage of row ", rows[i], " is missing"));
      LOCI_RETURN_IF_ERROR(FromRocksDb(statuses[i], absl::StrCat("cannot read row ", rows[i], " of ", directory_)));
      LOCI_RETURN_IF_ERROR(visit(i, std::string_view(values[i].data(), values[i].size())));
      values[i].Reset();
    }
    return absl::OkStatus();
  }

  absl::Status Parse(int64_t row, std::string_view record, loci::v1::Passage* passage) const {
    uint64_t checksum = 0;
    if (record.size() >= kChecksumBytes) std::memcpy(&checksum, record.data(), kChecksumBytes);
    if (record.size() < kChecksumBytes || checksum != Xxh3(record.substr(kChecksumBytes))) {
      return absl::DataLossError(absl::StrCat(directory_, ": the checksum of row ", row, " fails"));
    }
    record.remove_prefix(kChecksumBytes);
    if (!passage->ParseFromArray(record.data(), static_cast<int>(record.size()))) {
      return absl::DataLossError(absl::StrCat(directory_, ": row ", row, " is not a passage"));
    }
    return absl::OkStatus();
  }

  const std::unique_ptr<rocksdb::DB> db_;
  const std::shared_ptr<rocksdb::Cache> cache_;
  const std::string directory_;
  const int64_t row_count_;
};

// A run of tables of one key prefix, filled in order.
class TableRun {
 public:
  TableRun(const rocksdb::Options& options, std::string path_prefix, int64_t table_bytes)
      : options_(options), path_prefix_(std::move(path_prefix)), table_bytes_(static_cast<uint64_t>(table_bytes)) {}

  rocksdb::Status Put(const rocksdb::Slice& key, const rocksdb::Slice& value) {
    if (writer_ == nullptr) {
      writer_ = std::make_unique<rocksdb::SstFileWriter>(rocksdb::EnvOptions(), options_, nullptr, /*invalidate_page_cache=*/false);
      paths_.push_back(absl::StrCat(path_prefix_, paths_.size(), ".new"));
      rocksdb::Status status = writer_->Open(paths_.back());
      if (!status.ok()) return status;
    }
    rocksdb::Status status = writer_->Put(key, value);
    if (status.ok() && writer_->FileSize() > table_bytes_) status = Finish();
    return status;
  }

  // Ends the table that is being written.
  rocksdb::Status Finish() {
    if (writer_ == nullptr) return rocksdb::Status::OK();
    const rocksdb::Status status = writer_->Finish();
    writer_.reset();
    return status;
  }

  const std::vector<std::string>& paths() const { return paths_; }

 private:
  const rocksdb::Options options_;
  const std::string path_prefix_;
  const uint64_t table_bytes_;
  std::unique_ptr<rocksdb::SstFileWriter> writer_;
  std::vector<std::string> paths_;
};

// Writes sorted tables and lets an empty RocksDB take them over: no log, no memtable, no compaction.
class RocksPassageFileWriter : public PassageFileWriter {
 public:
  RocksPassageFileWriter(FileSystem& fs, std::shared_ptr<rocksdb::FileSystem> rocksdb_files, std::unique_ptr<rocksdb::Env> env,
                         std::unique_ptr<rocksdb::DB> db, const std::string& directory, int64_t table_bytes)
      : fs_(fs),
        directory_(directory),
        rocksdb_files_(std::move(rocksdb_files)),
        env_(std::move(env)),
        db_(std::move(db)),
        rows_(TableOptions(nullptr, env_.get()), directory + "/rows", table_bytes),
        ids_(TableOptions(nullptr, env_.get()), directory + "/ids", table_bytes) {}

  absl::Status Append(const loci::v1::Passage& passage) override {
    if (next_row_ > 0 && passage.id() <= last_id_) {
      return absl::InvalidArgumentError(absl::StrCat("passage ", passage.id(), " came after ", last_id_));
    }
    std::string record(kChecksumBytes, '\0');
    if (!passage.AppendToString(&record)) {
      return absl::InvalidArgumentError(absl::StrCat("passage ", passage.id(), " can't be serialised"));
    }
    const uint64_t checksum = Xxh3(std::string_view(record).substr(kChecksumBytes));
    std::memcpy(record.data(), &checksum, kChecksumBytes);
    const std::string what = absl::StrCat("cannot write ", directory_);
    LOCI_RETURN_IF_ERROR(FromRocksDb(rows_.Put(RowKey(next_row_), record), what));
    LOCI_RETURN_IF_ERROR(FromRocksDb(ids_.Put(IdKey(passage.id()), BigEndian(next_row_)), what));
    last_id_ = passage.id();
    ++next_row_;
    return absl::OkStatus();
  }

  absl::Status Finish() override {
    const std::string what = absl::StrCat("cannot complete ", directory_);
    LOCI_RETURN_IF_ERROR(FromRocksDb(rows_.Finish(), what));
    LOCI_RETURN_IF_ERROR(FromRocksDb(ids_.Finish(), what));
    std::vector<std::string> tables = ids_.paths();
    tables.insert(tables.end(), rows_.paths().begin(), rows_.paths().end());
    if (!tables.empty()) {
      rocksdb::IngestExternalFileOptions ingest;
      ingest.move_files = true;
      ingest.write_global_seqno = false;
      LOCI_RETURN_IF_ERROR(FromRocksDb(db_->IngestExternalFile(tables, ingest), what));
    }
    LOCI_RETURN_IF_ERROR(FromRocksDb(db_->Close(), what));
    db_.reset();
    // What a reader would never look at, or would write anew.
    LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> names, fs_.List(directory_));
    std::vector<std::string> kept;
    for (const std::string& name : names) {
      const std::string path = JoinPath(directory_, name);
      bool leftover = name == "LOCK" || name.rfind("LOG", 0) == 0 || absl::EndsWith(name, ".new");
      if (absl::EndsWith(name, ".log")) {
        LOCI_ASSIGN_OR_RETURN(const int64_t size, fs_.FileSize(path));
        leftover = leftover || size == 0;
      }
      if (leftover) {
        LOCI_RETURN_IF_ERROR(fs_.DeleteFile(path));
      } else {
        kept.push_back(name);
      }
    }
    return SyncFiles(*rocksdb_files_, directory_, kept);
  }

 private:
  FileSystem& fs_;
  const std::string directory_;
  const std::shared_ptr<rocksdb::FileSystem> rocksdb_files_;
  const std::unique_ptr<rocksdb::Env> env_;
  std::unique_ptr<rocksdb::DB> db_;
  TableRun rows_;
  TableRun ids_;
  int64_t next_row_ = 0;
  std::string last_id_;
};

}  // namespace

absl::StatusOr<std::string> PassageFile::ReadId(int64_t row) const {
  std::vector<std::string> ids;
  LOCI_RETURN_IF_ERROR(ReadIds({&row, 1}, &ids));
  return std::move(ids[0]);
}

absl::StatusOr<std::unique_ptr<PassageFile>> PassageFile::Open(const std::string& directory, int64_t row_count) {
  auto cache = rocksdb::NewLRUCache(kPassageCacheBytes, /*num_shard_bits=*/2);
  rocksdb::DB* raw = nullptr;
  const rocksdb::Status status = rocksdb::DB::OpenForReadOnly(TableOptions(cache), directory, &raw);
  if (!status.ok()) {
    const std::string text = status.ToString();
    if (text.find(std::strerror(EMFILE)) != std::string::npos || text.find(std::strerror(ENFILE)) != std::string::npos) {
      return absl::ResourceExhaustedError(absl::StrCat("cannot open ", directory, ": ", text));
    }
    // A file that is missing or can't be parsed is damage, whatever RocksDB calls it.
    return absl::DataLossError(absl::StrCat("cannot open ", directory, ": ", text));
  }
  auto file = std::make_unique<RocksPassageFile>(std::unique_ptr<rocksdb::DB>(raw), std::move(cache), directory, row_count);
  LOCI_RETURN_IF_ERROR(file->CheckRowCount());
  return file;
}

absl::StatusOr<std::unique_ptr<PassageFileWriter>> PassageFileWriter::Create(FileSystem& fs, const std::string& directory,
                                                                             std::shared_ptr<rocksdb::FileSystem> rocksdb_files,
                                                                             int64_t table_bytes) {
  if (rocksdb_files == nullptr) rocksdb_files = rocksdb::FileSystem::Default();
  std::unique_ptr<rocksdb::Env> env = rocksdb::NewCompositeEnv(NewUnsyncedFileSystem(rocksdb_files));
  rocksdb::Options options = TableOptions(nullptr, env.get());
  options.create_if_missing = true;
  options.error_if_exists = true;
  rocksdb::DB* raw = nullptr;
  LOCI_RETURN_IF_ERROR(FromRocksDb(rocksdb::DB::Open(options, directory, &raw), absl::StrCat("cannot make ", directory)));
  return std::make_unique<RocksPassageFileWriter>(fs, std::move(rocksdb_files), std::move(env), std::unique_ptr<rocksdb::DB>(raw),
                                                  directory, table_bytes);
}

}  // namespace loci
