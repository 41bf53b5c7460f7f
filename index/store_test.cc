#include "index/store.h"

#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/current_file.h"
#include "index/store_testing.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

namespace stdfs = std::filesystem;

TestPassage P(const std::string& text) { return {text, {1, static_cast<float>(text.size())}}; }

class StoreTest : public ::testing::Test {
 protected:
  void Open(StoreOptions options = {}) {
    store_.reset();
    auto opened = Store::Open(path_, "s", options);
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
  }

  std::string Build(const TestContents& contents, const std::string& half = "0123456789abcdef", int64_t base_revision = -1) {
    BuildOptions options;
    options.dim = 2;
    options.passage_fingerprint = half;
    options.base_revision = base_revision;
    auto id = BuildGeneration(*store_, contents, options);
    EXPECT_TRUE(id.ok()) << id.status();
    return id.ok() ? *id : "";
  }
  absl::StatusOr<ActivationResult> Activate(const std::string& id, WritesPolicy policy = WritesPolicy::kRefuse) {
    auto generation = store_->OpenGeneration(id, true);
    if (!generation.ok()) return generation.status();
    return store_->Activate(*generation, policy);
  }
  int64_t Write(std::vector<PassageWrite> writes) {
    auto result = store_->Write(std::move(writes));
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? result->view->revision() : -1;
  }
  std::map<std::string, std::string> Texts() { return Texts(*store_->view()); }
  std::map<std::string, std::string> Texts(const View& view) {
    auto contents = ReadContents(view, {"a", "b", "c", "d", "e", "f"});
    EXPECT_TRUE(contents.ok()) << contents.status();
    EXPECT_EQ(contents->passage_count, static_cast<int64_t>(contents->texts.size()));
    return contents->texts;
  }
  static std::string ReasonOf(const absl::Status& status) {
    const auto reason = GetErrorReason(status);
    return reason ? reason->reason : "";
  }
  std::string Path(const std::string& name) const { return JoinPath(path_, name); }

  TestDirectory directory_{"store_test"};
  std::string path_ = JoinPath(directory_.path(), "s");
  std::unique_ptr<Store> store_;
};

TEST(ValidateStoreName, SaysWhatIsWrong) {
  for (const char* name : {"a", "default", "7", "a-b_c9"}) EXPECT_TRUE(ValidateStoreName(name).ok()) << name;
  EXPECT_TRUE(ValidateStoreName(std::string(64, 'x')).ok());
  for (const char* name : {"", "-a", "_a", "A", "a.b", "a/b", "..", "a b", "\xc3\xa4"}) {
    EXPECT_EQ(ValidateStoreName(name).code(), absl::StatusCode::kInvalidArgument) << name;
  }
  const absl::Status status = ValidateStoreName(std::string(1000, 'x'));
  EXPECT_LT(status.message().size(), 300u);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("1000"));
}

TEST_F(StoreTest, ANewOneHasNothingAndTakesNoWrites) {
  Open();
  EXPECT_EQ(store_->view(), nullptr);
  EXPECT_EQ(store_->revision(), 0);
  EXPECT_THAT(*store_->ListGenerations(), IsEmpty());
  const absl::Status status = store_->Write({Upsert("a", P("x"))}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), "NO_ACTIVE_GENERATION");
}

TEST_F(StoreTest, KeepsBuildActivationAndWritesOverARestart) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}, {"b", P("b1")}});
  auto activated = Activate(g1);
  ASSERT_TRUE(activated.ok()) << activated.status();
  EXPECT_EQ(activated->previous_generation, "");
  EXPECT_EQ(activated->view->revision(), 1);
  EXPECT_EQ(Write({Upsert("a", P("a2")), Upsert("c", P("c2"))}), 2);
  EXPECT_EQ(Write({Deletion("b"), Deletion("nothing")}), 3);
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a2"), Pair("c", "c2")));
    EXPECT_EQ(store_->revision(), 3);
    EXPECT_EQ(store_->view()->revision(), 3);
    EXPECT_EQ(store_->view()->generation().id(), g1);
    EXPECT_GT(store_->size_bytes(), 0);
    Open();
  }
  EXPECT_EQ(Write({Upsert("b", P("b4"))}), 4);
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a2"), Pair("b", "b4"), Pair("c", "c2")));
}

