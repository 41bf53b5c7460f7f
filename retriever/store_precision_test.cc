// Stores that are set to int8: which vectors they have, and what says so.
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "encoder/testing/fake_encoder.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/manifest.h"
#include "retriever/archive_exporter.h"
#include "retriever/archive_importer.h"
#include "retriever/reembedder.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::ElementsAre;

class StorePrecisionTest : public RetrieverFixture {
 protected:
  StorePrecisionTest() {
    for (const auto& [encoder, precision] : {std::pair(&auto_, Precision::kAuto), std::pair(&int8_, Precision::kInt8)}) {
      EncoderOptions options;
      options.precision = precision;
      const auto loaded = LoadEncoder(fs_, CheckpointDirectory(1), options);
      EXPECT_TRUE(loaded.ok()) << loaded.status();
      *encoder = std::make_unique<TextEncoder>(*loaded, BatcherOptions(), RealClock(), NullMetrics());
    }
    auto_name_ = auto_->spec().element_type;
  }
  ~StorePrecisionTest() override { Stop(); }

  // By an encoder of this test's own.
  static std::vector<float> Encoded(TextEncoder& encoder, const std::string& text, TextRole role = TextRole::kPassage) {
    const auto encoded = encoder.EncodeAndWait({text}, {.role = role});
    EXPECT_TRUE(encoded.ok()) << encoded.status();
    return encoded->vectors;
  }
  std::vector<float> Stored(const std::string& store, const std::string& id) {
    const std::shared_ptr<const View> view = (*manager_->Capture(store, ""))->view;
    std::vector<float> vector(kDim);
    const auto row = view->Find(id);
    EXPECT_TRUE(row.ok() && row->has_value()) << id;
    EXPECT_TRUE(view->CopyVector(**row, vector.data()).ok());
    return vector;
  }
  // What encodes the store's queries.
  std::vector<float> Query(const std::string& store, const std::string& text) {
    const auto set = manager_->WithEncoder(*manager_->Capture(store, ""));
    EXPECT_TRUE(set.ok()) << set.status();
    return Encoded(*(*set)->encoder, text, TextRole::kQuery);
  }
  storage::Manifest Manifest(const std::string& store) { return (*manager_->Capture(store, ""))->view->generation().manifest(); }
  std::vector<std::string> Recorded(const std::string& store) {
    const storage::Manifest manifest = Manifest(store);
    return {manifest.encoder_precisions().begin(), manifest.encoder_precisions().end()};
  }
  std::shared_ptr<TextEncoder> Default() { return *registry_->Get(""); }
  static std::string ReasonOf(const absl::Status& status) { return GetErrorReason(status).value_or(ErrorReason()).reason; }
  void SetInt8(const std::string& store, bool int8) {
    const auto updated = manager_->UpdateStore(store, std::nullopt, int8);
    ASSERT_TRUE(updated.ok()) << updated.status();
    EXPECT_EQ(updated->int8, int8);
  }
  std::vector<loci::v1::Passage> Three() const {
    return {MakePassage("a", kCat), MakePassage("b", kRiver), MakePassage("c", kFish)};
  }

  static constexpr char kCat[] = "the cat in the house", kRiver[] = "a river to the north", kFish[] = "red fish blue fish";
  std::unique_ptr<TextEncoder> auto_, int8_;
  std::string auto_name_;
};

