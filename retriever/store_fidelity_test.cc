#include "retriever/store_fidelity.h"

#include <atomic>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/checksum.h"
#include "base/error.h"
#include "base/file.h"
#include "encoder/encoder.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/forwarding_file_system.h"
#include "retriever/fidelity_file.h"
#include "retriever/testing/retriever_fixture.h"
#include "retriever/testing/small_memory.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class StoreFidelityTest : public RetrieverFixture {
 protected:
  // Of one to eight words.
  static std::vector<loci::v1::Passage> Passages(int first, int count) {
    std::vector<loci::v1::Passage> passages;
    for (int i = first; i < first + count; ++i) {
      std::string text = "cat";
      for (int word = 0; word < i % 8; ++word) absl::StrAppend(&text, word % 2 == 0 ? " river" : " fish");
      passages.push_back(MakePassage(absl::StrCat("p", i), absl::StrCat(text, " ", i)));
    }
    return passages;
  }
  absl::StatusOr<storage::EncoderFidelity> Measure(const std::string& store, int64_t sample_count = 1'000, OperationControl control = {}) {
    return MeasureStoreFidelity(*manager_, store, sample_count, control);
  }
  std::optional<storage::EncoderFidelity> Kept(const std::string& store) {
    const auto info = manager_->GetStore(store);
    EXPECT_TRUE(info.ok()) << info.status();
    return info.ok() ? info->int8_fidelity : std::nullopt;
  }
  std::string RecordPath(const std::string& store) { return JoinPath(manager_->StoreDirectory(store), kInt8FidelityRecord); }
  // Without what another measurement finds otherwise.
  static std::string Figures(storage::EncoderFidelity fidelity) {
    fidelity.clear_format_version();
    fidelity.clear_measured_unix_us();
    for (auto& precision : *fidelity.mutable_precisions()) precision.clear_tokens_per_second();
    return fidelity.DebugString();
  }
  static std::string ReasonOf(const absl::Status& status) { return GetErrorReason(status).value_or(ErrorReason()).reason; }
};

TEST_F(StoreFidelityTest, MeasuresEachPrecisionAndKeepsIt) {
  Start();
  const std::string generation = Ingest("s", Passages(0, 60))->generation;
  EXPECT_FALSE(Kept("s").has_value());
  std::vector<std::string> phases;
  std::string chosen;
  OperationControl control;
  control.progress = [&](std::string_view phase, int64_t done, int64_t total) {
    if (phases.empty() || phases.back() != phase) phases.emplace_back(phase);
    EXPECT_LE(done, total);
    EXPECT_EQ(total, 40);
  };
  control.chosen = [&](const std::string& name) { chosen = name; };
  const auto measured = Measure("s", 40, control);
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_THAT(phases, ElementsAre("sampling", "encoding", "comparing"));
  EXPECT_EQ(chosen, generation);
  EXPECT_EQ(measured->generation(), generation);
  EXPECT_EQ(measured->revision(), manager_->GetStore("s")->revision);
  EXPECT_EQ(measured->encoder_fingerprint(), manager_->GetStore("s")->encoder_fingerprint);
  EXPECT_EQ(measured->passage_count(), 60);
  EXPECT_EQ(measured->sample_count(), 40);
  EXPECT_GT(measured->token_count(), 40 * 3);
  EXPECT_GT(measured->measured_unix_us(), 0);
  const std::string served = (*registry_->Get(""))->spec().element_type;
  std::vector<std::string> types = {"float32"};
  if (served != "float32") types.push_back(served);
  types.push_back("int8");
  ASSERT_EQ(measured->precisions_size(), static_cast<int>(types.size()));
  for (size_t i = 0; i < types.size(); ++i) {
    const auto& precision = measured->precisions(static_cast<int>(i));
    EXPECT_EQ(precision.element_type(), types[i]);
    EXPECT_GT(precision.tokens_per_second(), 0);
    EXPECT_GT(precision.cosine_min(), i == 0 ? 0.9999 : 0.9);
    EXPECT_EQ(precision.cosine_min() < 1, i > 0);
    EXPECT_GE(precision.cosine_mean(), precision.cosine_min());
    EXPECT_GT(precision.top_10_overlap(), 0.5);
  }
  EXPECT_EQ(registry_->Loaded().size(), 1u) << "what was loaded to measure is nobody else's";
  for (int round = 0; round < 2; ++round) {
    const auto kept = Kept("s");
    ASSERT_TRUE(kept.has_value());
    EXPECT_EQ(Figures(*kept), Figures(*measured));
    EXPECT_EQ(kept->precisions(0).tokens_per_second(), measured->precisions(0).tokens_per_second());
    Stop();
    Start();
  }
  ASSERT_TRUE(manager_->UpdateStore("s", 3, true).ok());
  EXPECT_TRUE(Kept("s").has_value()) << "settings are another matter";
}