TEST_F(StoreTest, TheLastOfSeveralWritesToAnIdCounts) {
  Open();
  ASSERT_TRUE(Activate(Build({{"a", P("a1")}})).ok());
  auto result = store_->Write({Upsert("b", P("x")), Deletion("a"), Upsert("b", P("y")), Upsert("c", P("z")), Deletion("c"),
                               Deletion("d"), Deletion("a")});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->deleted_count, 1);
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("b", "y")));
    Open();
  }
}

TEST_F(StoreTest, AViewIsUntouchedByLaterWrites) {
  Open();
  ASSERT_TRUE(Activate(Build({{"a", P("a1")}})).ok());
  const auto before = store_->view();
  Write({Upsert("b", P("b2"))});
  const auto between = store_->view();
  Write({Deletion("b"), Deletion("a")});
  Write({Upsert("a", P("a4"))});
  ASSERT_TRUE(Activate(Build({})).ok());
  EXPECT_THAT(Texts(*before), UnorderedElementsAre(Pair("a", "a1")));
  EXPECT_THAT(Texts(*between), UnorderedElementsAre(Pair("a", "a1"), Pair("b", "b2")));
  EXPECT_THAT(Texts(), IsEmpty());
}

TEST_F(StoreTest, RefusesWritesThatCouldNotBeReadOrScored) {
  Open();
  ASSERT_TRUE(Activate(Build({{"a", P("a1")}})).ok());
  const auto refused = [&](PassageWrite write) {
    return store_->Write({Upsert("b", P("good")), std::move(write)}).status().code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused(Upsert("b", {"x", {1, 2, 3}})));
  EXPECT_TRUE(refused(Upsert("b", {"x", {}})));
  EXPECT_TRUE(refused(Upsert("b", {"x", {1, NAN}})));
  EXPECT_TRUE(refused(Upsert("b", {"x", {1, INFINITY}})));
  EXPECT_TRUE(refused(Upsert("", P("x"))));
  EXPECT_TRUE(refused(Deletion(std::string(513, 'x'))));
  EXPECT_TRUE(refused(Deletion(std::string("a\0b", 3))));
  EXPECT_TRUE(refused(Upsert("c", P("not UTF-8: \xff"))));
  EXPECT_TRUE(refused(Deletion("\xc3")));
  PassageWrite other = Upsert("c", P("x"));
  other.passage.set_id("d");
  EXPECT_TRUE(refused(other));
  EXPECT_EQ(store_->revision(), 1);
  Open();
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a1")));
  EXPECT_EQ(store_->Write({})->view->revision(), 1);
}

TEST_F(StoreTest, AReplacementSaysWhichWritesItWouldDrop) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}});
  ASSERT_TRUE(Activate(g1).ok());  // Revision 1.
  Write({Upsert("b", P("b2"))});

  const std::string g2 = Build({{"c", P("c")}});  // Base 2: what was written before is superseded.
  Write({Upsert("d", P("d3")), Deletion("c")});
  Write({Upsert("e", P("e4"))});
  const absl::Status refused = Activate(g2).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(refused), "WRITES_SINCE");
  EXPECT_EQ(GetErrorReason(refused)->metadata.at("count"), "2");
  EXPECT_EQ(store_->view()->generation().id(), g1);
  EXPECT_EQ(store_->revision(), 4);

  auto replayed = Activate(g2, WritesPolicy::kReplay);
  ASSERT_TRUE(replayed.ok()) << replayed.status();
  EXPECT_EQ(replayed->writes_since_count, 2);
  EXPECT_EQ(replayed->previous_generation, g1);
  EXPECT_EQ(replayed->view->revision(), 5);
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("d", "d3"), Pair("e", "e4")));
    EXPECT_EQ(store_->revision(), 5);
    Open();
  }
  // Back to the first one, with all that was ever written over it.
  EXPECT_EQ(ReasonOf(Activate(g1).status()), "WRITES_SINCE");
  auto back = Activate(g1, WritesPolicy::kReplay);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->writes_since_count, 3);
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a1"), Pair("b", "b2"), Pair("d", "d3"), Pair("e", "e4")));
}