TEST_F(StorePrecisionTest, WhatIsAskedAndWrittenFromThenOnIsInt8) {
  Start();
  ASSERT_NE(Encoded(*auto_, kCat), Encoded(*int8_, kCat)) << "else this test shows nothing";
  ASSERT_TRUE(Ingest("s", Three()).ok());
  ASSERT_TRUE(Ingest("other", Three()).ok());
  EXPECT_THAT(Recorded("s"), ElementsAre(auto_name_));
  EXPECT_EQ(Query("s", "cat"), Encoded(*auto_, "cat", TextRole::kQuery));
  SetInt8("s", true);
  EXPECT_EQ(Query("s", "cat"), Encoded(*int8_, "cat", TextRole::kQuery));
  EXPECT_EQ(Stored("s", "a"), Encoded(*auto_, kCat)) << "what is there stays";
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("d", "four")}, {}).ok());
  EXPECT_EQ(Stored("s", "d"), Encoded(*int8_, "four"));
  EXPECT_THAT(SearchIds("s", "four", 1), ElementsAre("d"));
  EXPECT_EQ(Query("other", "cat"), Encoded(*auto_, "cat", TextRole::kQuery)) << "the other store's are what they were";
  EXPECT_FALSE(manager_->GetStore("other")->int8);

  const auto view = (*manager_->Capture("s", ""))->view;
  EXPECT_EQ(view->Precisions(**view->Find("d")), PrecisionSet(VectorPrecision::kInt8));
  EXPECT_THAT(view->Precisions().Names(), ElementsAre(auto_name_, "int8"));
  EXPECT_THAT(Recorded("s"), ElementsAre(auto_name_)) << "a generation does not change";
  SetInt8("s", false);
  EXPECT_EQ(Query("s", "cat"), Encoded(*auto_, "cat", TextRole::kQuery));
}

TEST_F(StorePrecisionTest, AFoldRecordsAllThatItTakesOver) {
  Start();
  ASSERT_TRUE(Ingest("s", Three()).ok());
  SetInt8("s", true);
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("d", "four")}, {}).ok());
  Stop();
  Start();  // The write log says it too.
  EXPECT_TRUE(manager_->GetStore("s")->int8);
  ASSERT_TRUE(manager_->Fold("s").ok());
  EXPECT_THAT(Recorded("s"), ElementsAre(auto_name_, "int8"));
  EXPECT_EQ(Stored("s", "a"), Encoded(*auto_, kCat));
  EXPECT_EQ(Stored("s", "d"), Encoded(*int8_, "four"));
}

TEST_F(StorePrecisionTest, WhatNoVectorHasAnyMoreIsNotRecorded) {
  Start();
  ASSERT_TRUE(Ingest("s", Three()).ok());
  SetInt8("s", true);
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("a", kCat), MakePassage("b", kRiver)}, {}).ok());
  EXPECT_THAT((*manager_->Capture("s", ""))->view->Precisions().Names(), ElementsAre(auto_name_, "int8")) << "c is left";
  ASSERT_TRUE(manager_->Delete("s", {"c"}).ok());
  EXPECT_THAT((*manager_->Capture("s", ""))->view->Precisions().Names(), ElementsAre("int8"));
  EXPECT_EQ(ReasonOf(Reembed(*manager_, {.store = "s", .encoder = *manager_->ForStore("s", Default())}).status()), "SAME_ENCODER");
  ASSERT_TRUE(manager_->Fold("s").ok());
  EXPECT_THAT(Recorded("s"), ElementsAre("int8"));
  const auto ingested = Ingest("s", {MakePassage("a", kCat)});
  ASSERT_TRUE(ingested.ok()) << ingested.status();
  EXPECT_EQ(ingested->reused_count, 1);
}

TEST_F(StorePrecisionTest, IsThereAfterARestart) {
  Start();
  ASSERT_TRUE(Ingest("s", Three()).ok());
  SetInt8("s", true);
  ASSERT_TRUE(manager_->CreateStore("empty", std::nullopt, true).ok());
  ASSERT_TRUE(manager_->CreateStore("plain").ok());
  for (int round = 0; round < 2; ++round) {
    EXPECT_TRUE(manager_->GetStore("s")->int8);
    EXPECT_TRUE(manager_->GetStore("empty")->int8);
    EXPECT_FALSE(manager_->GetStore("plain")->int8);
    EXPECT_EQ(Query("s", "cat"), Encoded(*int8_, "cat", TextRole::kQuery));
    Stop();
    Start();
  }
  ASSERT_TRUE(manager_->Upsert("empty", {MakePassage("d", "four")}, {}).ok());
  EXPECT_EQ(Stored("empty", "d"), Encoded(*int8_, "four"));
  ASSERT_TRUE(manager_->UpdateStore("s", 3).ok());
  EXPECT_TRUE(manager_->GetStore("s")->int8) << "what is not given stays";
}

