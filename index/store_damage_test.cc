// What is damaged of a store keeps no more of it away than it must, and an operator can mend it.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/checksum.h"
#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/store.h"
#include "index/store_testing.h"

namespace loci {
namespace {

namespace stdfs = std::filesystem;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

TestPassage P(const std::string& text) { return {text, {1, 2}}; }

class StoreDamageTest : public ::testing::Test {
 protected:
  void Open(FileSystem* fs = &PosixFileSystem()) {
    store_.reset();
    StoreOptions options;
    options.fs = fs;
    auto opened = Store::Open(path_, "s", options);
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
  }
  std::string Build(const TestContents& contents) {
    BuildOptions options;
    options.dim = 2;
    options.passage_fingerprint = "0123456789abcdef";
    options.base_revision = -1;
    auto id = BuildGeneration(*store_, contents, options);
    EXPECT_TRUE(id.ok()) << id.status();
    return id.ok() ? *id : "";
  }
  absl::StatusOr<ActivationResult> Activate(const std::string& id, WritesPolicy policy = WritesPolicy::kRefuse, bool roll_back = false) {
    auto generation = store_->OpenGeneration(id, true);
    if (!generation.ok()) return generation.status();
    return store_->Activate(*generation, policy, roll_back);
  }
  std::string RollBack() {
    auto result = Activate(store_->PreviousGeneration(), WritesPolicy::kReplay, /*roll_back=*/true);
    return result.ok() ? result->generation : result.status().ToString();
  }
  int64_t Write(std::vector<PassageWrite> writes) {
    auto result = store_->Write(std::move(writes));
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? result->view->revision() : -1;
  }
  std::map<std::string, std::string> Texts() {
    auto contents = ReadContents(*store_->view(), {"a", "b", "c", "d"});
    EXPECT_TRUE(contents.ok()) << contents.status();
    return contents->texts;
  }
  static std::string ReasonOf(const absl::Status& status) {
    const auto reason = GetErrorReason(status);
    return reason ? reason->reason : "";
  }
  std::string Path(const std::string& name) const { return JoinPath(path_, name); }
  void Overwrite(const std::string& name, const std::string& content) {
    std::ofstream(Path(name), std::ios::binary | std::ios::trunc) << content;
  }
  std::string Content(const std::string& name) const { return PosixFileSystem().ReadFile(Path(name)).value_or("(none)"); }

  TestDirectory directory_{"store_damage"};
  std::string path_ = JoinPath(directory_.path(), "s");
  std::unique_ptr<Store> store_;
};

TEST_F(StoreDamageTest, ADamagedOrMissingCurrentLeavesTheStoreOpenUntilAGenerationIsActivated) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}}), g2 = Build({{"a", P("a2")}});
  ASSERT_TRUE(Activate(g1).ok());
  Write({Upsert("b", P("b"))});
  ASSERT_TRUE(Activate(g2, WritesPolicy::kReplay).ok());
  const int64_t revision = store_->revision();
  store_.reset();
  const std::string content = Content("CURRENT");
  for (const bool missing : {false, true}) {
    SCOPED_TRACE(missing);
    Overwrite("CURRENT", content.substr(0, content.size() / 2));
    if (missing) stdfs::remove(Path("CURRENT"));
    Open();
    EXPECT_EQ(store_->active_error().code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(store_->active_error().message()), ::testing::HasSubstr("CURRENT"));
    EXPECT_EQ(store_->view(), nullptr);
    EXPECT_EQ(store_->active_generation(), "");
    EXPECT_EQ(store_->PreviousGeneration(), "");
    EXPECT_GT(store_->revision(), revision) << "the last activation's is not given again";
    EXPECT_EQ(store_->Write({Upsert("c", P("c"))}).status().code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(store_->BeginFold().status().code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(ReasonOf(store_->DeleteGeneration(g1)), "ACTIVE_GENERATION_UNKNOWN");
    EXPECT_EQ(store_->ListGenerations()->size(), 2u);
    EXPECT_EQ(ReasonOf(Activate(g1).status()), "WRITES_SINCE");
    store_.reset();
    EXPECT_EQ(Content("CURRENT"), missing ? "(none)" : content.substr(0, content.size() / 2)) << "nobody has touched it";
  }
  Open();
  ASSERT_TRUE(Activate(g2, WritesPolicy::kReplay).ok());
  EXPECT_TRUE(store_->active_error().ok());
  EXPECT_GT(store_->revision(), revision);
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a2"), Pair("b", "b")));
  Write({Upsert("c", P("c"))});
  ASSERT_TRUE(store_->DeleteGeneration(g1).ok());
  Open();
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a2"), Pair("b", "b"), Pair("c", "c")));
}

TEST_F(StoreDamageTest, ADamagedCurrentCanBeActivatedOverWithACorpusOfItsOwn) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}});
  ASSERT_TRUE(Activate(g1).ok());
  Write({Upsert("b", P("b"))});
  Overwrite("CURRENT", "nonsense");
  Open();
  const std::string fresh = Build({{"d", P("d")}});
  ASSERT_TRUE(Activate(fresh).ok()) << "nothing was written since its base";
  Open();
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("d", "d")));
}