TEST_F(StoreTest, DiscardedWritesStayDiscarded) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}});
  const std::string g2 = Build({{"a", P("other")}});
  ASSERT_TRUE(Activate(g1).ok());
  Write({Upsert("b", P("b2"))});
  auto activated = Activate(g2, WritesPolicy::kDiscard);
  ASSERT_TRUE(activated.ok()) << activated.status();
  EXPECT_EQ(activated->writes_since_count, 1);
  EXPECT_EQ(store_->revision(), 3);
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "other")));
  Open();
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "other")));
  EXPECT_EQ(store_->revision(), 3);
  Write({Upsert("c", P("c4"))});
  Open();
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "other"), Pair("c", "c4")));
  EXPECT_EQ(store_->revision(), 4);
}

TEST_F(StoreTest, ARollBackBringsBackNoWriteThatWasDiscarded) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}});
  const std::string g2 = Build({{"a", P("other")}});
  const std::string g3 = Build({{"a", P("third")}});
  ASSERT_TRUE(Activate(g1).ok());
  Write({Upsert("b", P("discarded"))});
  ASSERT_TRUE(Activate(g2, WritesPolicy::kDiscard).ok());
  Write({Upsert("c", P("c4"))});
  ASSERT_TRUE(Activate(g3, WritesPolicy::kReplay).ok());
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "third"), Pair("b", "discarded"), Pair("c", "c4")));
  Open();
  auto second = store_->OpenGeneration(g2, true);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(*store_->CheckReplay(**second, WritesPolicy::kReplay, store_->RollbackFloor(g2)), 1);
  auto back = store_->Activate(*second, WritesPolicy::kReplay, /*roll_back=*/true);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->writes_since_count, 1);
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "other"), Pair("c", "c4")));
    Open();
  }
  // The first had them.
  EXPECT_EQ(store_->PreviousGeneration(), g1);
  auto first = store_->OpenGeneration(g1, true);
  ASSERT_TRUE(store_->Activate(*first, WritesPolicy::kReplay, /*roll_back=*/true).ok());
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a1"), Pair("b", "discarded"), Pair("c", "c4")));
}

TEST_F(StoreTest, ActivatingTheActiveOneAgainChangesNothingUnlessWritesAreDiscarded) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}});
  ASSERT_TRUE(Activate(g1).ok());
  EXPECT_EQ(Activate(g1, WritesPolicy::kDiscard)->view->revision(), 1);  // Nothing to discard.
  Write({Upsert("b", P("b2")), Deletion("a")});
  for (WritesPolicy policy : {WritesPolicy::kRefuse, WritesPolicy::kReplay}) {
    auto again = Activate(g1, policy);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->view, store_->view());
    EXPECT_EQ(again->view->revision(), 2);
  }
  auto discarded = Activate(g1, WritesPolicy::kDiscard);
  ASSERT_TRUE(discarded.ok());
  EXPECT_EQ(discarded->writes_since_count, 1);
  EXPECT_EQ(discarded->view->revision(), 3);
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a1")));
    Open();
  }
  EXPECT_EQ(Activate(g1, WritesPolicy::kDiscard)->view->revision(), 3);
}

TEST_F(StoreTest, AReplayNeedsVectorsOfTheGenerationsPassageHalf) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}});
  const std::string g2 = Build({{"a", P("a")}}, "aaaaaaaaaaaaaaaa");
  ASSERT_TRUE(Activate(g1).ok());
  Write({Upsert("b", P("b2")), Upsert("c", P("c2"))});
  Write({Deletion("b"), Deletion("a")});
  const absl::Status status = Activate(g2, WritesPolicy::kReplay).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), "WRITES_NEED_ENCODING");
  EXPECT_EQ(GetErrorReason(status)->metadata.at("count"), "1");  // The deleted one needs none.
  EXPECT_EQ(GetErrorReason(status)->metadata.at("passage_fingerprint"), "aaaaaaaaaaaaaaaa");
  EXPECT_EQ(store_->view()->generation().id(), g1);
  Write({Deletion("c")});
  ASSERT_TRUE(Activate(g2, WritesPolicy::kReplay).ok());
  EXPECT_THAT(Texts(), IsEmpty());
  Write({Upsert("d", P("d"))});  // Of the other half.
  Open();
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("d", "d")));
}