TEST_F(StorePrecisionTest, AnIngestTakesNoVectorOverBetweenInt8AndOthers) {
  Start();
  ASSERT_TRUE(Ingest("s", Three()).ok());
  auto ingested = Ingest("s", Three());
  ASSERT_TRUE(ingested.ok()) << ingested.status();
  EXPECT_EQ(ingested->reused_count, 3) << "of the same precision";
  SetInt8("s", true);
  ingested = Ingest("s", Three());
  ASSERT_TRUE(ingested.ok()) << ingested.status();
  EXPECT_EQ(ingested->reused_count, 0);
  EXPECT_THAT(Recorded("s"), ElementsAre("int8"));
  for (const auto& [id, text] : {std::pair("a", kCat), std::pair("b", kRiver), std::pair("c", kFish)})
    EXPECT_EQ(Stored("s", id), Encoded(*int8_, text));
  ingested = Ingest("s", Three());
  ASSERT_TRUE(ingested.ok()) << ingested.status();
  EXPECT_EQ(ingested->reused_count, 3);
  EXPECT_THAT(Recorded("s"), ElementsAre("int8"));
  // Nor do upserts of an ingest.
  SetInt8("s", false);
  IngestOptions upsert;
  upsert.mode = IngestMode::kUpsert;
  ingested = Ingest("s", Three(), upsert);
  ASSERT_TRUE(ingested.ok()) << ingested.status();
  EXPECT_EQ(ingested->reused_count, 0);
  EXPECT_EQ(Stored("s", "b"), Encoded(*auto_, kRiver));
}

TEST_F(StorePrecisionTest, AReembeddingMakesAllTheSame) {
  Start();
  ASSERT_TRUE(Ingest("s", Three()).ok());
  const auto reembed = [&]() -> absl::Status {
    const auto encoder = manager_->ForStore("s", Default());
    if (!encoder.ok()) return encoder.status();
    return Reembed(*manager_, {.store = "s", .encoder = *encoder}).status();
  };
  absl::Status same = reembed();
  EXPECT_EQ(ReasonOf(same), "SAME_ENCODER");
  EXPECT_THAT(std::string(same.message()), testing::EndsWith(", and none is in int8"));
  SetInt8("s", true);
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("d", "four")}, {}).ok());
  ASSERT_TRUE(reembed().ok());
  EXPECT_THAT(Recorded("s"), ElementsAre("int8"));
  for (const auto& [id, text] : {std::pair("a", kCat), std::pair("d", "four")}) EXPECT_EQ(Stored("s", id), Encoded(*int8_, text));
  EXPECT_EQ(Query("s", "cat"), Encoded(*int8_, "cat", TextRole::kQuery));
  same = reembed();
  EXPECT_EQ(ReasonOf(same), "SAME_ENCODER");
  EXPECT_THAT(std::string(same.message()), testing::EndsWith(", and all are in int8"));
  SetInt8("s", false);
  ASSERT_TRUE(reembed().ok());
  EXPECT_THAT(Recorded("s"), ElementsAre(auto_name_));
  EXPECT_EQ(Stored("s", "d"), Encoded(*auto_, "four"));
  EXPECT_EQ(Query("s", "cat"), Encoded(*auto_, "cat", TextRole::kQuery));
}