// A half-made replacement is taken back to what was there, be it damaged.
TEST_F(StoreDamageTest, AFailedActivationOverADamagedCurrentLeavesIt) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}});
  ASSERT_TRUE(Activate(g1).ok());
  Write({Upsert("b", P("b"))});
  Overwrite("CURRENT", "nonsense");
  for (int64_t fail_from = 0; fail_from < 4; ++fail_from) {
    FaultyFileSystem fs;
    Open(&fs);
    auto generation = *store_->OpenGeneration(g1, true);
    fs.operations = 0;
    fs.fail_to = fail_from + 1;
    fs.fail_from = fail_from;
    const auto failed = store_->Activate(generation, WritesPolicy::kReplay);
    fs.Heal();
    if (failed.ok()) break;  // Nothing was left that could fail.
    EXPECT_EQ(store_->view(), nullptr);
    Open();
    EXPECT_EQ(store_->active_error().code(), absl::StatusCode::kDataLoss) << fail_from;
    EXPECT_EQ(Content("CURRENT"), "nonsense");
  }
}

// Cuts the middle out of the log's newest file.
void DamageWrites(const std::string& store) {
  std::string newest;
  for (const auto& file : stdfs::directory_iterator(JoinPath(store, "writes"))) {
    if (file.path().extension() == ".log" && stdfs::file_size(file.path()) > 0) newest = std::max(newest, file.path().string());
  }
  std::string content = *PosixFileSystem().ReadFile(newest);
  content.erase(content.size() / 3, content.size() / 3);
  std::ofstream(newest, std::ios::binary | std::ios::trunc) << content;
}