TEST_F(StoreTest, WritesMadeWhileAGenerationIsBuiltAreNotLost) {
  Open();
  ASSERT_TRUE(Activate(Build({{"a", P("a1")}})).ok());
  BuildOptions options;
  options.dim = 2;
  options.passage_fingerprint = "0123456789abcdef";
  options.base_revision = -1;
  auto builder = store_->NewGeneration(options);
  ASSERT_TRUE(builder.ok());
  Write({Upsert("b", P("b2"))});
  loci::v1::Passage passage;
  passage.set_id("a");
  passage.set_text("folded");
  const float vector[] = {1, 0};
  ASSERT_TRUE((*builder)->Add({&passage, 1}, vector).ok());
  auto manifest = (*builder)->Finish(RequestLimits(), nullptr);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->base_revision(), 1);
  EXPECT_EQ(manifest->store(), "s");
  EXPECT_EQ(*store_->CheckWritesSince(*manifest, WritesPolicy::kReplay), 1);
  ASSERT_TRUE(Activate(manifest->generation(), WritesPolicy::kReplay).ok());
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "folded"), Pair("b", "b2")));
}

TEST_F(StoreTest, RemovesUnfinishedBuildsAndNothingElse) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}}), g2 = Build({{"b", P("b")}});
  ASSERT_TRUE(Activate(g1).ok());
  store_.reset();
  stdfs::create_directories(Path("20200101-000000-abcd/staging"));
  stdfs::create_directories(Path("notes"));
  stdfs::create_directories(Path("folder.tmp"));
  for (const char* name : {"CURRENT.tmp", "SETTINGS.tmp", "INT8_FIDELITY.tmp", "INT8_FIDELITY"}) std::ofstream(Path(name)) << "half";
  Open();
  EXPECT_FALSE(stdfs::exists(Path("20200101-000000-abcd")));
  for (const char* name : {"CURRENT.tmp", "SETTINGS.tmp", "INT8_FIDELITY.tmp"}) EXPECT_FALSE(stdfs::exists(Path(name))) << name;
  for (const char* name : {"INT8_FIDELITY", "folder.tmp"}) EXPECT_TRUE(stdfs::exists(Path(name))) << name;
  EXPECT_TRUE(stdfs::exists(Path("notes")));
  std::vector<std::string> ids;
  const auto manifests = store_->ListGenerations();
  ASSERT_TRUE(manifests.ok());
  for (const auto& manifest : *manifests) ids.push_back(manifest.generation());
  EXPECT_THAT(ids, ElementsAre(g1, g2));
}

TEST_F(StoreTest, GenerationIdsAreOfTheirTimeAndNeverTheSame) {
  FakeClock clock(1'795'254'102'000'000);  // 2026-11-21 09:41:42.
  StoreOptions options;
  options.clock = &clock;
  Open(options);
  std::set<std::string> ids;
  for (int i = 0; i < 5; ++i) {
    const std::string id = Build({});
    EXPECT_THAT(id, ::testing::StartsWith("20261121-094142-"));
    EXPECT_TRUE(ids.insert(id).second);
    if (i % 2 == 1) {
      EXPECT_TRUE(store_->DeleteGeneration(id).ok());
    }
  }
}

TEST_F(StoreTest, NoticesEveryDamagedByteOfCurrent) {
  Open();
  ASSERT_TRUE(Activate(Build({{"a", P("a1")}})).ok());
  store_.reset();
  const std::string content = *PosixFileSystem().ReadFile(Path("CURRENT"));
  const auto open_with = [&](const std::string& damaged) {
    std::ofstream(Path("CURRENT"), std::ios::binary | std::ios::trunc) << damaged;
    const auto opened = Store::Open(path_, "s", StoreOptions());
    return opened.ok() ? (*opened)->active_error().code() : opened.status().code();
  };
  for (size_t i = 0; i < content.size(); ++i) {
    std::string damaged = content;
    damaged[i] ^= static_cast<char>(1 << (i % 8));
    EXPECT_EQ(open_with(damaged), absl::StatusCode::kDataLoss) << i;
    EXPECT_EQ(open_with(content.substr(0, i)), absl::StatusCode::kDataLoss) << i;
  }
  EXPECT_EQ(open_with(content), absl::StatusCode::kOk);
}

TEST_F(StoreTest, ServesWithoutItsSettingsAndKeepsEverythingThen) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}});
  ASSERT_TRUE(Activate(g1).ok());
  ASSERT_TRUE(store_->SetKeepGenerations(3).ok() && store_->SetPinned(g1, true).ok());
  store_.reset();
  std::ofstream(Path("SETTINGS"), std::ios::binary | std::ios::trunc) << "damaged beyond reading";
  Open();
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a1")));
  EXPECT_TRUE(store_->settings().has_keep_generations());
  EXPECT_EQ(store_->settings().keep_generations(), 0);
  ASSERT_TRUE(store_->SetKeepGenerations(5).ok());
  store_.reset();
  Open();
  EXPECT_EQ(store_->settings().keep_generations(), 5);
}