TEST_F(StorePrecisionTest, VectorsThatComeAlongAreUnknownAndArchivesCarryWhatIsKnown) {
  Start();
  IngestOptions options;
  options.store = "given";
  options.encoder_fingerprint = Default()->spec().fingerprint.ToString();
  auto ingester = Ingester::Start(*manager_, options);
  ASSERT_TRUE(ingester.ok()) << ingester.status();
  ASSERT_TRUE((*ingester)->Add({MakePassage("a", kCat)}, Encoded(*auto_, kCat), kDim).ok());
  ASSERT_TRUE((*ingester)->Finish().ok());
  EXPECT_THAT(Recorded("given"), ElementsAre("unknown"));

  ASSERT_TRUE(manager_->CreateStore("s", std::nullopt, true).ok());
  ASSERT_TRUE(Ingest("s", Three()).ok());
  ASSERT_TRUE(manager_->UpdateStore("s", std::nullopt, false).ok());
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("d", "four")}, {}).ok());
  ArchiveExporter exporter((*manager_->Capture("s", ""))->view, 1);
  ArchiveImporter importer(*manager_, {.store = "copy"});
  while (true) {
    const auto bytes = exporter.Next({});
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    if (bytes->empty()) break;
    ASSERT_TRUE(importer.Add(*bytes).ok());
  }
  ASSERT_TRUE(importer.Finish().ok());
  EXPECT_THAT(Recorded("copy"), ElementsAre(auto_name_, "int8"));
}

TEST_F(StorePrecisionTest, ManifestsOfOlderServersAreUnknown) {
  Start();
  ASSERT_TRUE(Ingest("s", Three()).ok());
  storage::Manifest manifest = Manifest("s");
  manifest.clear_encoder_precisions();
  const auto parsed = ParseManifest(SerializeManifest(manifest));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(PrecisionsOf(*parsed).Names(), ElementsAre("unknown"));
  ASSERT_TRUE(manager_->CreateStore("empty").ok());
  ASSERT_TRUE(manager_->Upsert("empty", {MakePassage("a", kCat)}, {}).ok());
  EXPECT_TRUE(PrecisionsOf(Manifest("empty")).empty()) << "of a generation without vectors";
}

TEST_F(StorePrecisionTest, AnEncoderThatIsSetServesInTheStoresPrecision) {
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, CheckpointDirectory(2), {.seed = 2}).ok());
  Start();
  ASSERT_TRUE(Ingest("s", Three()).ok());
  SetInt8("s", true);
  const auto set = manager_->SetEncoder("s", Default());
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ((*set)->encoder->precision(), VectorPrecision::kInt8);
  SetInt8("s", false);
  EXPECT_EQ((*manager_->Capture("s", ""))->encoder, Default());
  SetInt8("s", true);
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("d", "four")}, {}).ok()) << "publishes again";
  EXPECT_EQ((*manager_->Capture("s", ""))->encoder->precision(), VectorPrecision::kInt8);
  // Both forms are there, each once.
  const auto loaded = registry_->Loaded();
  ASSERT_EQ(loaded.size(), 2u);
  EXPECT_EQ(loaded[0], Default());
  EXPECT_EQ(loaded[1], (*manager_->Capture("s", ""))->encoder);
  EXPECT_EQ(*registry_->ComputedAs(Default(), true), loaded[1]);
  EXPECT_EQ(*registry_->ComputedAs(loaded[1], false), Default());
}

TEST_F(StorePrecisionTest, RequestsThatNameAGenerationAreEncodedInItToo) {
  Start();
  ASSERT_TRUE(Ingest("s", Three()).ok());
  const std::string first = manager_->GetStore("s")->generation;
  ASSERT_TRUE(Ingest("s", {MakePassage("z", "another")}).ok());
  for (const bool int8 : {false, true, false}) {
    SetInt8("s", int8);
    const auto named = manager_->Capture("s", first);
    ASSERT_TRUE(named.ok()) << named.status();
    EXPECT_EQ((*named)->encoder->precision() == VectorPrecision::kInt8, int8);
    ASSERT_TRUE(manager_->Activate("s", first, WritesPolicy::kReplay, /*dry_run=*/false).ok());
    EXPECT_EQ((*manager_->Capture("s", ""))->encoder->precision() == VectorPrecision::kInt8, int8);
    ASSERT_TRUE(manager_->Rollback("s", WritesPolicy::kReplay, /*dry_run=*/false).ok());
    EXPECT_EQ((*manager_->Capture("s", ""))->encoder->precision() == VectorPrecision::kInt8, int8);
  }
}