TEST_F(StoreDamageTest, ADamagedWriteLogIsGivenUpByWhoActivatesWithoutIt) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}}), g2 = Build({{"a", P("a2")}});
  ASSERT_TRUE(Activate(g1).ok());
  for (int i = 0; i < 20; ++i) Write({Upsert("b", P("b"))});
  const int64_t revision = store_->revision();
  store_.reset();
  DamageWrites(path_);
  for (const std::string& id : {g1, g2, g1}) {
    SCOPED_TRACE(id);
    Open();
    EXPECT_EQ(store_->view(), nullptr);
    EXPECT_EQ(store_->active_error().code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(store_->active_error().message()), ::testing::HasSubstr("DISCARD"));
    EXPECT_EQ(store_->active_generation(), g1);
    EXPECT_GT(store_->revision(), revision);
    EXPECT_EQ(store_->Write({Upsert("c", P("c"))}).status().code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(Activate(id).status().code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(Activate(id, WritesPolicy::kReplay).status().code(), absl::StatusCode::kDataLoss);
  }
  const auto activated = Activate(g1, WritesPolicy::kDiscard);
  ASSERT_TRUE(activated.ok()) << activated.status();
  EXPECT_TRUE(store_->active_error().ok());
  EXPECT_GT(activated->view->revision(), revision);
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a1")));
  int aside = 0;
  for (const auto& file : stdfs::directory_iterator(path_)) aside += file.path().filename().string().starts_with("damaged-writes-") ? 1 : 0;
  EXPECT_EQ(aside, 1);
  const int64_t written = Write({Upsert("c", P("c"))});
  EXPECT_GT(written, activated->view->revision());
  Open();
  EXPECT_TRUE(store_->active_error().ok());
  EXPECT_EQ(store_->revision(), written);
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a1"), Pair("c", "c")));
  ASSERT_TRUE(Activate(g2, WritesPolicy::kReplay).ok());
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a2"), Pair("c", "c")));
}

TEST_F(StoreDamageTest, DamageOfTheLogThatOnlyReadingShowsIsGivenUpTheSameWay) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}});
  ASSERT_TRUE(Activate(g1).ok());
  for (int i = 0; i < 20; ++i) Write({Upsert("b", P(std::string(1'000, 'b')))});
  Open();  // What a start recovers is written into tables.
  store_.reset();
  int damaged = 0;
  for (const auto& file : stdfs::directory_iterator(Path("writes"))) {
    if (file.path().extension() != ".sst") continue;
    std::string content = *PosixFileSystem().ReadFile(file.path());
    content[content.size() / 3] ^= 1;
    std::ofstream(file.path(), std::ios::binary | std::ios::trunc) << content;
    ++damaged;
  }
  ASSERT_GE(damaged, 1);
  Open();
  EXPECT_EQ(store_->view(), nullptr);
  EXPECT_EQ(store_->active_error().code(), absl::StatusCode::kDataLoss) << store_->active_error();
  EXPECT_EQ(Activate(g1, WritesPolicy::kReplay).status().code(), absl::StatusCode::kDataLoss);
  ASSERT_TRUE(Activate(g1, WritesPolicy::kDiscard).ok());
  Write({Upsert("c", P("c"))});
  Open();
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a1"), Pair("c", "c")));
}

TEST_F(StoreDamageTest, WritesWithoutAVectorOfWhatIsActiveWaitForAnActivationThatReplays) {
  Open();
  ASSERT_TRUE(Activate(Build({{"a", P("a1")}})).ok());
  BuildOptions options;
  options.dim = 2;
  options.passage_fingerprint = "fedcba9876543210";
  options.base_revision = -1;
  const std::string other = *BuildGeneration(*store_, {{"a", P("a2")}}, options);
  Write({Upsert("b", P("b"))});
  store_.reset();
  const std::string sealed = Content("CURRENT");
  storage::Current current;
  ASSERT_TRUE(current.ParseFromString(std::string(*Unsealed(sealed))));
  current.set_generation(other);
  Overwrite("CURRENT", Sealed(current.SerializeAsString()));
  Open();
  EXPECT_EQ(store_->view(), nullptr);
  EXPECT_EQ(ReasonOf(store_->active_error()), "WRITES_NEED_ENCODING");
  const auto generation = *store_->OpenGeneration(other, true);
  const auto places = store_->FindUnencoded(*generation, generation->manifest().base_revision(), store_->revision(), /*all=*/false);
  ASSERT_TRUE(places.ok()) << places.status();
  ASSERT_EQ(places->size(), 1u);
  const std::vector<float> vector = {3, 4};
  ASSERT_TRUE(store_->AddVectors(*generation, *places, vector.data()).ok());
  ASSERT_TRUE(Activate(other, WritesPolicy::kReplay).ok());
  EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a2"), Pair("b", "b")));
}

TEST_F(StoreDamageTest, AnActivationOverADamagedLogThatBreaksOffLeavesItDamagedOrDone) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}});
  ASSERT_TRUE(Activate(g1).ok());
  for (int i = 0; i < 20; ++i) Write({Upsert("b", P("b"))});
  store_.reset();
  DamageWrites(path_);
  const std::string kept = path_ + ".kept";
  stdfs::copy(path_, kept, stdfs::copy_options::recursive);
  int failures = 0;
  for (int64_t fail_from = 0;; ++fail_from) {
    SCOPED_TRACE(fail_from);
    FaultyFileSystem fs;
    Open(&fs);
    auto generation = *store_->OpenGeneration(g1, true);
    fs.operations = 0;
    fs.fail_from = fail_from;  // For good: as if the process had ended.
    const auto result = store_->Activate(generation, WritesPolicy::kDiscard);
    const bool made_anew = fs.operations <= fail_from;
    fs.Heal();
    Open();
    failures += result.ok() ? 0 : 1;
    if (result.ok() || store_->active_error().ok()) {  // The last step's failure leaves what a success would have left, if nothing cuts the power.
      EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a1")));
    } else {
      EXPECT_EQ(store_->active_error().code(), absl::StatusCode::kDataLoss);
    }
    if (result.ok() && made_anew) break;
    ASSERT_TRUE(Activate(g1, WritesPolicy::kDiscard).ok());
    EXPECT_THAT(Texts(), UnorderedElementsAre(Pair("a", "a1")));
    store_.reset();
    stdfs::remove_all(path_);
    stdfs::copy(kept, path_, stdfs::copy_options::recursive);
  }
  EXPECT_GE(failures, 3);
  stdfs::remove_all(kept);
}

TEST_F(StoreDamageTest, GenerationsWithADamagedManifestAreListedApartAndCanBeDeleted) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}}), g2 = Build({{"a", P("a2")}}), g3 = Build({{"a", P("a3")}});
  ASSERT_TRUE(Activate(g3).ok());
  Overwrite(g1 + "/MANIFEST", "nonsense");
  stdfs::copy(Path(g3 + "/MANIFEST"), Path(g2 + "/MANIFEST"), stdfs::copy_options::overwrite_existing);
  Open();
  std::vector<DamagedGeneration> damaged;
  const auto listed = store_->ListGenerations(&damaged);
  ASSERT_TRUE(listed.ok()) << listed.status();
  ASSERT_EQ(listed->size(), 1u);
  EXPECT_EQ((*listed)[0].generation(), g3);
  ASSERT_EQ(damaged.size(), 2u);
  for (const DamagedGeneration& generation : damaged) {
    EXPECT_TRUE(generation.generation == g1 || generation.generation == g2);
    EXPECT_EQ(generation.damage.code(), absl::StatusCode::kDataLoss);
    EXPECT_TRUE(store_->DeleteGeneration(generation.generation).ok());
    EXPECT_FALSE(stdfs::exists(Path(generation.generation)));
  }
}

