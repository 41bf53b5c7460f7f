// Cuts the power at every sync point, and at random operations, of a store's life, and looks at what the disk is left with.
// LOCI_POWER_CUT_POINTS sets the number of random cuts, LOCI_POWER_CUT_SEED the seed. For syncs that lie see store_lying_sync_test.cc.
#include <stdio.h>
#include <stdlib.h>

#include <random>
#include <set>
#include <string>

#include "base/file.h"
#include "gtest/gtest.h"
#include "index/disk_model.h"
#include "index/store.h"
#include "index/store_life.h"
#include "index/store_testing.h"

namespace loci {
namespace {

using Survival = DiskModel::Survival;

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  const char* const value = ::getenv(name);
  return value == nullptr ? otherwise : ::atoll(value);
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
  int points = 0, cuts = 0;
  for (size_t i = 0; i <= operations.size(); ++i) {
    if (i == operations.size() || operations[i].is_sync()) {
      points += i < operations.size();
      for (const Survival survival : {Survival::kOnlySynced, Survival::kAny, Survival::kAll}) {
        model.WriteTo(left(), survival, &random);
        ++cuts;
        EXPECT_EQ(Check(left(), recording().AllowedAt(i), /*go_on=*/survival == Survival::kOnlySynced), "")
            << "operation " << i << ": " << (i < operations.size() ? operations[i].Label() : "the end") << ", survival "
            << static_cast<int>(survival);
      }
    }
    if (i < operations.size()) model.Play(operations[i]);
  }
  EXPECT_GT(points, 60);
  printf("sync points %d, cuts at them %d, operations %zu, steps %zu\n", points, cuts, operations.size(), recording().states.size() - 1);
}

TEST_F(PowerCut, AtRandomOperationsTheOldStateOrTheNewOneIsThere) {
  const auto& operations = recording().operations;
  const int64_t points = FromEnvironment("LOCI_POWER_CUT_POINTS", 60);
  std::mt19937 random(static_cast<uint32_t>(FromEnvironment("LOCI_POWER_CUT_SEED", 7)));
  std::multiset<size_t> moments;
  for (int64_t i = 0; i < points; ++i) moments.insert(random() % (operations.size() + 1));
  DiskModel model(empty());
  size_t at = 0;
  for (const size_t moment : moments) {
    for (; at < moment; ++at) model.Play(operations[at]);
    model.WriteTo(left(), Survival::kAny, &random);
    ASSERT_EQ(Check(left(), recording().AllowedAt(moment), /*go_on=*/true), "")
        << "operation " << moment << (moment < operations.size() ? ": " + operations[moment].Label() : "");
  }
  printf("random cuts %zu\n", moments.size());
}

}  // namespace
}  // namespace loci