TEST_F(StoreTest, RefusesRevisionsThatWouldOverflow) {
  storage::Current current;
  current.set_format_version(1);
  current.set_revision(int64_t{1} << 62);
  EXPECT_TRUE(ParseCurrent(SerializeCurrent(current)).ok());
  current.set_revision(current.revision() + 1);
  EXPECT_EQ(ParseCurrent(SerializeCurrent(current)).status().code(), absl::StatusCode::kDataLoss);
  current.set_floor_revision(current.revision());
  EXPECT_EQ(ParseCurrent(SerializeCurrent(current)).status().code(), absl::StatusCode::kDataLoss);
  current.set_revision(0);
  current.set_floor_revision(-1);
  EXPECT_EQ(ParseCurrent(SerializeCurrent(current)).status().code(), absl::StatusCode::kDataLoss);
}

// A folder copied to another name, or from another store.
TEST_F(StoreTest, LeavesOutGenerationsThatSayTheyAreOthers) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}});
  const std::string copy = "20200101-000000-abcd";
  stdfs::copy(Path(g1), Path(copy), stdfs::copy_options::recursive);
  ASSERT_EQ(store_->ListGenerations()->size(), 1u);
  EXPECT_EQ((*store_->ListGenerations())[0].generation(), g1);
  EXPECT_EQ(store_->OpenGeneration(copy, false).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(Activate(g1).ok());

  auto other = Store::Open(JoinPath(directory_.path(), "other"), "other", StoreOptions());
  ASSERT_TRUE(other.ok()) << other.status();
  stdfs::copy(Path(g1), JoinPath((*other)->directory(), g1), stdfs::copy_options::recursive);
  EXPECT_THAT(*(*other)->ListGenerations(), IsEmpty());
  const absl::Status status = (*other)->OpenGeneration(g1, false).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("other"));
}

TEST_F(StoreTest, SaysWhichGenerationIsNotThere) {
  Open();
  const std::string long_name = std::string(79, 'x') + "\xc3\xa4 and more";
  const std::string cut = std::string(79, 'x');
  const std::map<std::string, std::string> names = {{"", ""}, {"20200101-000000-abcd", "20200101-000000-abcd"}, {long_name, cut}};
  for (const auto& [name, shown] : names) {
    for (const absl::Status& status : {store_->OpenGeneration(name, true).status(), store_->DeleteGeneration(name)}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
      const auto reason = GetErrorReason(status);
      ASSERT_TRUE(reason.has_value()) << status;
      EXPECT_EQ(reason->reason, "GENERATION_NOT_FOUND");
      EXPECT_THAT(reason->metadata, UnorderedElementsAre(Pair("store", "s"), Pair("generation", shown)));
    }
  }
  const std::string g1 = Build({{"a", P("a1")}});
  auto generation = store_->OpenGeneration(g1, true);
  ASSERT_TRUE(generation.ok() && store_->DeleteGeneration(g1).ok());
  EXPECT_EQ(ReasonOf(store_->Activate(*generation, WritesPolicy::kRefuse).status()), "GENERATION_NOT_FOUND");
}

TEST_F(StoreTest, WhatIsMissingIsDataLoss) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}});
  ASSERT_TRUE(Activate(g1).ok());
  Write({Upsert("b", P("b"))});
  store_.reset();
  for (const std::string& name : {std::string("CURRENT"), std::string("writes"), g1, g1 + "/MANIFEST", g1 + "/vectors.bin"}) {
    const std::string aside = JoinPath(directory_.path(), "aside");
    stdfs::rename(Path(name), aside);
    const auto opened = Store::Open(path_, "s", StoreOptions());
    ASSERT_TRUE(opened.ok()) << name << ": " << opened.status();
    EXPECT_EQ((*opened)->active_error().code(), absl::StatusCode::kDataLoss) << name;
    EXPECT_EQ((*opened)->view(), nullptr) << name;
    stdfs::remove_all(Path(name));
    ASSERT_NO_THROW(stdfs::rename(aside, Path(name)));
  }
  Open();
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a1"), Pair("b", "b")));
}

