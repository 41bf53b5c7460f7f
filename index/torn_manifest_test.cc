#include "index/torn_manifest.h"

#include <string>
#include <vector>

#include "base/file.h"
#include "gtest/gtest.h"
#include "index/store_testing.h"
#include "rocksdb/db.h"

namespace loci {
namespace {

// The MANIFEST of a database of RocksDB, with the record of a flush at its end.
std::string MakeManifest() {
  TestDirectory directory("torn_manifest");
  rocksdb::Options options;
  options.create_if_missing = true;
  rocksdb::DB* opened = nullptr;
  EXPECT_TRUE(rocksdb::DB::Open(options, directory.path(), &opened).ok());
  const std::unique_ptr<rocksdb::DB> db(opened);
  for (const char* key : {"a", "b", "c"}) {
    EXPECT_TRUE(db->Put(rocksdb::WriteOptions(), key, "value").ok());
    EXPECT_TRUE(db->Flush(rocksdb::FlushOptions()).ok());
  }
  std::string current = *PosixFileSystem().ReadFile(JoinPath(directory.path(), "CURRENT"));
  current.pop_back();  // A newline.
  return *PosixFileSystem().ReadFile(JoinPath(directory.path(), current));
}

// Where its records begin, and its end. All lie in the first block.
std::vector<size_t> Bounds(const std::string& manifest) {
  std::vector<size_t> bounds = {0};
  while (bounds.back() < manifest.size()) {
    const size_t at = bounds.back();
    bounds.push_back(at + 7 + static_cast<unsigned char>(manifest[at + 4]) + 256 * static_cast<unsigned char>(manifest[at + 5]));
  }
  EXPECT_EQ(bounds.back(), manifest.size());
  return bounds;
}

class TornManifest : public ::testing::Test {
 protected:
  static bool IsDamaged(const std::string& content) { return WholeManifestBytes(content).status().code() == absl::StatusCode::kDataLoss; }

  const std::string manifest_ = MakeManifest();
  const std::vector<size_t> bounds_ = Bounds(manifest_);
  const size_t last_ = bounds_[bounds_.size() - 2];  // Where the last record begins.
};

TEST_F(TornManifest, AWholeOneIsNotCut) {
  ASSERT_GE(bounds_.size(), 5u);
  for (const size_t end : bounds_) EXPECT_EQ(*WholeManifestBytes(manifest_.substr(0, end)), end);
}

TEST_F(TornManifest, ARecordThatEndsEarlyIsCut) {
  for (size_t end = last_ + 1; end < manifest_.size(); ++end) EXPECT_EQ(*WholeManifestBytes(manifest_.substr(0, end)), last_) << end;
}

TEST_F(TornManifest, ARecordThatIsZerosFromSomewhereOnIsCut) {
  for (size_t end = last_; end < manifest_.size(); ++end) {
    for (const size_t zeros : {manifest_.size() - end, size_t{4096}, size_t{100'000}}) {
      const std::string torn = manifest_.substr(0, end) + std::string(zeros, '\0');
      if (torn == manifest_) continue;
      EXPECT_EQ(*WholeManifestBytes(torn), last_) << end << " and " << zeros << " zeros";
    }
  }
  EXPECT_EQ(*WholeManifestBytes(manifest_ + std::string(100, '\0')), manifest_.size());
}

TEST_F(TornManifest, DamageBeforeAWholeRecordIsRefused) {
  for (size_t at = 0; at < last_; ++at) {
    std::string damaged = manifest_;
    damaged[at] ^= 1;
    EXPECT_TRUE(IsDamaged(damaged)) << at;
  }
  for (size_t record = 0; record + 2 < bounds_.size(); ++record) {
    std::string zeros = manifest_;
    for (size_t at = bounds_[record]; at < bounds_[record + 1]; ++at) zeros[at] = 0;
    EXPECT_TRUE(IsDamaged(zeros)) << record;
  }
}

TEST_F(TornManifest, ALastRecordThatIsThereWithAChangedBitIsRefused) {
  for (size_t at = last_; at < manifest_.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = manifest_;
      damaged[at] = static_cast<char>(damaged[at] ^ 1 << bit);
      if (damaged.back() == 0) continue;  // That could be torn too.
      EXPECT_TRUE(IsDamaged(damaged)) << at << " bit " << bit;
    }
  }
}

TEST_F(TornManifest, ARecordInPiecesIsCutAsAWhole) {
  // A record of RocksDB's format over three blocks, made by a write-ahead log, which has the same.
  TestDirectory directory("torn_manifest_pieces");
  rocksdb::Options options;
  options.create_if_missing = true;
  rocksdb::DB* opened = nullptr;
  ASSERT_TRUE(rocksdb::DB::Open(options, directory.path(), &opened).ok());
  const std::unique_ptr<rocksdb::DB> db(opened);
  rocksdb::WriteOptions synced;
  synced.sync = true;
  ASSERT_TRUE(db->Put(synced, "a", "value").ok());
  std::vector<size_t> ends;
  std::string content;
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(db->Put(synced, "b", std::string(80'000, 'x')).ok());
    const auto names = PosixFileSystem().List(directory.path());
    for (const std::string& name : *names) {
      if (name.ends_with(".log")) content = *PosixFileSystem().ReadFile(JoinPath(directory.path(), name));
    }
    ends.push_back(content.size());
  }
  ASSERT_GT(ends[0], 80'000u);
  ASSERT_GT(ends[1], 160'000u);
  EXPECT_EQ(*WholeManifestBytes(content), ends[1]);
  for (size_t end = ends[0] + 1; end < ends[1]; end += 1009) {
    EXPECT_EQ(*WholeManifestBytes(content.substr(0, end)), ends[0]) << end;
    EXPECT_EQ(*WholeManifestBytes(content.substr(0, end) + std::string(ends[1] - end, '\0')), ends[0]) << end;
  }
  content[ends[0] + 40'000] ^= 1;
  EXPECT_TRUE(IsDamaged(content));
}

}  // namespace
}  // namespace loci
