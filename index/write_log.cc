#include "index/write_log.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <shared_mutex>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/checksum.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "index/rocksdb_util.h"
#include "index/torn_manifest.h"
#include "rocksdb/cache.h"
#include "rocksdb/db.h"
#include "rocksdb/env.h"
#include "rocksdb/file_system.h"
#include "rocksdb/options.h"
#include "rocksdb/table.h"
#include "rocksdb/write_batch.h"

namespace loci {
namespace {

constexpr size_t kKeyBytes = 12;
constexpr size_t kValueHeaderBytes = 20;  // Checksum, previous revision, record count.
constexpr size_t kRestHeaderBytes = kValueHeaderBytes - 8;
constexpr size_t kSlotBytes = 16;
constexpr char kTrimKey[] = "\xff";
constexpr size_t kLogBlockBytes = 32 << 10;  // RocksDB's: a longer value lies in pieces.
constexpr int64_t kMaxRequestsInLogs = int64_t{1} << 32;
constexpr char kKeyLength = kKeyBytes;  // What stands before a key in a write batch.

void PutFixed64(std::string* out, uint64_t value) {
  for (int i = 0; i < 8; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}
void PutFixed32(std::string* out, uint32_t value) {
  for (int i = 0; i < 4; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}
uint64_t GetFixed(std::string_view in, size_t bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes; ++i) value |= static_cast<uint64_t>(static_cast<unsigned char>(in[i])) << (8 * i);
  return value;
}

// Takes a length off the front of `in`, as write batches have it; false where none is there.
bool TakeVarint32(std::string_view* in, uint32_t* value) {
  *value = 0;
  for (int shift = 0; shift < 35 && !in->empty(); shift += 7) {
    const unsigned char byte = static_cast<unsigned char>(in->front());
    in->remove_prefix(1);
    *value |= static_cast<uint32_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

std::string Key(int64_t revision, uint32_t ordinal) {
  std::string key;
  for (int i = 7; i >= 0; --i) key.push_back(static_cast<char>(static_cast<uint64_t>(revision) >> (8 * i)));
  for (int i = 3; i >= 0; --i) key.push_back(static_cast<char>(ordinal >> (8 * i)));
  return key;
}

bool ParseKey(std::string_view key, int64_t* revision, uint32_t* ordinal) {
  if (key.size() != kKeyBytes || (key[0] & 0x80)) return false;
  uint64_t value = 0;
  for (size_t i = 0; i < 8; ++i) value = value << 8 | static_cast<unsigned char>(key[i]);
  *revision = static_cast<int64_t>(value);
  value = 0;
  for (size_t i = 8; i < kKeyBytes; ++i) value = value << 8 | static_cast<unsigned char>(key[i]);
  *ordinal = static_cast<uint32_t>(value);
  return true;
}

std::string_view View(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

uint64_t ValueChecksum(std::string_view key, std::string_view rest) { return Xxh3(absl::StrCat(AbslView(key), AbslView(rest))); }

class RocksWriteLog : public WriteLog {
 public:
  RocksWriteLog(std::string directory, WriteLogOptions options)
      : directory_(std::move(directory)),
        what_(absl::StrCat("write log ", directory_)),
        files_(options.file_system ? options.file_system : rocksdb::FileSystem::Default()),
        env_(rocksdb::NewCompositeEnv(NewTornManifestFileSystem(files_))),
        create_if_missing_(options.create_if_missing),
        table_bytes_(options.table_bytes) {}

  ~RocksWriteLog() override {
    db_.reset();
    // So that the next start may hold the log to its end also after a power cut.
    if (acknowledged_) {
      (void)acknowledged_->Sync(rocksdb::IOOptions(), nullptr);
      (void)acknowledged_->Close(rocksdb::IOOptions(), nullptr);
    }
  }

  absl::Status Init() {
    if (create_if_missing_) {
      const rocksdb::Status made = env_->CreateDirIfMissing(directory_);
      if (!made.ok()) return FromRocksDb(made, absl::StrCat("cannot create the folder of the ", what_));
    }
    LOCI_RETURN_IF_ERROR(OpenDb());
    LOCI_ASSIGN_OR_RETURN(const int64_t last, FindLastRevision(*db_));
    const int64_t acknowledged = ReadAcknowledged();
    if (last < acknowledged) {
      return absl::DataLossError(absl::StrCat("the ", what_, " ends at revision ", last, ", but revision ", acknowledged,
                                              " was acknowledged: its end is damaged or missing"));
    }
    last_revision_.store(last);
    OpenAcknowledged();
    WriteAcknowledged(last);
    return absl::OkStatus();
  }

  int64_t last_revision() const override { return last_revision_.load(); }

  absl::Status Append(int64_t revision, const std::vector<storage::WriteRecord>& records) override {
    const int64_t previous = last_revision_.load();
    if (revision <= previous || records.empty() || records.size() > UINT32_MAX) {
      return absl::InternalError(absl::StrCat("can't append ", records.size(), " records as revision ", revision, " to the ", what_,
                                              ", which is at revision ", previous));
    }
    LOCI_RETURN_IF_ERROR(Recover());
    rocksdb::WriteBatch batch;
    std::string rest;
    for (size_t i = 0; i < records.size(); ++i) {
      if (records[i].revision() != revision) {
        return absl::InternalError(absl::StrCat("a record of revision ", records[i].revision(), " in request ", revision));
      }
      const std::string key = Key(revision, static_cast<uint32_t>(i));
      rest.clear();
      PutFixed64(&rest, static_cast<uint64_t>(previous));
      PutFixed32(&rest, static_cast<uint32_t>(records.size()));
      if (!records[i].AppendToString(&rest)) {
        return absl::InvalidArgumentError(absl::StrCat("the write of a passage is too large for the ", what_));
      }
      // A string that is not UTF-8 can be serialised, but not parsed again.
      if (!storage::WriteRecord().ParseFromArray(rest.data() + kRestHeaderBytes, static_cast<int>(rest.size() - kRestHeaderBytes))) {
        return absl::InvalidArgumentError("the write of a passage could not be read again: a string in it is not valid UTF-8");
      }
      std::string value;
      value.reserve(8 + rest.size());
      PutFixed64(&value, ValueChecksum(key, rest));
      value += rest;
      batch.Put(key, value);
    }
    LOCI_RETURN_IF_ERROR(WriteSynced(&batch, "cannot append to the "));
    last_revision_.store(revision);
    WriteAcknowledged(revision);
    return absl::OkStatus();
  }

  absl::Status AddVectors(std::span<const WritePlace> places, std::span<const storage::WriteVector> vectors) override {
    LOCI_RETURN_IF_ERROR(Recover());
    rocksdb::WriteBatch batch;
    {
      std::shared_lock<std::shared_mutex> lock(db_mutex_);
      LOCI_ASSIGN_OR_RETURN(const TrimState trimmed, ReadTrimState());
      for (size_t i = 0; i < places.size(); ++i) {
        if (places[i].revision <= trimmed.upto) continue;
        const std::string key = Key(places[i].revision, places[i].ordinal);
        std::string value;
        const rocksdb::Status got = db_->Get(rocksdb::ReadOptions(), key, &value);
        if (!got.ok() && !got.IsNotFound()) return FromRocksDb(got, absl::StrCat("cannot read the ", what_));
        storage::WriteRecord record;
        if (got.IsNotFound() || value.size() < kValueHeaderBytes || GetFixed(value, 8) != ValueChecksum(key, std::string_view(value).substr(8)) ||
            !record.ParseFromArray(value.data() + kValueHeaderBytes, static_cast<int>(value.size() - kValueHeaderBytes))) {
          return Damaged(places[i].revision, absl::StrCat("record ", places[i].ordinal, " can't be read"));
        }
        storage::WriteVector* vector = nullptr;
        for (storage::WriteVector& there : *record.mutable_vectors()) {
          if (there.passage_fingerprint() == vectors[i].passage_fingerprint()) vector = &there;
        }
        *(vector != nullptr ? vector : record.add_vectors()) = vectors[i];
        std::string rest = value.substr(8, kRestHeaderBytes);
        if (!record.AppendToString(&rest)) return absl::ResourceExhaustedError(absl::StrCat("a record of the ", what_, " would be too large"));
        value.clear();
        PutFixed64(&value, ValueChecksum(key, rest));
        batch.Put(key, value + rest);
      }
    }
    return batch.Count() == 0 ? absl::OkStatus() : WriteSynced(&batch, "cannot add vectors to the ");
  }

  absl::Status Recover() override {
    if (!failed_) return absl::OkStatus();
    std::unique_lock<std::shared_mutex> lock(db_mutex_);
    db_.reset();
    LOCI_RETURN_IF_ERROR(OpenDb());
    LOCI_ASSIGN_OR_RETURN(const int64_t found, FindLastRevision(*db_));
    const int64_t acknowledged = last_revision_.load();
    if (found < acknowledged) {
      return absl::DataLossError(absl::StrCat("the ", what_, " ends at revision ", found, " after a failed append, but revision ",
                                              acknowledged, " was acknowledged"));
    }
    if (found > acknowledged) {
      rocksdb::WriteBatch batch;
      batch.DeleteRange(Key(acknowledged + 1, 0), Key(found + 1, 0));
      rocksdb::WriteOptions options;
      options.sync = true;
      const rocksdb::Status status = db_->Write(options, &batch);
      if (!status.ok()) return FromRocksDb(status, absl::StrCat("cannot take back a failed append to the ", what_));
    }
    failed_ = false;
    return absl::OkStatus();
  }

  absl::Status Read(int64_t after, int64_t upto,
                    const std::function<absl::Status(const storage::WriteRecord&)>& visit) const override {
    return Walk(after, upto, [&](int64_t revision, uint32_t, std::string_view serialized) -> absl::Status {
      storage::WriteRecord record;
      if (!record.ParseFromArray(serialized.data(), static_cast<int>(serialized.size())) || record.revision() != revision) {
        return Damaged(revision, "a record can't be parsed");
      }
      return visit(record);
    });
  }

  absl::StatusOr<int64_t> CountRequests(int64_t after, int64_t upto) const override {
    int64_t count = 0;
    LOCI_RETURN_IF_ERROR(Walk(after, upto, [&](int64_t, uint32_t ordinal, std::string_view) {
      count += ordinal == 0;
      return absl::OkStatus();
    }));
    return count;
  }

  absl::Status Trim(int64_t upto) override {
    LOCI_RETURN_IF_ERROR(Recover());
    const int64_t last = last_revision_.load();
    upto = std::min(upto, last);
    std::shared_lock<std::shared_mutex> lock(db_mutex_);
    LOCI_ASSIGN_OR_RETURN(const TrimState trimmed, ReadTrimState());
    if (upto <= trimmed.upto) return absl::OkStatus();
    lock.unlock();
    std::string rest;
    PutFixed64(&rest, static_cast<uint64_t>(upto));
    PutFixed64(&rest, static_cast<uint64_t>(last));
    std::string value;
    PutFixed64(&value, Xxh3(rest));
    value += rest;
    rocksdb::WriteBatch batch;
    batch.Put(kTrimKey, value);
    batch.DeleteRange(Key(0, 0), Key(upto + 1, 0));
    return WriteSynced(&batch, "cannot trim the ");
  }

 private:
  struct TrimState {
    int64_t upto = 0;
    int64_t last_revision = 0;
  };

  absl::Status Damaged(int64_t revision, std::string_view how) const {
    return absl::DataLossError(absl::StrCat("the ", what_, " is damaged at revision ", revision, ": ", AbslView(how)));
  }

  absl::Status OpenDb() {
    rocksdb::Options options;
    options.env = env_.get();
    options.create_if_missing = create_if_missing_;
    options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
    options.track_and_verify_wals_in_manifest = true;
    options.info_log = SilentRocksDbLogger();
    options.write_buffer_size = 4 << 20;
    options.max_write_buffer_number = 2;
    if (table_bytes_ > 0) {
      options.db_write_buffer_size = table_bytes_;
      options.arena_block_size = 4 << 10;  // What is counted; write_buffer_size itself is never below 64 KiB.
    }
    options.max_open_files = 64;
    options.max_background_jobs = 2;
    options.keep_log_file_num = 1;
    options.stats_dump_period_sec = 0;
    options.stats_persist_period_sec = 0;
    options.compression = rocksdb::kLZ4Compression;
    rocksdb::BlockBasedTableOptions table;
    table.block_cache = rocksdb::NewLRUCache(1 << 20);
    options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
    if (env_->FileExists(absl::StrCat(directory_, "/CURRENT")).ok()) LOCI_RETURN_IF_ERROR(CheckOnlyTheEndIsDamaged(options));
    rocksdb::DB* db = nullptr;
    const rocksdb::Status status = rocksdb::DB::Open(options, directory_, &db);
    if (!status.ok()) {
      // A folder that should be there and is not, or lacks its files, is a loss to us, whatever RocksDB calls it.
      if (status.IsInvalidArgument()) return absl::DataLossError(absl::StrCat("cannot open the ", what_, ": ", status.ToString()));
      return FromRocksDb(status, absl::StrCat("cannot open the ", what_));
    }
    db_.reset(db);
    return absl::OkStatus();
  }

  // DATA_LOSS where reading up to the damage would lose more than the last append. Only reads: the files stay as they are for whoever
  // wants to save what is in them.
  absl::Status CheckOnlyTheEndIsDamaged(const rocksdb::Options& options) const {
    rocksdb::DB* opened = nullptr;
    const rocksdb::Status status = rocksdb::DB::OpenForReadOnly(options, directory_, &opened);
    const std::unique_ptr<rocksdb::DB> db(opened);
    if (!status.ok()) return FromRocksDb(status, absl::StrCat("cannot open the ", what_));
    LOCI_ASSIGN_OR_RETURN(const int64_t whole, FindLastRevision(*db));
    LOCI_ASSIGN_OR_RETURN(const int64_t behind, FindRequestBehind(whole));
    if (const int64_t needed = std::max(behind, ReadAcknowledged()); whole < needed) {
      return absl::DataLossError(absl::StrCat("the ", what_, " is damaged after revision ", whole, ", and revision ", needed, " came later"));
    }
    return absl::OkStatus();
  }

  // A revision of RocksDB's logs that follows on another one above `whole`, where the last whole request is `whole`; else 0. RocksDB gives
  // up a block of its log with the first damaged record, so our own records are looked for in the bytes: their checksum tells them.
  absl::StatusOr<int64_t> FindRequestBehind(int64_t whole) const {
    std::vector<std::string> names;
    rocksdb::Status status = env_->GetChildren(directory_, &names);
    if (!status.ok()) return FromRocksDb(status, absl::StrCat("cannot list the ", what_));
    for (const std::string& name : names) {
      std::string content;
      if (!std::string_view(name).ends_with(".log")) continue;
      status = rocksdb::ReadFileToString(env_.get(), absl::StrCat(directory_, "/", name), &content);
      if (!status.ok()) return FromRocksDb(status, absl::StrCat("cannot read the ", what_));
      for (size_t at = content.find(kKeyLength); at != std::string::npos; at = content.find(kKeyLength, at + 1)) {
        int64_t revision;
        uint32_t ordinal;
        std::string_view rest = std::string_view(content).substr(at + 1);
        const std::string_view key = rest.substr(0, kKeyBytes);
        if (!ParseKey(key, &revision, &ordinal) || revision <= whole || revision - whole > kMaxRequestsInLogs) continue;
        rest.remove_prefix(kKeyBytes);
        uint32_t length;
        if (!TakeVarint32(&rest, &length) || length < kValueHeaderBytes || length > std::min(rest.size(), kLogBlockBytes)) continue;
        const std::string_view value = rest.substr(0, length);
        if (GetFixed(value, 8) != ValueChecksum(key, value.substr(8))) continue;
        if (static_cast<int64_t>(GetFixed(value.substr(8), 8)) > whole) return revision;
      }
    }
    return 0;
  }

  absl::StatusOr<TrimState> ReadTrimState() const {
    if (!db_) return Closed();
    return ReadTrimState(*db_);
  }
  absl::StatusOr<TrimState> ReadTrimState(rocksdb::DB& db) const {
    TrimState state;
    std::string value;
    const rocksdb::Status status = db.Get(rocksdb::ReadOptions(), kTrimKey, &value);
    if (status.IsNotFound()) return state;
    if (!status.ok()) return FromRocksDb(status, absl::StrCat("cannot read the ", what_));
    if (value.size() != 24 || GetFixed(value, 8) != Xxh3(std::string_view(value).substr(8))) {
      return absl::DataLossError(absl::StrCat("the ", what_, " is damaged: its trim record"));
    }
    state.upto = static_cast<int64_t>(GetFixed(std::string_view(value).substr(8), 8));
    state.last_revision = static_cast<int64_t>(GetFixed(std::string_view(value).substr(16), 8));
    return state;
  }

  // Of what is on disk.
  absl::StatusOr<int64_t> FindLastRevision(rocksdb::DB& db) const {
    LOCI_ASSIGN_OR_RETURN(const TrimState trimmed, ReadTrimState(db));
    std::unique_ptr<rocksdb::Iterator> it(db.NewIterator(rocksdb::ReadOptions()));
    it->SeekForPrev(Key(INT64_MAX, UINT32_MAX));
    if (!it->Valid()) {
      if (!it->status().ok()) return FromRocksDb(it->status(), absl::StrCat("cannot read the ", what_));
      return trimmed.last_revision;
    }
    int64_t revision;
    uint32_t ordinal;
    if (!ParseKey(View(it->key()), &revision, &ordinal)) return absl::DataLossError(absl::StrCat("the ", what_, " has a foreign key"));
    return std::max(revision, trimmed.last_revision);
  }

  absl::Status Closed() const {
    return absl::UnavailableError(absl::StrCat("the ", what_, " is closed since a failed append; the next write opens it again"));
  }

  absl::Status WriteSynced(rocksdb::WriteBatch* batch, std::string_view what) {
    rocksdb::WriteOptions options;
    options.sync = true;
    std::shared_lock<std::shared_mutex> lock(db_mutex_);
    if (!db_) return Closed();
    const rocksdb::Status status = db_->Write(options, batch);
    if (status.ok()) return absl::OkStatus();
    failed_ = true;
    return FromRocksDb(status, absl::StrCat(AbslView(what), what_));
  }

  // Visits the records of (after, upto] and checks that none is damaged or missing.
  template <typename Visit>
  absl::Status Walk(int64_t after, int64_t upto, const Visit& visit) const {
    std::shared_lock<std::shared_mutex> lock(db_mutex_);
    LOCI_ASSIGN_OR_RETURN(const TrimState trimmed, ReadTrimState());
    if (after < trimmed.upto) {
      return absl::OutOfRangeError(absl::StrCat("the ", what_, " forgot its revisions up to ", trimmed.upto, "; those after ", after,
                                                " were asked for"));
    }
    const int64_t last = last_revision_.load();
    upto = std::min(upto, last);
    if (upto <= after) return absl::OkStatus();
    std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(rocksdb::ReadOptions()));
    int64_t current = after;  // Revision of the request being read.
    uint32_t seen = 0, expected = 0;
    for (it->Seek(Key(after + 1, 0)); it->Valid() && View(it->key()) != kTrimKey; it->Next()) {
      int64_t revision;
      uint32_t ordinal;
      const std::string_view key = View(it->key()), value = View(it->value());
      if (!ParseKey(key, &revision, &ordinal)) return Damaged(current, "a foreign key follows");
      if (value.size() < kValueHeaderBytes || GetFixed(value, 8) != ValueChecksum(key, value.substr(8))) {
        return Damaged(revision, "a record's checksum differs");
      }
      if (revision != current) {
        if (seen != expected) return Damaged(current, absl::StrCat("it has ", seen, " of ", expected, " records"));
        const int64_t previous = static_cast<int64_t>(GetFixed(value.substr(8), 8));
        // Before the first request that is read lies one that was not asked for.
        if (current == after ? previous > after : previous != current) {
          return Damaged(previous, absl::StrCat("the request is missing before revision ", revision));
        }
        if (revision > upto) return absl::OkStatus();
        current = revision;
        seen = 0;
        expected = static_cast<uint32_t>(GetFixed(value.substr(16), 4));
      }
      if (ordinal != seen) return Damaged(revision, absl::StrCat("record ", seen, " is missing"));
      ++seen;
      LOCI_RETURN_IF_ERROR(visit(revision, ordinal, value.substr(kValueHeaderBytes)));
    }
    if (!it->status().ok()) return FromRocksDb(it->status(), absl::StrCat("cannot read the ", what_));
    if (seen != expected) return Damaged(current, absl::StrCat("it has ", seen, " of ", expected, " records"));
    if (current < last) return Damaged(last, "the request is missing at the end");
    return absl::OkStatus();
  }

  std::string AcknowledgedPath() const { return absl::StrCat(directory_, "/ACKNOWLEDGED"); }

  int64_t ReadAcknowledged() const {
    std::string content;
    if (!rocksdb::ReadFileToString(env_.get(), AcknowledgedPath(), &content).ok()) return 0;
    int64_t revision = 0;
    for (size_t slot = 0; slot < 2 && content.size() >= (slot + 1) * kSlotBytes; ++slot) {
      const std::string_view bytes = std::string_view(content).substr(slot * kSlotBytes, kSlotBytes);
      if (GetFixed(bytes.substr(8), 8) != Xxh3(bytes.substr(0, 8))) continue;
      revision = std::max(revision, static_cast<int64_t>(GetFixed(bytes, 8)));
    }
    return revision;
  }

  void OpenAcknowledged() {
    // RocksDB's file for writing in place must exist; one for appending makes it.
    if (!env_->FileExists(AcknowledgedPath()).ok()) {
      (void)rocksdb::WriteStringToFile(env_.get(), std::string(2 * kSlotBytes, '\0'), AcknowledgedPath());
    }
    const rocksdb::IOStatus status =
        files_->NewRandomRWFile(AcknowledgedPath(), rocksdb::FileOptions(), &acknowledged_, nullptr);
    if (!status.ok()) {
      acknowledged_.reset();
      LogWarning("write_log", absl::StrCat("cannot write ", AcknowledgedPath(), ": ", status.ToString(),
                                           "; a lost end of the log would not be noticed"));
    }
  }

  // The append is durable already: a failure here only makes the check of the next start weaker.
  void WriteAcknowledged(int64_t revision) {
    if (!acknowledged_) return;
    std::string slot;
    PutFixed64(&slot, static_cast<uint64_t>(revision));
    PutFixed64(&slot, Xxh3(slot));
    (void)acknowledged_->Write(kSlotBytes * slot_, slot, rocksdb::IOOptions(), nullptr);
    slot_ ^= 1;
  }

  // Constant after construction.
  const std::string directory_;
  const std::string what_;
  const std::shared_ptr<rocksdb::FileSystem> files_;
  const std::unique_ptr<rocksdb::Env> env_;
  const bool create_if_missing_;
  const size_t table_bytes_;

  // The writer's own.
  bool failed_ = false;  // Since the last Append nobody knows what is on disk.
  uint64_t slot_ = 0;
  std::unique_ptr<rocksdb::FSRandomRWFile> acknowledged_;

  std::atomic<int64_t> last_revision_{0};
  mutable std::shared_mutex db_mutex_;  // Exclusive while the database is opened anew.
  std::unique_ptr<rocksdb::DB> db_;     // Guarded by db_mutex_; null where opening it anew failed.
};

}  // namespace

absl::StatusOr<std::unique_ptr<WriteLog>> WriteLog::Open(const std::string& directory, WriteLogOptions options) {
  auto log = std::make_unique<RocksWriteLog>(directory, std::move(options));
  LOCI_RETURN_IF_ERROR(log->Init());
  return log;
}

}  // namespace loci