TEST_F(StoreDamageTest, WhatWasSetAsideIsGoneAtOnceAndItsFilesAtTheNextStart) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}}), g2 = Build({{"a", P("a2")}});
  ASSERT_TRUE(Activate(g1).ok() && Activate(g2).ok());
  const auto held = store_->OpenGeneration(g1, true);
  const auto aside = store_->SetGenerationAside(g1);
  ASSERT_TRUE(aside.ok()) << aside.status();
  EXPECT_TRUE(stdfs::exists(*aside + "/vectors.bin"));
  EXPECT_EQ(store_->OpenGeneration(g1, false).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store_->SetGenerationAside(g1).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store_->ListGenerations()->size(), 1u);
  EXPECT_EQ(store_->PreviousGeneration(), "");
  std::vector<loci::v1::Passage> passages;
  EXPECT_TRUE((*held)->passages().Read(std::vector<int64_t>{0}, &passages).ok()) << "whoever holds it reads on";
  Open();
  EXPECT_FALSE(stdfs::exists(*aside));
}

TEST_F(StoreDamageTest, ADeletionThatFailsLeavesTheGeneration) {
  FaultyFileSystem fs;
  Open(&fs);
  const std::string g1 = Build({{"a", P("a1")}}), g2 = Build({{"a", P("a2")}});
  ASSERT_TRUE(Activate(g1).ok() && Activate(g2).ok());
  for (int64_t fail_from = 0; fail_from < 2; ++fail_from) {  // The rename, the sync of the folder.
    fs.operations = 0;
    fs.fail_to = fail_from + 1;
    fs.fail_from = fail_from;
    EXPECT_FALSE(store_->DeleteGeneration(g1).ok()) << fail_from;
    fs.Heal();
    EXPECT_TRUE(store_->OpenGeneration(g1, true).ok()) << fail_from;
    EXPECT_EQ(store_->PreviousGeneration(), g1);
  }
  EXPECT_TRUE(store_->DeleteGeneration(g1).ok());
}

TEST_F(StoreDamageTest, EachRollBackGoesFurtherBackAndToAGenerationOnce) {
  Open();
  const std::string a = Build({{"a", P("a")}}), b = Build({{"a", P("b")}}), c = Build({{"a", P("c")}});
  for (const std::string& id : {c, a, b, a, b}) ASSERT_TRUE(Activate(id).ok());
  EXPECT_EQ(RollBack(), a);
  Open();
  EXPECT_EQ(RollBack(), b);
  EXPECT_EQ(RollBack(), c);
  EXPECT_EQ(store_->PreviousGeneration(), "");
  // A, B, then A again: back to B, then to A, which served before it.
  ASSERT_TRUE(Activate(a).ok() && Activate(b).ok() && Activate(a).ok());
  EXPECT_EQ(RollBack(), b);
  EXPECT_EQ(RollBack(), a);
  EXPECT_EQ(RollBack(), c);
  EXPECT_EQ(store_->PreviousGeneration(), "");
  // What serves is not gone back to, also where all that served since was deleted.
  ASSERT_TRUE(Activate(a).ok() && Activate(b).ok() && Activate(a).ok());
  ASSERT_TRUE(store_->DeleteGeneration(b).ok());
  EXPECT_EQ(store_->PreviousGeneration(), c);
}

TEST_F(StoreDamageTest, ALookAtTheReplayFindsWritesThatNeedEncoding) {
  Open();
  const std::string g1 = Build({{"a", P("a1")}});
  ASSERT_TRUE(Activate(g1).ok());
  BuildOptions options;
  options.dim = 2;
  options.passage_fingerprint = "fedcba9876543210";
  options.base_revision = -1;
  const std::string other = *BuildGeneration(*store_, {{"a", P("a2")}}, options);
  Write({Upsert("b", P("b"))});
  const auto generation = *store_->OpenGeneration(other, true);
  EXPECT_EQ(ReasonOf(store_->CheckReplay(*generation, WritesPolicy::kRefuse).status()), "WRITES_SINCE");
  EXPECT_EQ(ReasonOf(store_->CheckReplay(*generation, WritesPolicy::kReplay).status()), "WRITES_NEED_ENCODING");
  EXPECT_EQ(store_->CheckReplay(*generation, WritesPolicy::kDiscard).value(), 1);
  EXPECT_EQ(store_->view()->generation().id(), g1);
}

}  // namespace
}  // namespace loci
