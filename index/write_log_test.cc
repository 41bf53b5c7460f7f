#include "index/write_log.h"

#include <stdio.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/rocksdb_fault.h"
#include "index/store_testing.h"
#include "rocksdb/db.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;

namespace stdfs = std::filesystem;

class WriteLogTest : public ::testing::Test {
 protected:
  WriteLogTest() : root_directory_("write_log"), root_(root_directory_.path()), directory_(JoinPath(root_, "writes")) {}

  static std::vector<storage::WriteRecord> Request(int64_t revision, int count = 1) {
    std::vector<storage::WriteRecord> records;
    for (int i = 0; i < count; ++i) {
      storage::WriteRecord& record = records.emplace_back();
      record.set_revision(revision);
      record.set_id("p" + std::to_string(revision) + "." + std::to_string(i));
      record.mutable_passage()->set_id(record.id());
      record.mutable_passage()->set_text("text of revision " + std::to_string(revision));
    }
    return records;
  }

  static absl::StatusOr<std::vector<std::string>> Ids(const WriteLog& log, int64_t after = 0, int64_t upto = INT64_MAX) {
    std::vector<std::string> ids;
    const absl::Status status = log.Read(after, upto, [&](const storage::WriteRecord& record) {
      ids.push_back(record.id());
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    return ids;
  }

  std::unique_ptr<WriteLog> OpenOrDie(WriteLogOptions options = {}) {
    auto log = WriteLog::Open(directory_, std::move(options));
    EXPECT_TRUE(log.ok()) << log.status();
    return log.ok() ? *std::move(log) : nullptr;
  }

  // The one write-ahead log of the folder that has something in it.
  std::string WalPath() const {
    std::string path;
    for (const auto& entry : stdfs::directory_iterator(directory_)) {
      if (entry.path().extension() == ".log" && entry.file_size() > 0) {
        EXPECT_EQ(path, "");
        path = entry.path();
      }
    }
    EXPECT_NE(path, "");
    return path;
  }

  static std::string ReadAll(const std::string& path) { return *PosixFileSystem().ReadFile(path); }
  static void WriteAll(const std::string& path, const std::string& content) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
  }

  // Zeros the end of RocksDB's MANIFEST from each of its records on, as if a power cut had torn it there, though it was synced: the log does
  // not open or can't be read, or has all that it had.
  void LoseRecordsOfManifest(const WriteLogOptions& options, const std::vector<std::string>& all) {
    const std::string pristine = JoinPath(root_, "pristine");
    stdfs::rename(directory_, pristine);
    std::string name = ReadAll(JoinPath(pristine, "CURRENT"));
    name.pop_back();
    const std::string manifest = ReadAll(JoinPath(pristine, name));
    int noticed = 0, whole = 0;
    size_t length = 0;
    for (size_t at = 0; at < manifest.size(); at += 7 + length) {
      length = static_cast<unsigned char>(manifest[at + 4]) + 256u * static_cast<unsigned char>(manifest[at + 5]);
      stdfs::remove_all(directory_);
      stdfs::copy(pristine, directory_);
      WriteAll(JoinPath(directory_, name), manifest.substr(0, at + 5) + std::string(manifest.size() - at - 5, '\0'));
      const auto log = WriteLog::Open(directory_, options);
      if (!log.ok()) {
        EXPECT_EQ(log.status().code(), absl::StatusCode::kDataLoss) << log.status();
        ++noticed;
        continue;
      }
      const auto ids = Ids(**log);
      ++(ids.ok() ? whole : noticed);
      if (ids.ok()) {
        EXPECT_EQ(*ids, all) << at;
      }
    }
    EXPECT_GE(noticed, 3);
    stdfs::remove_all(directory_);
    stdfs::rename(pristine, directory_);
    printf("records of the MANIFEST whose loss was noticed %d, that were not needed %d\n", noticed, whole);
  }

  const TestDirectory root_directory_;
  const std::string root_, directory_;
};

TEST_F(WriteLogTest, KeepsRequestsInOrderOverARestart) {
  {
    auto log = OpenOrDie();
    EXPECT_EQ(log->last_revision(), 0);
    ASSERT_TRUE(log->Append(3, Request(3, 2)).ok());
    ASSERT_TRUE(log->Append(7, Request(7)).ok());
    ASSERT_TRUE(log->Append(300, Request(300)).ok());
  }
  auto log = OpenOrDie();
  EXPECT_EQ(log->last_revision(), 300);
  EXPECT_THAT(*Ids(*log), ElementsAre("p3.0", "p3.1", "p7.0", "p300.0"));
  EXPECT_THAT(*Ids(*log, 3, 299), ElementsAre("p7.0"));
  EXPECT_THAT(*Ids(*log, 2, 3), ElementsAre("p3.0", "p3.1"));
  EXPECT_THAT(*Ids(*log, 300), IsEmpty());
  EXPECT_EQ(*log->CountRequests(0, 300), 3);
  EXPECT_EQ(*log->CountRequests(3, 7), 1);
  EXPECT_EQ(*log->CountRequests(7, 7), 0);
  EXPECT_FALSE(log->Append(300, Request(300)).ok());
  EXPECT_FALSE(log->Append(299, Request(299)).ok());
}

TEST_F(WriteLogTest, VectorsAreAddedToRecordsThatAreThereAndOutliveARestart) {
  const auto vector = [](const std::string& half, const std::string& bytes) {
    storage::WriteVector made;
    made.set_passage_fingerprint(half);
    made.set_float32(bytes);
    return made;
  };
  {
    auto log = OpenOrDie();
    ASSERT_TRUE(log->Append(1, Request(1)).ok());
    ASSERT_TRUE(log->Append(3, Request(3, 3)).ok());
    ASSERT_TRUE(log->Append(7, Request(7)).ok());
    ASSERT_TRUE(log->Trim(1).ok());
    const std::vector<WritePlace> places = {{1, 0}, {3, 0}, {3, 2}, {7, 0}};  // The first is trimmed.
    ASSERT_TRUE(log->AddVectors(places, std::vector{vector("x", "trim"), vector("x", "30xx"), vector("x", "32xx"), vector("x", "70xx")}).ok());
    ASSERT_TRUE(log->AddVectors(std::vector<WritePlace>{{3, 2}}, std::vector{vector("y", "32yy")}).ok());
    ASSERT_TRUE(log->AddVectors(std::vector<WritePlace>{{3, 2}}, std::vector{vector("x", "32xz")}).ok());
    ASSERT_TRUE(log->AddVectors({}, {}).ok());
    for (const WritePlace absent : {WritePlace{3, 3}, WritePlace{4, 0}, WritePlace{8, 0}}) {
      EXPECT_EQ(log->AddVectors(std::vector{absent}, std::vector{vector("x", "none")}).code(), absl::StatusCode::kDataLoss);
    }
    ASSERT_TRUE(log->Append(9, Request(9)).ok());
  }
  auto log = OpenOrDie();
  EXPECT_THAT(*Ids(*log, 1), ElementsAre("p3.0", "p3.1", "p3.2", "p7.0", "p9.0"));
  std::vector<std::string> vectors;
  ASSERT_TRUE(log->Read(1, 9, [&](const storage::WriteRecord& record) {
    std::string text = record.passage().text().substr(0, 4);
    for (const storage::WriteVector& there : record.vectors()) text += " " + there.passage_fingerprint() + "=" + there.float32();
    vectors.push_back(text);
    return absl::OkStatus();
  }).ok());
  EXPECT_THAT(vectors, ElementsAre("text x=30xx", "text", "text x=32xz y=32yy", "text x=70xx", "text"));
  EXPECT_EQ(log->last_revision(), 9);
}

TEST_F(WriteLogTest, StopsReadingAtTheVisitorsError) {
  auto log = OpenOrDie();
  ASSERT_TRUE(log->Append(1, Request(1, 5)).ok());
  int visits = 0;
  const absl::Status status = log->Read(0, 1, [&](const storage::WriteRecord&) {
    return ++visits == 2 ? absl::CancelledError("enough") : absl::OkStatus();
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(visits, 2);
}

TEST_F(WriteLogTest, ForgetsWhatIsTrimmedButNotItsLastRevision) {
  {
    auto log = OpenOrDie();
    for (int64_t revision = 1; revision <= 6; ++revision) ASSERT_TRUE(log->Append(revision, Request(revision)).ok());
    ASSERT_TRUE(log->Trim(4).ok());
    EXPECT_THAT(*Ids(*log, 4), ElementsAre("p5.0", "p6.0"));
    EXPECT_EQ(Ids(*log, 3).status().code(), absl::StatusCode::kOutOfRange);
    ASSERT_TRUE(log->Trim(100).ok());
  }
  auto log = OpenOrDie();
  EXPECT_EQ(log->last_revision(), 6);
  EXPECT_THAT(*Ids(*log, 6), IsEmpty());
  ASSERT_TRUE(log->Append(7, Request(7)).ok());
  EXPECT_THAT(*Ids(*log, 6), ElementsAre("p7.0"));
}

TEST_F(WriteLogTest, RefusesAFolderThatIsNotThereUnlessToldToMakeIt) {
  WriteLogOptions options;
  options.create_if_missing = false;
  EXPECT_EQ(WriteLog::Open(directory_, options).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(WriteLogTest, RefusesASecondHandle) {
  auto log = OpenOrDie();
  EXPECT_EQ(WriteLog::Open(directory_).status().code(), absl::StatusCode::kFailedPrecondition);
}

// Any one damaged byte of the log is noticed, or does no harm: RocksDB alone takes some for the end of the log.
TEST_F(WriteLogTest, NoticesEveryDamagedByte) {
  constexpr int64_t kRequests = 12;
  {
    auto log = OpenOrDie();
    for (int64_t revision = 1; revision <= kRequests; ++revision) ASSERT_TRUE(log->Append(revision, Request(revision)).ok());
  }
  const std::string pristine = JoinPath(root_, "pristine");
  stdfs::rename(directory_, pristine);
  const auto restore = [&] {
    stdfs::remove_all(directory_);
    stdfs::copy(pristine, directory_, stdfs::copy_options::recursive);
  };
  restore();
  const std::string content = ReadAll(WalPath());
  int noticed = 0, harmless = 0;
  const auto check = [&](const std::string& damaged, const std::string& what) {
    restore();
    WriteAll(WalPath(), damaged);
    auto log = WriteLog::Open(directory_);
    const absl::StatusOr<std::vector<std::string>> ids =
        log.ok() ? Ids(**log) : absl::StatusOr<std::vector<std::string>>(log.status());
    if (!ids.ok()) {
      EXPECT_EQ(ids.status().code(), absl::StatusCode::kDataLoss) << what << ": " << ids.status();
      ++noticed;
      return;
    }
    EXPECT_EQ(ids->size(), static_cast<size_t>(kRequests)) << what;
    ++harmless;
  };
  for (size_t position = 0; position < content.size(); position += 9) {
    std::string damaged = content;
    damaged[position] ^= static_cast<char>(1 << (position / 9 % 8));
    check(damaged, "bit flipped at " + std::to_string(position));
  }
  // Whole stretches, as of a lost sector; and every header of a physical record: 4 bytes checksum, 2 length, 1 type.
  for (size_t length : {32, 200}) {
    for (size_t position = 0; position + length <= content.size(); position += 97) {
      std::string damaged = content;
      damaged.replace(position, length, length, '\0');
      check(damaged, "zeros at " + std::to_string(position));
    }
  }
  size_t headers = 0;
  for (size_t header = 0; header + 7 <= content.size(); ++headers) {
    const size_t length = static_cast<unsigned char>(content[header + 4]) | static_cast<unsigned char>(content[header + 5]) << 8;
    for (size_t byte = 4; byte < 7; ++byte) {
      for (char mask : {0x01, 0x40, -1}) {
        std::string damaged = content;
        damaged[header + byte] ^= mask;
        check(damaged, "header at " + std::to_string(header) + " byte " + std::to_string(byte));
      }
    }
    header += 7 + length;
  }
  EXPECT_EQ(headers, static_cast<size_t>(kRequests));
  EXPECT_GT(noticed, 200);
  check(content, "no damage");
  EXPECT_GT(harmless, 0);
  // Cut off where an acknowledged request ends.
  for (size_t kept : {size_t{0}, content.size() / 2, content.size() - 1}) {
    restore();
    WriteAll(WalPath(), content.substr(0, kept));
    EXPECT_EQ(WriteLog::Open(directory_).status().code(), absl::StatusCode::kDataLoss) << kept;
  }
  // The log itself gone.
  restore();
  stdfs::remove(WalPath());
  EXPECT_FALSE(WriteLog::Open(directory_).ok());
}

// After a power cut the mark of what was acknowledged may lag. A whole request behind the damage shows that it is none of an append that
// was cut off; and the files stay as they were.
TEST_F(WriteLogTest, NoticesADamagedRequestBeforeAWholeOneThoughTheMarkLags) {
  constexpr int64_t kRequests = 12;
  {
    auto log = OpenOrDie();
    for (int64_t revision = 1; revision <= kRequests; ++revision) ASSERT_TRUE(log->Append(revision, Request(revision)).ok());
  }
  stdfs::remove(JoinPath(directory_, "ACKNOWLEDGED"));
  const std::string wal = WalPath();
  const std::string content = ReadAll(wal);
  std::vector<size_t> headers;
  for (size_t header = 0; header + 7 <= content.size();) {
    headers.push_back(header);
    header += 7 + (static_cast<unsigned char>(content[header + 4]) | static_cast<unsigned char>(content[header + 5]) << 8);
  }
  ASSERT_EQ(headers.size(), static_cast<size_t>(kRequests));
  for (size_t record = 0; record + 1 < headers.size(); ++record) {
    std::string damaged = content;
    damaged[headers[record] + 20] ^= 4;
    WriteAll(wal, damaged);
    const auto log = WriteLog::Open(directory_);
    EXPECT_EQ(log.status().code(), absl::StatusCode::kDataLoss) << record << ": " << log.status();
    EXPECT_EQ(ReadAll(wal), damaged) << "the log was changed by an open that failed";
  }
  std::string damaged = content;
  damaged[headers.back() + 20] ^= 4;
  WriteAll(wal, damaged);
  const auto log = WriteLog::Open(directory_);
  ASSERT_TRUE(log.ok()) << log.status();
  EXPECT_EQ((*log)->last_revision(), kRequests - 1);
}

TEST_F(WriteLogTest, OpensWithoutTheTornEndOfAnUnacknowledgedAppend) {
  const std::string before = JoinPath(root_, "before");
  size_t size_before = 0;
  {
    auto log = OpenOrDie();
    for (int64_t revision = 1; revision <= 3; ++revision) ASSERT_TRUE(log->Append(revision, Request(revision)).ok());
    stdfs::copy(JoinPath(directory_, "ACKNOWLEDGED"), before);
    size_before = ReadAll(WalPath()).size();
    ASSERT_TRUE(log->Append(4, Request(4, 2)).ok());
  }
  const std::string pristine = JoinPath(root_, "pristine");
  stdfs::rename(directory_, pristine);
  size_t full = 0;
  for (size_t cut = 0; full == 0 || size_before + cut <= full; cut += 11) {
    stdfs::remove_all(directory_);
    stdfs::copy(pristine, directory_, stdfs::copy_options::recursive);
    stdfs::copy_file(before, JoinPath(directory_, "ACKNOWLEDGED"), stdfs::copy_options::overwrite_existing);
    const std::string content = ReadAll(WalPath());
    full = content.size();
    WriteAll(WalPath(), content.substr(0, size_before + cut));
    auto log = OpenOrDie();
    ASSERT_NE(log, nullptr) << cut;
    EXPECT_EQ(log->last_revision(), 3);
    EXPECT_THAT(*Ids(*log), ElementsAre("p1.0", "p2.0", "p3.0"));
    // What follows is not lost behind the torn bytes.
    ASSERT_TRUE(log->Append(5, Request(5)).ok());
    log.reset();
    log = OpenOrDie();
    ASSERT_NE(log, nullptr);
    EXPECT_THAT(*Ids(*log), ElementsAre("p1.0", "p2.0", "p3.0", "p5.0"));
  }
  EXPECT_GT(full, size_before + 100);
}

// What RocksDB's own checks let through: whole records that are not there, or not what was written.
TEST_F(WriteLogTest, NoticesHolesAndChangedRecords) {
  const auto key = [](int64_t revision, char ordinal) {
    return std::string(7, '\0') + static_cast<char>(revision) + std::string(3, '\0') + ordinal;
  };
  const auto status_after = [&](auto change) {
    stdfs::remove_all(directory_);
    {
      auto log = OpenOrDie();
      for (int64_t revision = 1; revision <= 5; ++revision) EXPECT_TRUE(log->Append(revision, Request(revision, 3)).ok());
    }
    rocksdb::DB* raw = nullptr;
    rocksdb::Options options;
    options.track_and_verify_wals_in_manifest = true;
    EXPECT_TRUE(rocksdb::DB::Open(options, directory_, &raw).ok());
    change(*raw);
    delete raw;
    auto log = WriteLog::Open(directory_);
    if (!log.ok()) return log.status().code();
    EXPECT_EQ(Ids(**log).status(), (*log)->CountRequests(0, INT64_MAX).status());
    return Ids(**log).status().code();
  };
  const auto remove = [&](int64_t revision, char first, char last) {
    return [=](rocksdb::DB& db) {
      for (char ordinal = first; ordinal <= last; ++ordinal) ASSERT_TRUE(db.Delete({}, key(revision, ordinal)).ok());
    };
  };
  EXPECT_EQ(status_after([](rocksdb::DB&) {}), absl::StatusCode::kOk);
  EXPECT_EQ(status_after(remove(3, 0, 2)), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status_after(remove(1, 0, 2)), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status_after(remove(5, 0, 2)), absl::StatusCode::kDataLoss);
  for (char ordinal : {0, 1, 2}) {
    EXPECT_EQ(status_after(remove(2, ordinal, ordinal)), absl::StatusCode::kDataLoss) << int{ordinal};
    EXPECT_EQ(status_after(remove(5, ordinal, ordinal)), absl::StatusCode::kDataLoss) << int{ordinal};
  }
  EXPECT_EQ(status_after([&](rocksdb::DB& db) {
              std::string value;
              ASSERT_TRUE(db.Get({}, key(2, 1), &value).ok());
              value.back() ^= 1;
              ASSERT_TRUE(db.Put({}, key(2, 1), value).ok());
            }),
            absl::StatusCode::kDataLoss);
  // A good record in another's place.
  EXPECT_EQ(status_after([&](rocksdb::DB& db) {
              std::string value;
              ASSERT_TRUE(db.Get({}, key(2, 1), &value).ok());
              ASSERT_TRUE(db.Put({}, key(2, 2), value).ok());
            }),
            absl::StatusCode::kDataLoss);
}

// Reads a log that was written in several sessions, so that RocksDB has moved it into its tables.
TEST_F(WriteLogTest, NoticesDamagedTables) {
  for (int64_t revision = 1; revision <= 4; ++revision) {
    auto log = OpenOrDie();
    ASSERT_TRUE(log->Append(revision, Request(revision, 3)).ok());
  }
  int tables = 0;
  for (const auto& entry : stdfs::directory_iterator(directory_)) {
    if (entry.path().extension() != ".sst") continue;
    ++tables;
    std::string content = ReadAll(entry.path());
    content[20] ^= 1;
    WriteAll(entry.path(), content);
  }
  ASSERT_GT(tables, 0);
  auto log = WriteLog::Open(directory_);
  const absl::Status status = log.ok() ? Ids(**log).status() : log.status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
}

// Its table is not in the log any more then.
TEST_F(WriteLogTest, NoticesALostRecordOfAFlush) {
  WriteLogOptions options;
  options.table_bytes = 4 << 10;
  const auto tables = [&] {
    const auto begin = stdfs::directory_iterator(directory_);
    return std::count_if(begin, stdfs::directory_iterator(), [](const auto& entry) { return entry.path().extension() == ".sst"; });
  };
  std::vector<std::string> all;
  {
    auto log = OpenOrDie(options);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    for (int64_t revision = 1; tables() < 3 && std::chrono::steady_clock::now() < deadline; ++revision) {
      std::vector<storage::WriteRecord> records = Request(revision);
      records[0].mutable_passage()->set_title(std::string(1500, 't'));
      ASSERT_TRUE(log->Append(revision, records).ok());
    }
    ASSERT_GE(tables(), 3);
    all = *Ids(*log);
  }
  for (const bool reopened : {false, true}) {  // Which also flushes.
    if (reopened) {
      EXPECT_THAT(*Ids(*OpenOrDie(options)), ElementsAreArray(all));
    }
    LoseRecordsOfManifest(options, all);
  }
}

// Fails one file operation of an append, or all from it on, tearing what is written or not.
TEST_F(WriteLogTest, AFailedAppendLeavesNothingAndLaterOnesWork) {
  RocksDbFaults faults;
  WriteLogOptions options;
  options.file_system = NewFaultyRocksDbFileSystem(&faults);
  int64_t revision = 0;
  std::vector<std::string> acknowledged;
  auto log = OpenOrDie(options);
  int failures = 0;
  for (bool tear : {false, true}) {
    faults.tear = tear;
    for (int offset = 0; offset < 4; ++offset) {
      SCOPED_TRACE("tear " + std::to_string(tear) + " operation " + std::to_string(offset));
      faults.kind = offset % 2 ? RocksDbFaults::Kind::kNoSpace : RocksDbFaults::Kind::kIoError;
      faults.fail_to = faults.operations + offset + 1;
      faults.fail_from = faults.operations + offset;
      for (int i = 0; i < 3; ++i) {
        ++revision;
        const absl::Status status = log->Append(revision, Request(revision, 2));
        if (!status.ok()) {
          ++failures;
          EXPECT_EQ(status.code(), offset % 2 ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kInternal) << status;
        } else {
          acknowledged.push_back("p" + std::to_string(revision) + ".0");
          acknowledged.push_back("p" + std::to_string(revision) + ".1");
        }
        auto ids = Ids(*log);
        if (ids.ok()) {
          EXPECT_EQ(*ids, acknowledged);
        }
      }
      faults.Heal();
      ASSERT_TRUE(log->Recover().ok());
      EXPECT_EQ(*Ids(*log), acknowledged);
    }
  }
  EXPECT_GE(failures, 6);
  log.reset();
  log = OpenOrDie();
  EXPECT_EQ(*Ids(*log), acknowledged);
  EXPECT_LE(log->last_revision(), revision);
}

TEST_F(WriteLogTest, AFullDiskIsResourceExhaustedUntilThereIsRoom) {
  RocksDbFaults faults;
  faults.kind = RocksDbFaults::Kind::kNoSpace;
  WriteLogOptions options;
  options.file_system = NewFaultyRocksDbFileSystem(&faults);
  auto log = OpenOrDie(options);
  ASSERT_TRUE(log->Append(1, Request(1)).ok());
  faults.FailAll();
  for (int64_t revision = 2; revision < 6; ++revision) {
    EXPECT_EQ(log->Append(revision, Request(revision)).code(), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_EQ(log->last_revision(), 1);
  faults.Heal();
  ASSERT_TRUE(log->Append(6, Request(6)).ok());
  EXPECT_THAT(*Ids(*log), ElementsAre("p1.0", "p6.0"));
  log.reset();
  EXPECT_THAT(*Ids(*OpenOrDie()), ElementsAre("p1.0", "p6.0"));
}

// A sync that fails may leave the request whole on disk; the next start finds it, but not after a later request.
TEST_F(WriteLogTest, ARequestWhoseSyncFailedIsTakenBackByTheNext) {
  for (bool later : {false, true}) {
    stdfs::remove_all(directory_);
    RocksDbFaults faults;
    WriteLogOptions options;
    options.file_system = NewFaultyRocksDbFileSystem(&faults);
    auto log = OpenOrDie(options);
    ASSERT_TRUE(log->Append(1, Request(1)).ok());
    faults.fail_from = faults.operations + 1;  // The append goes through, its sync does not.
    EXPECT_FALSE(log->Append(2, Request(2)).ok());
    faults.Heal();
    if (later) {
      ASSERT_TRUE(log->Append(3, Request(3)).ok());
    }
    log.reset();
    log = OpenOrDie();
    if (later) {
      EXPECT_THAT(*Ids(*log), ElementsAre("p1.0", "p3.0"));
    } else {
      EXPECT_THAT(*Ids(*log), ElementsAre("p1.0", "p2.0"));
      EXPECT_EQ(log->last_revision(), 2);
    }
  }
}

}  // namespace
}  // namespace loci
