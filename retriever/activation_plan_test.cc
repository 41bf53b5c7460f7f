// What a plan says before an activation, held against what the server counts after it.
#include <cmath>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::Contains;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr double kTolerance = 0.15;

struct Shape {
  std::string name;
  std::string index = "exact";
  int64_t rows = 4000;
  bool metadata = true;
  int64_t upserts = 0;  // After the build; half of them replace passages of it.
};

class ActivationPlanTest : public RetrieverFixture {
 protected:
  loci::v1::Passage Make(const std::string& id, int64_t number, bool metadata) {
    loci::v1::Passage passage = MakePassage(id, "");
    for (int i = 0; i < 60; ++i) absl::StrAppend(passage.mutable_text(), "word", (number * 7919 + i * 104729) % 5003, " ");
    if (metadata) {
      (*passage.mutable_metadata())["lang"].set_string_value(number % 3 == 0 ? "de" : "en");
      (*passage.mutable_metadata())["year"].set_int64_value(1900 + number % 120);
      (*passage.mutable_metadata())["number"].set_int64_value(number);
    }
    return passage;
  }
  std::vector<float> MakeVectors(int64_t count, uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> vectors(static_cast<size_t>(count) * kDim);
    for (float& value : vectors) value = normal(random);
    return vectors;
  }
  // A generation that is complete and does not serve.
  std::string Build(const Shape& shape) {
    const EncoderSpec& spec = (*registry_->Get(""))->spec();
    auto builder = manager_->NewGeneration("s", {.index = shape.index,
                                                 .dim = spec.dim,
                                                 .query_fingerprint = spec.fingerprint.query,
                                                 .passage_fingerprint = spec.fingerprint.passage,
                                                 .base_revision = -1});
    EXPECT_TRUE(builder.ok()) << builder.status();
    std::vector<loci::v1::Passage> passages;
    for (int64_t i = 0; i < shape.rows; ++i) passages.push_back(Make(absl::StrCat("p", 100000 + i), i, shape.metadata));
    EXPECT_TRUE((*builder)->Add(passages, MakeVectors(shape.rows, 1).data()).ok());
    return (*builder)->Finish({}, nullptr)->generation();
  }
  void Upsert(const Shape& shape) {
    const std::string half = (*registry_->Get(""))->spec().fingerprint.passage;
    for (int64_t first = 0; first < shape.upserts; first += 100) {
      std::vector<loci::v1::Passage> passages;
      for (int64_t i = first; i < std::min(first + 100, shape.upserts); ++i) {
        const std::string id = i % 2 == 0 ? absl::StrCat("p", 100000 + (i * 37) % shape.rows) : absl::StrCat("new", i);
        passages.push_back(Make(id, i, shape.metadata));
      }
      const auto vectors = MakeVectors(static_cast<int64_t>(passages.size()), static_cast<uint32_t>(first) + 2);
      ASSERT_TRUE(manager_->UpsertVectors("s", passages, vectors.data(), kDim, half).ok());
    }
  }
  // Memory by owner and kind, as metrics have it.
  std::map<std::string, double> Memory() {
    std::map<std::string, double> memory;
    for (const GaugeSample& sample : manager_->Metrics()) {
      if (sample.name != std::string("loci_memory_bytes")) continue;
      std::map<std::string, std::string> labels(sample.labels.begin(), sample.labels.end());
      memory[labels["owner"] + " " + labels["kind"]] += sample.value;
    }
    return memory;
  }
  int64_t OnDisk(const std::string& path) {
    if (!fs_.IsDirectory(path)) return *fs_.FileSize(path);
    int64_t bytes = 0;
    const std::vector<std::string> names = fs_.List(path).value();
    for (const std::string& name : names) bytes += OnDisk(JoinPath(path, name));
    return bytes;
  }
};

