// Cuts the power at every sync point, and at random operations, of a store's life, and looks at what the disk is left with.
// LOCI_POWER_CUT_POINTS sets the number of random cuts, LOCI_POWER_CUT_SEED the seed. For syncs that lie see store_lying_sync_test.cc.
#include <stdio.h>
#include <stdlib.h>

#include <random>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gtest/gtest.h"
#include "index/disk_model.h"
#include "index/store.h"
#include "index/store_life.h"
#include "index/store_testing.h"
#include "index/torn_manifest.h"

namespace loci {
namespace {

using Survival = DiskModel::Survival;

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  const char* const value = ::getenv(name);
  return value == nullptr ? otherwise : ::atoll(value);
}

constexpr char kSyncOfManifest[] = "rocksdb sync stores/s/writes/MANIFEST-#";

// Whether the MANIFEST that the write log is opened by ends in a torn record.
bool IsManifestTorn(const DiskImage& image) {
  const auto current = image.find("stores/s/writes/CURRENT");
  if (current == image.end()) return false;
  const auto manifest = image.find(absl::StrCat("stores/s/writes/", current->second.substr(0, current->second.find('\n'))));
  if (manifest == image.end()) return false;
  const auto whole = WholeManifestBytes(manifest->second);
  return whole.ok() && *whole < manifest->second.size();
}

class PowerCut : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    TestDirectory directory("power_cut_life");
    recording_ = new Recording(RecordLife(directory.path()));
  }
  static const Recording& recording() { return *recording_; }
  std::string left() const { return JoinPath(directory_.path(), "left"); }
  std::string empty() {
    EXPECT_TRUE(PosixFileSystem().CreateDirectories(JoinPath(directory_.path(), "empty")).ok());
    return JoinPath(directory_.path(), "empty");
  }

 private:
  static Recording* recording_;
  TestDirectory directory_{"power_cut"};
};
Recording* PowerCut::recording_ = nullptr;

TEST_F(PowerCut, BeforeEverySyncTheOldStateOrTheNewOneIsThere) {
  const auto& operations = recording().operations;
  DiskModel model(empty());
  std::mt19937 random(1);
  int points = 0, cuts = 0, looked_at = 0, went_on_count = 0;
  // Since the last mark, from which on another state is allowed. What all of a cut before a sync leaves is as a rule what the sync makes durable: a
  // look that does not go on must not take the place of one that does.
  std::set<uint64_t> seen, went_on;
  for (size_t i = 0; i <= operations.size(); ++i) {
    if (i == operations.size() || operations[i].is_sync()) {
      points += i < operations.size();
      for (const Survival survival : {Survival::kOnlySynced, Survival::kAny, Survival::kAll}) {
        const DiskImage image = model.Image(survival, &random);
        const uint64_t digest = Digest(image);
        const bool go_on = survival == Survival::kOnlySynced;
        ++cuts;
        if (went_on.contains(digest) || !(go_on ? went_on : seen).insert(digest).second) continue;
        ++looked_at;
        went_on_count += go_on;
        WriteImage(image, left());
        EXPECT_EQ(Check(left(), recording().AllowedAt(i), go_on), "")
            << "operation " << i << ": " << (i < operations.size() ? operations[i].Label() : "the end") << ", survival "
            << static_cast<int>(survival);
      }
    }
    if (i == operations.size()) break;
    if (operations[i].kind == DiskOperation::Kind::kMark) {
      seen.clear();
      went_on.clear();
    }
    model.Play(operations[i]);
  }
  EXPECT_GT(points, 60);
  EXPECT_GT(went_on_count, points / 3);
  printf("sync points %d, cuts at them %d (looks %d, after %d of which the store went on), operations %zu, steps %zu\n", points, cuts, looked_at,
         went_on_count, operations.size(), recording().states.size() - 1);
  int flushed = 0, compacted = 0, restarts = 0;
  for (const DiskOperation& operation : operations) {
    const std::string label = operation.Label();
    flushed += label == "rocksdb create stores/s/writes/#.sst";
    compacted += label == "rocksdb delete stores/s/writes/#.sst";
  }
  for (const std::string& step : recording().steps) restarts += step == "open";
  // Not by restarts alone.
  EXPECT_GT(flushed, 3);
  EXPECT_GT(compacted, 0);
  printf("tables of the write log %d, of which %d were compacted; restarts %d\n", flushed, compacted, restarts);
}

// A flush or a compaction of the write log writes a record there.
TEST_F(PowerCut, ThatTearsTheManifestOfTheWriteLogLosesNothing) {
  const auto& operations = recording().operations;
  DiskModel model(empty());
  std::set<uint64_t> seen;
  size_t records = 0, tears = 0;
  for (size_t i = 0; i < operations.size(); model.Play(operations[i++])) {
    if (operations[i].Label() != kSyncOfManifest) continue;
    ++records;
    for (const DiskImage& image : model.ImagesOfTorn(model.NodeOf(operations[i]))) {
      if (!IsManifestTorn(image) || !seen.insert(Digest(image)).second) continue;
      ++tears;
      WriteImage(image, left());
      EXPECT_EQ(Check(left(), recording().AllowedAt(i), /*go_on=*/tears % 4 == 0), "") << "operation " << i;
    }
  }
  EXPECT_GT(tears, 10u);
  printf("records of the write log's MANIFEST %zu, tears of them %zu\n", records, tears);
}

TEST_F(PowerCut, AtRandomOperationsTheOldStateOrTheNewOneIsThere) {
  const auto& operations = recording().operations;
  const int64_t points = FromEnvironment("LOCI_POWER_CUT_POINTS", 60);
  std::mt19937 random(static_cast<uint32_t>(FromEnvironment("LOCI_POWER_CUT_SEED", 7)));
  std::multiset<size_t> moments;
  for (int64_t i = 0; i < points; ++i) moments.insert(random() % (operations.size() + 1));
  DiskModel model(empty());
  size_t at = 0;
  int tears = 0;
  for (const size_t moment : moments) {
    for (; at < moment; ++at) model.Play(operations[at]);
    const DiskImage image = model.Image(Survival::kAny, &random);
    tears += IsManifestTorn(image);
    WriteImage(image, left());
    ASSERT_EQ(Check(left(), recording().AllowedAt(moment), /*go_on=*/true), "")
        << "operation " << moment << (moment < operations.size() ? ": " + operations[moment].Label() : "");
  }
  printf("random cuts %zu, of which %d tore the write log's MANIFEST\n", moments.size(), tears);
}

}  // namespace
}  // namespace loci
