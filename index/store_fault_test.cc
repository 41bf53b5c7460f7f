// What a store leaves when one of its file operations fails, for each of them in turn, and when the write log's files fail.
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/rocksdb_fault.h"
#include "index/store.h"
#include "index/store_testing.h"

namespace loci {
namespace {

using Texts = std::map<std::string, std::string>;

// What the store may hold: what was acknowledged last, or what an unacknowledged step would have made of it.
struct Expected {
  std::string generation;
  Texts texts;
};

// Runs a fixed scenario, going on after failures, and keeps what was acknowledged.
class Scenario {
 public:
  Scenario(std::string path, StoreOptions options) : path_(std::move(path)), options_(std::move(options)) {}

  void Run() {
    auto opened = Store::Open(path_, "s", options_);
    if (!opened.ok()) return;
    store_ = *std::move(opened);
    const std::string g1 = Build({{"a", "a1"}, {"b", "b1"}});
    Activate(g1, WritesPolicy::kRefuse, {{"a", "a1"}, {"b", "b1"}});
    Write("c", "c2");
    const std::string g2 = Build({{"a", "a3"}});
    Write("d", "d3");
    // Base: all writes but the last.
    Activate(g2, WritesPolicy::kReplay, With({{"a", "a3"}}, wrote_d_, "d", "d3"));
    Write("e", "e4");
    Activate(g1, WritesPolicy::kDiscard, {{"a", "a1"}, {"b", "b1"}});
    Write("f", "f5");
    if (!g2.empty() && expected_.generation != g2) (void)store_->DeleteGeneration(g2);
    // With what failed before out of the way, all is as acknowledged, also in memory.
    CheckView();
    revision_ = store_->revision();
    store_.reset();
  }

  // `store` was opened after the end.
  void CheckReopened(const Store& store) const {
    Expected found;
    if (store.view() != nullptr) found = {store.view()->generation().id(), TextsOf(*store.view())};
    const bool is_old = found.generation == expected_.generation && found.texts == expected_.texts;
    bool is_new = false;
    for (const Expected& maybe : unacknowledged_) {
      is_new = is_new || (found.generation == maybe.generation && found.texts == maybe.texts);
    }
    EXPECT_TRUE(is_old || is_new) << "found generation " << found.generation << " with " << ::testing::PrintToString(found.texts)
                                  << ", acknowledged was " << expected_.generation << " with "
                                  << ::testing::PrintToString(expected_.texts);
    EXPECT_GE(store.revision(), revision_);
    const auto manifests = store.ListGenerations();
    ASSERT_TRUE(manifests.ok());
    for (const storage::Manifest& manifest : *manifests) {
      EXPECT_TRUE(store.OpenGeneration(manifest.generation(), true).ok());
    }
  }
  int acknowledged_writes() const { return acknowledged_writes_; }

 private:
  static Texts With(Texts texts, bool add, const std::string& id, const std::string& text) {
    if (add) texts[id] = text;
    return texts;
  }
  static Texts TextsOf(const View& view) {
    auto contents = ReadContents(view, {"a", "b", "c", "d", "e", "f"});
    EXPECT_TRUE(contents.ok()) << contents.status();
    if (!contents.ok()) return {};
    EXPECT_EQ(contents->passage_count, static_cast<int64_t>(contents->texts.size()));
    return contents->texts;
  }
  void CheckView() {
    const auto view = store_->view();
    if (view == nullptr) {
      EXPECT_EQ(expected_.generation, "");
      return;
    }
    EXPECT_EQ(view->generation().id(), expected_.generation);
    EXPECT_EQ(TextsOf(*view), expected_.texts);
  }

  std::string Build(const Texts& texts) {
    TestContents contents;
    for (const auto& [id, text] : texts) contents[id] = {text, {1, 2}};
    BuildOptions options;
    options.dim = 2;
    options.base_revision = -1;
    return BuildGeneration(*store_, contents, options).value_or("");
  }
  void Activate(const std::string& id, WritesPolicy policy, const Texts& texts) {
    if (id.empty()) return;
    auto generation = store_->OpenGeneration(id, true);
    ASSERT_TRUE(generation.ok()) << generation.status();
    const Expected next{id, texts};
    if (id == expected_.generation && policy != WritesPolicy::kDiscard) return;
    if (auto activated = store_->Activate(*generation, policy); activated.ok()) {
      expected_ = next;
      unacknowledged_.clear();
    } else {
      unacknowledged_.push_back(next);
    }
    CheckView();
  }
  void Write(const std::string& id, const std::string& text) {
    Expected next = expected_;
    next.texts[id] = text;
    if (store_->view() == nullptr) return;
    if (store_->Write({Upsert(id, {text, {2, 1}})}).ok()) {
      expected_ = next;
      unacknowledged_.clear();
      if (id == "d") wrote_d_ = true;
      ++acknowledged_writes_;
    } else {
      unacknowledged_.push_back(next);
    }
    CheckView();
  }