TEST_F(ActivationPlanTest, MemoryAndDiskAreWithin15PercentOfWhatIsCountedAfter) {
  for (const Shape& shape : {Shape{.name = "small", .rows = 3, .metadata = false}, Shape{.name = "exact"}, Shape{.name = "no metadata", .metadata = false},
                             Shape{.name = "lists", .index = "IVF32,Flat"}, Shape{.name = "graph", .index = "HNSW16"},
                             Shape{.name = "many", .rows = 20000}, Shape{.name = "written", .upserts = 600}}) {
    SCOPED_TRACE(shape.name);
    Start();
    ASSERT_TRUE(manager_->CreateStore("s").ok());
    const std::string first = Build(shape), second = Build(shape);
    ASSERT_TRUE(manager_->Activate("s", first, WritesPolicy::kRefuse, false).ok());
    Upsert(shape);
    Stop();
    Start();  // What is read to write goes.
    const double before_overlay = Memory()["overlay resident"];
    const ActivationPlan plan = *manager_->PlanActivation("s", second, WritesPolicy::kReplay);
    EXPECT_THAT(plan.blockers, IsEmpty());
    std::map<std::string, double> before = Memory();
    const int64_t before_bytes = (*manager_->Capture("s", ""))->view->generation().memory_bytes();
    EXPECT_EQ(plan.released_bytes, before_bytes + static_cast<int64_t>(before_overlay));
    {
      const auto held = *manager_->Capture("s", "");
      ASSERT_TRUE(manager_->Activate("s", second, WritesPolicy::kReplay, false).ok());
      std::map<std::string, double> after = Memory();
      double resident = 0;
      for (const MemoryFigure& figure : plan.memory) {
        const std::string owner = absl::StrCat(figure.owner, figure.mapped ? " mapped" : " resident");
        // Of generations both are counted, of overlays the one that serves.
        const double counted = after[owner] - (figure.owner == "overlay" ? 0 : before[owner]);
        resident += figure.mapped ? 0 : counted;
        EXPECT_NEAR(static_cast<double>(figure.bytes), counted, kTolerance * counted) << owner;
      }
      EXPECT_NEAR(static_cast<double>(plan.need.resident_bytes()), resident, kTolerance * resident);
    }
    const std::shared_ptr<const ServingSet> serving = *manager_->Capture("s", "");
    const Generation& generation = serving->view->generation();
    EXPECT_EQ(plan.mapped_bytes, OnDisk(JoinPath(DataDirectory(), absl::StrCat("stores/s/", second, "/vectors.bin"))) +
                                     OnDisk(JoinPath(DataDirectory(), absl::StrCat("stores/s/", second, "/columns.bin"))));
    EXPECT_EQ(plan.disk_bytes, OnDisk(JoinPath(DataDirectory(), absl::StrCat("stores/s/", second))));
    // And once everything was read.
    ASSERT_TRUE(generation.passages().FillCache().ok());
    const auto most = static_cast<double>(generation.memory_bytes() + serving->view->overlay_memory_bytes());
    EXPECT_NEAR(static_cast<double>(plan.need.most_bytes()), most, kTolerance * most);
    Stop();
    ASSERT_TRUE(fs_.DeleteRecursively(DataDirectory()).ok());
  }
}

TEST_F(ActivationPlanTest, AnOlderBuildsMemoryIsEstimatedFromItsFiles) {
  Start();
  ASSERT_TRUE(manager_->CreateStore("s").ok());
  const std::string generation = Build({.index = "IVF32,Flat"});
  const ActivationPlan plan = *manager_->PlanActivation("s", generation);
  storage::Manifest manifest = manager_->ListGenerations("s")->generations[0].manifest;
  ASSERT_TRUE(manifest.has_memory());
  manifest.clear_memory();
  const GenerationMemory estimate = PlannedMemory(manifest);
  // The file does not say what the centres' codes take.
  EXPECT_NEAR(static_cast<double>(estimate.index), static_cast<double>(plan.need.generation.index),
              0.01 * static_cast<double>(plan.need.generation.index));
  EXPECT_LE(plan.need.generation.most_bytes(), estimate.most_bytes()) << "too little would let in what does not fit";
  EXPECT_LT(estimate.most_bytes(), 3 * plan.need.generation.most_bytes());
}