TEST_F(StoreTest, OpensWithoutADamagedGenerationSoThatAnotherCanBeActivated) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}}), g2 = Build({{"a", P("a2")}});
  ASSERT_TRUE(Activate(g1).ok() && Activate(g2).ok());
  Write({Upsert("b", P("b"))});
  const int64_t revision = store_->revision();
  store_.reset();
  const std::string vectors = Path(g2 + "/vectors.bin"), content = *PosixFileSystem().ReadFile(vectors);
  const auto write = [&](const std::string& bytes) { std::ofstream(vectors, std::ios::binary | std::ios::trunc) << bytes; };
  std::string damaged = content;
  damaged[damaged.size() - 1] ^= 1;
  write(damaged);
  Open();
  EXPECT_EQ(store_->view(), nullptr);
  EXPECT_EQ(store_->active_error().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(store_->active_generation(), g2);
  EXPECT_EQ(store_->revision(), revision);
  EXPECT_EQ(store_->Write({Upsert("c", P("c"))}).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(store_->PreviousGeneration(), g1);
  EXPECT_EQ(Activate(g2).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(store_->DeleteGeneration(g2).code(), absl::StatusCode::kFailedPrecondition);
  // Mended, it serves as it did.
  write(content);
  ASSERT_TRUE(Activate(g2).ok());
  EXPECT_TRUE(store_->active_error().ok());
  EXPECT_EQ(store_->revision(), revision);
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a2"), Pair("b", "b")));
  // Not mended, another one serves, with the writes, also after the next start.
  store_.reset();
  write(damaged);
  Open();
  auto generation = store_->OpenGeneration(g1, true);
  ASSERT_TRUE(generation.ok()) << generation.status();
  ASSERT_TRUE(store_->Activate(*generation, WritesPolicy::kReplay).ok());
  EXPECT_TRUE(store_->active_error().ok());
  EXPECT_EQ(store_->PreviousGeneration(), "") << "nothing goes back to what was damaged";
  Write({Upsert("c", P("c"))});
  store_.reset();
  Open();
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a1"), Pair("b", "b"), Pair("c", "c")));
}

TEST_F(StoreTest, DeletesGenerationsThatAreNotActive) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}}), g2 = Build({{"a", P("a2")}});
  ASSERT_TRUE(Activate(g1).ok());
  const auto held = store_->view();
  ASSERT_TRUE(Activate(g2).ok());
  auto opened = store_->OpenGeneration(g1, true);
  EXPECT_EQ(store_->DeleteGeneration(g2).code(), absl::StatusCode::kFailedPrecondition);
  for (const char* name : {"", ".", "..", "writes", "20200101-000000-abcd", "../s"}) {
    EXPECT_EQ(store_->DeleteGeneration(name).code(), absl::StatusCode::kNotFound) << name;
    EXPECT_EQ(store_->OpenGeneration(name, false).status().code(), absl::StatusCode::kNotFound) << name;
  }
  ASSERT_TRUE(store_->DeleteGeneration(g1).ok());
  EXPECT_FALSE(stdfs::exists(Path(g1)));
  EXPECT_THAT(Texts(*held), UnorderedElementsAre(Pair("a", "a1")));
  EXPECT_EQ(store_->OpenGeneration(g1, false).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store_->Activate(*opened, WritesPolicy::kDiscard).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(StoreTest, TrimsTheLogBelowWhatAnyGenerationNeeds) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}});
  ASSERT_TRUE(Activate(g1).ok());
  Write({Upsert("b", P("b2"))});
  const std::string g2 = Build({{"c", P("c")}});
  BuildOptions options;
  options.dim = 2;
  options.passage_fingerprint = "0123456789abcdef";
  options.base_revision = -1;
  auto slow = store_->NewGeneration(options);  // Base 2.
  Write({Upsert("d", P("d3"))});
  const std::string g3 = Build({{"e", P("e")}});  // Base 3.
  Write({Upsert("f", P("f4"))});
  ASSERT_TRUE(Activate(g3, WritesPolicy::kReplay).ok());
  ASSERT_TRUE(store_->DeleteGeneration(g1).ok());
  ASSERT_TRUE(store_->DeleteGeneration(g2).ok());
  storage::Manifest manifest;
  manifest.set_base_revision(1);
  EXPECT_EQ(store_->CheckWritesSince(manifest, WritesPolicy::kReplay).status().code(), absl::StatusCode::kOutOfRange);
  // What the build needs is still there.
  auto finished = (*slow)->Finish(RequestLimits(), nullptr);
  ASSERT_TRUE(finished.ok()) << finished.status();
  EXPECT_EQ(*store_->CheckWritesSince(*finished, WritesPolicy::kReplay), 2);
  Open();
  ASSERT_TRUE(Activate(finished->generation(), WritesPolicy::kReplay).ok());
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("d", "d3"), Pair("f", "f4")));
  EXPECT_EQ(store_->revision(), 6);
}