TEST_F(StoreFidelityTest, TheSameStateHasTheSameSampleDrawnFromAll) {
  Start();
  // Three tokens each in the first half of the rows, ten in the other.
  std::vector<loci::v1::Passage> passages;
  for (int i = 0; i < 200; ++i) passages.push_back(MakePassage(absl::StrCat("p", 1'000 + i), i < 100 ? "cat" : "cat cat cat cat cat cat cat cat"));
  ASSERT_TRUE(Ingest("s", passages).ok());
  const auto first = Measure("s", 100), again = Measure("s", 100);
  ASSERT_TRUE(first.ok() && again.ok());
  EXPECT_EQ(Figures(*first), Figures(*again));
  EXPECT_EQ(first->sample_count(), 100);
  EXPECT_GT(first->token_count(), 100 * 3 + 30 * 7);
  EXPECT_LT(first->token_count(), 100 * 3 + 70 * 7);
  ASSERT_TRUE(manager_->UpdateStore("s", std::nullopt, true).ok());
  EXPECT_EQ(Figures(*Measure("s", 100)), Figures(*first)) << "what the store is set to is measured beside the others as before";
}

TEST_F(StoreFidelityTest, WritesAreSampledAndWhatIsDeletedIsNot) {
  Start();
  ASSERT_TRUE(Ingest("s", Passages(0, 25)).ok());
  std::vector<std::string> ids;
  for (int i = 0; i < 10; ++i) ids.push_back(absl::StrCat("p", i));
  ASSERT_TRUE(manager_->Delete("s", ids).ok());
  const absl::Status few = Measure("s").status();
  EXPECT_EQ(few.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(few), "TOO_FEW_PASSAGES");
  EXPECT_THAT(std::string(few.message()), HasSubstr("serves 15 passages"));
  EXPECT_EQ(GetErrorReason(few)->metadata.at("passage_count"), "15");
  EXPECT_EQ(CheckStoreFidelity(*manager_, "s"), few);
  std::vector<loci::v1::Passage> long_ones;
  for (int i = 0; i < 5; ++i) long_ones.push_back(MakePassage(absl::StrCat("w", i), "cat cat cat cat cat cat cat cat cat cat"));
  ASSERT_TRUE(manager_->Upsert("s", long_ones, {}).ok());
  const auto measured = Measure("s");
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_EQ(measured->sample_count(), 20) << "all, where there are fewer than asked for";
  EXPECT_EQ(measured->passage_count(), 20);
  ASSERT_TRUE(manager_->Fold("s").ok());
  const auto folded = Measure("s");
  ASSERT_TRUE(folded.ok()) << folded.status();
  EXPECT_EQ(folded->token_count(), measured->token_count());
}

TEST_F(StoreFidelityTest, WhatServesNothingIsRefused) {
  Start();
  ASSERT_TRUE(manager_->CreateStore("empty").ok());
  EXPECT_EQ(ReasonOf(Measure("empty").status()), "NO_ACTIVE_GENERATION");
  EXPECT_EQ(ReasonOf(Measure("absent").status()), "STORE_NOT_FOUND");
  EXPECT_FALSE(Kept("empty").has_value());
}

TEST_F(StoreFidelityTest, WithoutRoomForItsTowersNothingIsLoaded) {
  Start();
  ASSERT_TRUE(Ingest("s", Passages(0, 50)).ok());
  const std::string weights = JoinPath(registry_->Directory((*registry_->Get(""))->spec().fingerprint), "model.safetensors");
  SmallMemory little(2 * *fs_.FileSize(weights)), enough(int64_t{1} << 30);
  for (SmallMemory* fs : {&little, &enough}) {
    manager_.reset();
    auto manager = GenerationManager::Open({.data_directory = DataDirectory(), .fs = fs, .encoders = registry_.get(), .search_pool = &pool_});
    ASSERT_TRUE(manager.ok()) << manager.status();
    manager_ = *std::move(manager);
    const absl::Status status = CheckStoreFidelity(*manager_, "s");
    EXPECT_EQ(Measure("s").status(), status) << "before there is a job";
    EXPECT_EQ(Kept("s").has_value(), fs == &enough);
    if (fs == &enough) {
      EXPECT_TRUE(status.ok()) << status;
      continue;
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_EQ(ReasonOf(status), "MEMORY");
    EXPECT_GT(std::stoll(GetErrorReason(status)->metadata.at("needed_bytes")), std::stoll(GetErrorReason(status)->metadata.at("available_bytes")));
  }
  manager_.reset();  // Before its files.
}

// What this machine has is less after each tower that was loaded.
class ShrinkingMemory : public ForwardingFileSystem {
 public:
  absl::StatusOr<std::string> ReadFile(const std::string& path) override {
    if (path == "/proc/self/cgroup") return absl::NotFoundError(path);
    if (path != "/proc/meminfo") return base_.ReadFile(path);
    return looks_left-- > 0 ? "MemAvailable: 9999999 kB\n" : "MemAvailable: 1 kB\n";
  }
  std::atomic<int> looks_left = 0;
};

TEST_F(StoreFidelityTest, RoomThatIsTakenMeanwhileEndsItBeforeTheNextTower) {
  Start();
  ASSERT_TRUE(Ingest("s", Passages(0, 50)).ok());
  manager_.reset();
  ShrinkingMemory fs;
  fs.looks_left = 1'000;
  auto manager = GenerationManager::Open({.data_directory = DataDirectory(), .fs = &fs, .encoders = registry_.get(), .search_pool = &pool_});
  ASSERT_TRUE(manager.ok()) << manager.status();
  manager_ = *std::move(manager);
  for (const int looks : {1, 2, 3}) {  // One before all, and one before each.
    fs.looks_left = looks;
    const absl::Status status = Measure("s").status();
    EXPECT_EQ(ReasonOf(status), "MEMORY") << looks << " " << status;
    EXPECT_FALSE(Kept("s").has_value());
  }
  fs.looks_left = 4;
  EXPECT_TRUE(Measure("s").ok());
  manager_.reset();  // Before its files.
}

TEST_F(StoreFidelityTest, WhatIsCancelledLeavesTheRecordAsItWas) {
  Start();
  ASSERT_TRUE(Ingest("s", Passages(0, 50)).ok());
  for (const bool has_record : {false, true}) {
    const auto before = Kept("s");
    EXPECT_EQ(before.has_value(), has_record);
    for (const std::string_view at : {"sampling", "encoding", "comparing"}) {
      OperationControl control;
      control.progress = [&](std::string_view phase, int64_t done, int64_t total) {
        // At the last look, too.
        if (phase == at && (phase != "comparing" || done == total)) control.limits.Cancel();
      };
      EXPECT_EQ(Measure("s", 30, control).status().code(), absl::StatusCode::kCancelled) << at;
      const auto after = Kept("s");
      EXPECT_EQ(after.has_value(), has_record);
      if (has_record) {
        EXPECT_EQ(after->SerializeAsString(), before->SerializeAsString());
      }
    }
    ASSERT_TRUE(Measure("s").ok());
  }
}

TEST_F(StoreFidelityTest, AStoreThatWasDeletedMeanwhileGetsNothingNorDoesItsNamesake) {
  Start();
  for (const bool anew : {false, true}) {
    ASSERT_TRUE(Ingest("s", Passages(0, 50)).ok());
    bool deleted = false;
    OperationControl control;
    control.progress = [&](std::string_view phase, int64_t, int64_t) {
      if (phase != "comparing" || std::exchange(deleted, true)) return;
      ASSERT_TRUE(manager_->DeleteStore("s").ok()) << "nothing of it is held any more";
      if (!anew) return;
      ASSERT_TRUE(Ingest("s", Passages(100, 50)).ok());
    };
    EXPECT_EQ(ReasonOf(Measure("s", 1'000, control).status()), "STORE_NOT_FOUND");
    EXPECT_TRUE(deleted);
    if (anew) {
      EXPECT_FALSE(Kept("s").has_value());
    } else {
      EXPECT_FALSE(fs_.Exists(manager_->StoreDirectory("s")));
    }
  }
}

TEST_F(StoreFidelityTest, ARecordThatIsDamagedOrCanNotBeWrittenKeepsNothingFromServing) {
  Start();
  ASSERT_TRUE(Ingest("s", Passages(0, 50)).ok());
  ASSERT_TRUE(Measure("s").ok());
  const std::string content = *fs_.ReadFile(RecordPath("s"));
  for (const std::string& damaged : {content.substr(0, content.size() / 2), std::string(), content + "x", std::string(40, '\xff')}) {
    ASSERT_TRUE(WriteFileAtomically(fs_, RecordPath("s"), damaged).ok());
    EXPECT_EQ(ReadInt8Fidelity(fs_, manager_->StoreDirectory("s")).status().code(), absl::StatusCode::kDataLoss);
    Stop();
    Start();
    EXPECT_FALSE(Kept("s").has_value());
    EXPECT_THAT(SearchIds("s", "cat", 1).size(), 1u);
  }
  ASSERT_TRUE(Measure("s").ok()) << "and it is replaced";
  const auto before = Kept("s");
  ASSERT_TRUE(before.has_value());
  ASSERT_TRUE(fs_.CreateDirectories(RecordPath("s") + ".tmp").ok());
  EXPECT_FALSE(Measure("s", 20).ok());
  EXPECT_EQ(Kept("s")->SerializeAsString(), before->SerializeAsString());
  ASSERT_TRUE(fs_.DeleteRecursively(RecordPath("s") + ".tmp").ok());
  storage::EncoderFidelity newer = *before;
  newer.set_format_version(2);
  ASSERT_TRUE(WriteFileAtomically(fs_, RecordPath("s"), Sealed(newer.SerializeAsString())).ok());
  EXPECT_EQ(ReadInt8Fidelity(fs_, manager_->StoreDirectory("s")).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(Kept("s").has_value());
}

TEST_F(StoreFidelityTest, ADamagedRecordIsWarnedOfOnce) {
  Start();
  ASSERT_TRUE(Ingest("s", Passages(0, 50)).ok());
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(WriteFileAtomically(fs_, RecordPath("s"), "damaged").ok());
    testing::internal::CaptureStderr();
    for (int i = 0; i < 3; ++i) EXPECT_FALSE(Kept("s").has_value());
    (void)manager_->ListStores();
    const std::string log = testing::internal::GetCapturedStderr();
    const size_t first = log.find("is damaged");
    EXPECT_NE(first, std::string::npos) << log;
    EXPECT_EQ(log.find("is damaged", first + 1), std::string::npos) << log;
    ASSERT_TRUE(Measure("s").ok());
    EXPECT_TRUE(Kept("s").has_value());
  }
}

}  // namespace
}  // namespace loci