TEST_F(ActivationPlanTest, SaysWhatWouldRefuseItAsItWouldBeTold) {
  Start();
  ASSERT_TRUE(manager_->CreateStore("s").ok());
  const std::string first = Build({.rows = 100}), second = Build({.rows = 100});
  ASSERT_TRUE(manager_->Activate("s", first, WritesPolicy::kRefuse, false).ok());
  Upsert({.rows = 100, .upserts = 50});
  const ActivationPlan refuse = *manager_->PlanActivation("s", second), replay = *manager_->PlanActivation("s", second, WritesPolicy::kReplay),
                       discard = *manager_->PlanActivation("s", second, WritesPolicy::kDiscard);
  EXPECT_THAT(refuse.blockers, testing::ElementsAre(StartsWith("WRITES_SINCE: 1 ")));
  EXPECT_THAT(replay.blockers, IsEmpty());
  EXPECT_THAT(discard.blockers, IsEmpty());
  EXPECT_EQ(discard.writes_since_count, 1);
  EXPECT_GT(replay.need.overlay_bytes, 0);
  EXPECT_EQ(refuse.need.overlay_bytes, replay.need.overlay_bytes);
  EXPECT_EQ(discard.need.overlay_bytes, 0);
}

TEST_F(ActivationPlanTest, TheBudgetThatAPlanFindsEnoughIsEnoughAndOneByteLessIsNot) {
  Start();
  ASSERT_TRUE(manager_->CreateStore("s").ok());
  const std::string first = Build({.rows = 500}), second = Build({.rows = 500});
  ASSERT_TRUE(manager_->Activate("s", first, WritesPolicy::kRefuse, false).ok());
  Upsert({.rows = 500, .upserts = 100});
  const int64_t needed = manager_->PlanActivation("s", second)->need.most_bytes();
  const std::shared_ptr<const View> view = (*manager_->Capture("s", ""))->view;
  const int64_t taken = view->generation().most_memory_bytes() + view->overlay_memory_bytes();
  for (const int64_t missing : {1, 0}) {
    manager_.reset();
    manager_ = *GenerationManager::Open({.data_directory = DataDirectory(),
                                         .encoders = registry_.get(),
                                         .search_pool = &pool_,
                                         .memory_budget_bytes = taken + needed - missing,
                                         .memory_wait_us = 0});
    const ActivationPlan plan = *manager_->PlanActivation("s", second, WritesPolicy::kReplay);
    const absl::Status activated = manager_->Activate("s", second, WritesPolicy::kReplay, false).status();
    if (missing > 0) {
      EXPECT_THAT(plan.blockers, testing::ElementsAre(StartsWith(absl::StrCat("MEMORY: ", needed, " bytes are needed")))) << plan.available_bytes;
      EXPECT_EQ(activated.code(), absl::StatusCode::kResourceExhausted);
      EXPECT_THAT(std::string(activated.message()), testing::HasSubstr(absl::StrCat(needed, " bytes")));
    } else {
      EXPECT_THAT(plan.blockers, IsEmpty());
      EXPECT_TRUE(activated.ok()) << activated;
    }
  }
}

TEST_F(ActivationPlanTest, ADiskThatIsFullIsABlocker) {
  Start();
  ASSERT_TRUE(manager_->CreateStore("s").ok());
  const std::string generation = Build({.rows = 10});
  manager_.reset();
  manager_ = *GenerationManager::Open({.data_directory = DataDirectory(),
                                       .encoders = registry_.get(),
                                       .search_pool = &pool_,
                                       .available_disk_bytes = [](const std::string&) { return int64_t{100}; }});
  const ActivationPlan plan = *manager_->PlanActivation("s", generation);
  EXPECT_EQ(plan.available_disk_bytes, 100);
  EXPECT_THAT(plan.blockers, Contains(StartsWith("DISK: ")));
}

}  // namespace
}  // namespace loci