TEST_F(StorePrecisionTest, AnInt8EncoderLeavesTheMemoryOnceNobodyUsesIt) {
  Start();
  ASSERT_TRUE(Ingest("s", Three()).ok());
  ASSERT_TRUE(Ingest("other", Three()).ok());
  SetInt8("s", true);
  SetInt8("other", true);
  std::weak_ptr<TextEncoder> encoder;
  {
    const std::shared_ptr<const ServingSet> request = *manager_->Capture("s", "");
    encoder = request->encoder;
    SetInt8("s", false);
    EXPECT_EQ(registry_->Loaded().size(), 2u) << "the other store wants it";
    SetInt8("other", false);
    EXPECT_FALSE(encoder.expired());
    EXPECT_EQ(Encoded(*request->encoder, "cat", TextRole::kQuery), Encoded(*int8_, "cat", TextRole::kQuery)) << "a request goes on with what it holds";
  }
  EXPECT_TRUE(encoder.expired());
  EXPECT_EQ(registry_->Loaded().size(), 1u);
  SetInt8("s", true);
  EXPECT_EQ(Query("s", "cat"), Encoded(*int8_, "cat", TextRole::kQuery));
}

TEST_F(StorePrecisionTest, WhatCanNotBeLoadedChangesNothing) {
  Start();
  ASSERT_TRUE(Ingest("s", Three()).ok());
  // Another start would find it damaged.
  const std::string weights = JoinPath(registry_->Directory(Default()->spec().fingerprint), kWeightsFile);
  const std::string whole = *fs_.ReadFile(weights);
  ASSERT_TRUE(WriteFileAtomically(fs_, weights, whole.substr(0, whole.size() / 2)).ok());
  const auto refused = manager_->UpdateStore("s", 3, true);
  EXPECT_FALSE(refused.ok());
  EXPECT_FALSE(manager_->GetStore("s")->int8);
  EXPECT_EQ(manager_->GetStore("s")->keep_generations, 0);
  EXPECT_EQ(Query("s", "cat"), Encoded(*auto_, "cat", TextRole::kQuery));
  ASSERT_TRUE(WriteFileAtomically(fs_, weights, whole).ok());
  SetInt8("s", true);
}

TEST_F(StorePrecisionTest, OnADeviceWithoutInt8ItIsRefusedAndStoresThatHaveItAreEncodedAsOthers) {
  Start();
  ASSERT_TRUE(manager_->CreateStore("s", std::nullopt, true).ok());
  Stop();
  EncoderRegistry::Options options{.directory = JoinPath(DataDirectory(), "encoders")};
  int device = 0;  // Is not looked at: nothing is loaded.
  options.encoder.cuda = std::shared_ptr<CudaBackend>(std::shared_ptr<void>(), reinterpret_cast<CudaBackend*>(&device));
  registry_ = *EncoderRegistry::Open(options);
  manager_ = *GenerationManager::Open({.data_directory = DataDirectory(), .encoders = registry_.get(), .search_pool = &pool_});
  EXPECT_TRUE(manager_->GetStore("s")->int8) << "it stays set";
  const auto fake = std::make_shared<TextEncoder>(std::make_shared<FakeEncoder>(FakeEncoderOptions()), BatcherOptions(),
                                                  RealClock(), NullMetrics());
  EXPECT_EQ(*manager_->ForStore("s", fake), fake);
  ASSERT_TRUE(manager_->CreateStore("plain").ok());
  for (const absl::Status& refused :
       {manager_->UpdateStore("plain", 3, true).status(), manager_->CreateStore("new", std::nullopt, true).status()}) {
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
    EXPECT_EQ(ReasonOf(refused), "INT8_UNAVAILABLE");
  }
  EXPECT_TRUE(absl::IsNotFound(manager_->GetStore("new").status()));
  EXPECT_EQ(manager_->GetStore("plain")->keep_generations, 0);
  ASSERT_TRUE(manager_->UpdateStore("s", std::nullopt, false).ok());
  EXPECT_FALSE(manager_->GetStore("s")->int8);
}

}  // namespace
}  // namespace loci