  const std::string path_;
  const StoreOptions options_;
  std::unique_ptr<Store> store_;
  Expected expected_;
  std::vector<Expected> unacknowledged_;  // Since then: any of them may be what a restart finds.
  int64_t revision_ = 0;
  bool wrote_d_ = false;
  int acknowledged_writes_ = 0;
};

// `once`: one operation fails; else all from it on.
void FailEachFileOperation(bool once) {
  FaultyFileSystem fs;
  int64_t total = INT64_MAX;
  for (int64_t n = -1; n < total; ++n) {
    SCOPED_TRACE("operation " + std::to_string(n));
    TestDirectory directory("store_fault");
    const std::string path = JoinPath(directory.path(), "s");
    StoreOptions options;
    options.fs = &fs;
    fs.operations = 0;
    fs.fail_from = n < 0 ? INT64_MAX : n;
    fs.fail_to = once ? n + 1 : INT64_MAX;
    Scenario scenario(path, options);
    scenario.Run();
    if (n < 0) {
      total = fs.operations;
      ASSERT_GT(total, 40);
      ASSERT_EQ(scenario.acknowledged_writes(), 4);
    }
    fs.Heal();
    auto store = Store::Open(path, "s", StoreOptions());
    ASSERT_TRUE(store.ok()) << store.status();
    scenario.CheckReopened(**store);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(StoreFault, AnyOneFailedFileOperationLeavesTheOldStateOrTheNewOne) { FailEachFileOperation(/*once=*/true); }
TEST(StoreFault, FilesThatFailFromAnyPointOnLeaveTheOldStateOrTheNewOne) { FailEachFileOperation(/*once=*/false); }

TEST(StoreFault, AnyOneFailedOperationOfTheLogLeavesTheOldStateOrTheNewOne) {
  for (bool tear : {false, true}) {
    int64_t total = INT64_MAX;
    for (int64_t n = -1; n < total; ++n) {
      SCOPED_TRACE("operation " + std::to_string(n) + " tear " + std::to_string(tear));
      TestDirectory directory("store_log_fault");
      const std::string path = JoinPath(directory.path(), "s");
      RocksDbFaults faults;
      faults.tear = tear;
      StoreOptions options;
      options.rocksdb_file_system = NewFaultyRocksDbFileSystem(&faults);
      faults.fail_from = n < 0 ? INT64_MAX : n;
      faults.fail_to = n + 1;
      Scenario scenario(path, options);
      scenario.Run();
      if (n < 0) {
        total = faults.operations;
        ASSERT_GT(total, 12);
      }
      auto store = Store::Open(path, "s", StoreOptions());
      ASSERT_TRUE(store.ok()) << store.status();
      scenario.CheckReopened(**store);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

// The outcome of a failed append is unknown until the next one: its revision is not given to another content.
TEST(StoreFault, AFailedWritesRevisionIsNotUsedAgain) {
  TestDirectory directory("store_revision");
  const std::string path = JoinPath(directory.path(), "s");
  RocksDbFaults faults;
  StoreOptions options;
  options.rocksdb_file_system = NewFaultyRocksDbFileSystem(&faults);
  auto store = *Store::Open(path, "s", options);
  BuildOptions build;
  build.dim = 1;
  const std::string g1 = *BuildGeneration(*store, {{"a", {"a1", {1}}}}, build);
  build.base_revision = -1;
  ASSERT_TRUE(store->Activate(*store->OpenGeneration(g1, true), WritesPolicy::kRefuse).ok());
  faults.kind = RocksDbFaults::Kind::kNoSpace;
  faults.fail_from = faults.operations + 1;  // The bytes are there, the sync fails.
  EXPECT_EQ(store->Write({Upsert("b", {"lost", {1}})}).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(store->Write({Upsert("b", {"lost", {1}})}).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(store->revision(), 1);
  EXPECT_EQ(store->view()->passage_count(), 1);
  faults.Heal();
  // An activation first: what failed must not come back under it.
  const std::string g2 = *BuildGeneration(*store, {{"a", {"a2", {1}}}}, build);
  auto activated = store->Activate(*store->OpenGeneration(g2, true), WritesPolicy::kRefuse);
  ASSERT_TRUE(activated.ok()) << activated.status();
  EXPECT_EQ(activated->view->revision(), 4);
  auto written = store->Write({Upsert("c", {"c", {1}})});
  ASSERT_TRUE(written.ok());
  EXPECT_EQ(written->view->revision(), 5);
  store.reset();
  store = *Store::Open(path, "s", StoreOptions());
  EXPECT_EQ(store->revision(), 5);
  EXPECT_EQ(ReadContents(*store->view(), {"a", "b", "c"})->texts, (Texts{{"a", "a2"}, {"c", "c"}}));
}

}  // namespace
}  // namespace loci