// A build that is begun while the writer activates and deletes finds every write since its base in the log.
TEST_F(StoreTest, ABuildBegunBesideADeletionKeepsItsWrites) {
  // Shows what happens in the middle of NewGeneration: there it asks for the time.
  class HookClock : public Clock {
   public:
    int64_t NowMicros() const override { return RealClock().NowMicros(); }
    int64_t UnixMicros() const override {
      if (hook) std::exchange(hook, nullptr)();
      return RealClock().UnixMicros();
    }
    mutable std::function<void()> hook;
  } clock;
  StoreOptions options;
  options.clock = &clock;
  Open(options);
  const std::string g1 = Build({{"a", P("a1")}});
  ASSERT_TRUE(Activate(g1).ok());
  Write({Upsert("b", P("b2"))});
  clock.hook = [&] {
    Write({Upsert("c", P("c3"))});
    const std::string g2 = Build({{"d", P("d")}});  // Base 3.
    ASSERT_TRUE(Activate(g2).ok());
    ASSERT_TRUE(store_->DeleteGeneration(g1).ok());  // Trims what nobody needs.
  };
  const std::string g3 = Build({{"e", P("e")}});  // Base 2.
  auto activated = Activate(g3, WritesPolicy::kReplay);
  ASSERT_TRUE(activated.ok()) << activated.status();
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("c", "c3"), Pair("e", "e")));
}

TEST_F(StoreTest, BeginsBuildsFromManyThreadsBesideTheWriter) {
  FakeClock clock;  // All in the same second.
  StoreOptions options;
  options.clock = &clock;
  Open(options);
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 6; ++i) {
        BuildOptions build;
        build.dim = 2;
        build.base_revision = -1;
        auto id = BuildGeneration(*store_, {{"a", P("x")}}, build);
        if (!id.ok() || !store_->OpenGeneration(*id, false).ok()) ++failures;
      }
    });
  }
  for (int i = 0; i < 3; ++i) {
    const std::string id = Build({{"a", P("y")}});
    EXPECT_TRUE(Activate(id, WritesPolicy::kReplay).ok());
    Write({Upsert("b", P("b"))});
    const std::string other = Build({});
    EXPECT_TRUE(store_->DeleteGeneration(other).ok());
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(store_->ListGenerations()->size(), 27u);
}

TEST_F(StoreTest, RefusesASecondHandleOnAFolder) {
  Open();
  EXPECT_EQ(Store::Open(path_, "s", StoreOptions()).status().code(), absl::StatusCode::kFailedPrecondition);
  store_.reset();
  Open();
}

TEST_F(StoreTest, ReadersSeeWholeViewsWhileTheWriterGoesOn) {
  Open();
  ASSERT_TRUE(Activate(Build({{"a", P("0")}, {"b", P("0")}})).ok());
  std::atomic<bool> done{false};
  std::atomic<int> mixed{0};
  const auto read = [&] {
    while (!done) {
      const auto view = store_->view();
      const auto contents = ReadContents(*view, {"a", "b"});
      // Every request writes both, the same text; so does every generation.
      if (!contents.ok() || contents->texts.size() != 2 || contents->texts.at("a") != contents->texts.at("b")) ++mixed;
      IndexSearchOptions options;
      options.top_k = 5;
      const float query[] = {1, 0};
      const auto result = view->Search({query, 1, 2}, options);
      if (!result.ok() || result->hits[0].size() != 2) ++mixed;
    }
  };
  std::thread first(read), second(read);
  for (int i = 1; i <= 60; ++i) {
    const std::string text = std::to_string(i);
    Write({Upsert("a", P(text)), Upsert("b", P(text))});
    if (i % 20 == 0) {
      EXPECT_TRUE(Activate(Build({{"a", P(text)}, {"b", P(text)}})).ok());
    }
  }
  done = true;
  first.join();
  second.join();
  EXPECT_EQ(mixed, 0);
}

}  // namespace
}  // namespace loci
