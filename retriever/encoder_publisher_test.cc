// Weights that come from a training job, and what is wrong with them on purpose.
#include "retriever/encoder_publisher.h"

#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/checksum.h"
#include "base/error.h"
#include "encoder/safetensors.h"
#include "encoder/towers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/disk_model.h"
#include "index/recording_disk.h"
#include "retriever/testing/retriever_fixture.h"
#include "retriever/testing/small_memory.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

using Tensors = std::map<std::string, TestTensor>;

class EncoderPublisherTest : public RetrieverFixture {
 protected:
  // The weights of a checkpoint of the same architecture.
  std::string Weights(int seed, TinyCheckpointOptions options = {}) {
    options.seed = static_cast<uint64_t>(seed);
    const std::string directory = JoinPath(directory_, absl::StrCat("weights-", seed));
    EXPECT_TRUE(WriteTinyCheckpoint(fs_, directory, options).ok());
    return *fs_.ReadFile(JoinPath(directory, kWeightsFile));
  }
  static Tensors Parse(const std::string& weights) {
    const auto parsed = Safetensors::Parse(weights, "weights");
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, weights.data(), sizeof(header_bytes));
    Tensors tensors;
    for (const auto& [name, info] : (*parsed)->tensors()) {
      tensors[name] = {info.dtype, info.shape,
                       weights.substr(sizeof(header_bytes) + header_bytes + static_cast<size_t>(info.begin), static_cast<size_t>(info.end - info.begin))};
    }
    return tensors;
  }
  std::shared_ptr<TextEncoder> Default() { return *registry_->Get(""); }

  EncoderPublication Publication(const std::string& weights, EncoderHalves halves, std::shared_ptr<TextEncoder> parent) {
    return {.parent = std::move(parent),
            .halves = halves,
            .job = "a job",
            .metrics = {{"loss", 0.25}},
            .size_bytes = static_cast<int64_t>(weights.size()),
            .sha256 = Sha256::Hex(weights)};
  }
  absl::StatusOr<ImportedEncoder> Send(const std::string& weights, EncoderPublication publication, size_t piece = 10'000) {
    auto publisher = EncoderPublisher::Start(*registry_, fs_, std::move(publication));
    if (!publisher.ok()) return publisher.status();
    for (size_t at = 0; at < weights.size(); at += piece) {
      if (absl::Status added = (*publisher)->Add(std::string_view(weights).substr(at, piece)); !added.ok()) return added;
    }
    return (*publisher)->Finish();
  }
  absl::StatusOr<ImportedEncoder> Publish(const std::string& weights, EncoderHalves halves, std::shared_ptr<TextEncoder> parent = nullptr) {
    return Send(weights, Publication(weights, halves, parent == nullptr ? Default() : std::move(parent)));
  }
  // What a checkpoint of these weights alone makes of the text.
  std::vector<float> VectorOf(int seed, TextRole role) {
    TextEncoder encoder(*LoadEncoder(fs_, JoinPath(directory_, absl::StrCat("weights-", seed)), {}), {}, RealClock(), NullMetrics());
    return Vector(encoder, role);
  }
  static std::vector<float> Vector(TextEncoder& encoder, TextRole role) { return encoder.EncodeAndWait({"which river is in the north"}, {.role = role})->vectors; }
  std::vector<std::string> Folders() { return *fs_.List(JoinPath(DataDirectory(), "encoders")); }
  std::vector<std::string> FilesOf(const Fingerprint& fingerprint) { return *fs_.List(registry_->Directory(fingerprint)); }
  static std::string ReasonOf(const absl::Status& status) {
    const auto reason = GetErrorReason(status);
    return reason.has_value() ? reason->reason : "";
  }
};

TEST_F(EncoderPublisherTest, AQueryHalfEncodesQueriesAndLeavesPassagesAsTheyWere) {
  Start();
  const std::string weights = Weights(2);
  const auto published = Publish(weights, EncoderHalves::kQuery);
  ASSERT_TRUE(published.ok()) << published.status();
  EXPECT_FALSE(published->was_there);
  const EncoderSpec spec = published->encoder->spec(), parent = Default()->spec();
  EXPECT_EQ(spec.fingerprint.passage, parent.fingerprint.passage);
  EXPECT_NE(spec.fingerprint.query, parent.fingerprint.query);
  EXPECT_NE(spec.model_name, parent.model_name);
  const auto look = [&](TextEncoder& encoder) {
    EXPECT_EQ(Vector(encoder, TextRole::kQuery), VectorOf(2, TextRole::kQuery));
    EXPECT_EQ(Vector(encoder, TextRole::kPassage), Vector(*Default(), TextRole::kPassage));
  };
  look(*published->encoder);
  // The same weights loaded as a checkpoint of their own ask other vectors: another half.
  EXPECT_NE(spec.fingerprint.query, (*LoadEncoder(fs_, JoinPath(directory_, "weights-2"), {}))->spec().fingerprint.query);
  Stop();
  Start();
  const auto again = registry_->Get(spec.fingerprint.ToString());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->spec().model_name, spec.model_name);
  EXPECT_EQ((*again)->spec().fingerprint, spec.fingerprint);
  look(**again);
  // By whom and from what.
  const std::string lineage = *fs_.ReadFile(JoinPath(registry_->Directory(spec.fingerprint), "LINEAGE"));
  EXPECT_THAT(lineage, HasSubstr(absl::StrCat("\"parent_fingerprint\": \"", parent.fingerprint.ToString(), "\"")));
  EXPECT_THAT(lineage, HasSubstr("\"job\": \"a job\""));
  EXPECT_THAT(lineage, HasSubstr("\"loss\": 0.25"));
  EXPECT_THAT(lineage, HasSubstr("created_unix_us"));
}

TEST_F(EncoderPublisherTest, APassageHalfKeepsTheQueryWeightsAndBothAreOneTower) {
  Start();
  const std::string weights = Weights(2);
  const auto passage = Publish(weights, EncoderHalves::kPassage);
  ASSERT_TRUE(passage.ok()) << passage.status();
  EXPECT_EQ(Vector(*passage->encoder, TextRole::kPassage), VectorOf(2, TextRole::kPassage));
  EXPECT_EQ(Vector(*passage->encoder, TextRole::kQuery), Vector(*Default(), TextRole::kQuery));
  const Fingerprint alone = (*LoadEncoder(fs_, JoinPath(directory_, "weights-2"), {}))->spec().fingerprint;
  EXPECT_EQ(passage->encoder->spec().fingerprint.passage, alone.passage);
  EXPECT_NE(passage->encoder->spec().fingerprint.query, alone.query);
  EXPECT_THAT(FilesOf(passage->encoder->spec().fingerprint), ::testing::Contains(kQueryWeightsFile));

  const auto both = Publish(weights, EncoderHalves::kBoth);
  ASSERT_TRUE(both.ok()) << both.status();
  EXPECT_EQ(both->encoder->spec().fingerprint, alone);
  EXPECT_THAT(FilesOf(alone), Not(::testing::Contains(kQueryWeightsFile)));
  EXPECT_EQ(Folders().size(), 3u);
}

TEST_F(EncoderPublisherTest, HalvesThatComeToTheSameWeightsAreOneTower) {
  Start();
  const std::string weights = Weights(2);
  const Fingerprint alone = (*LoadEncoder(fs_, JoinPath(directory_, "weights-2"), {}))->spec().fingerprint;
  const auto query = Publish(weights, EncoderHalves::kQuery);
  ASSERT_TRUE(query.ok()) << query.status();
  const auto then_passage = Publish(weights, EncoderHalves::kPassage, query->encoder);
  ASSERT_TRUE(then_passage.ok()) << then_passage.status();
  EXPECT_EQ(then_passage->encoder->spec().fingerprint, alone);
  EXPECT_THAT(FilesOf(alone), Not(::testing::Contains(kQueryWeightsFile)));
  // A query half on an encoder of two towers has its passages' vectors; the parent's own weights are the parent.
  const auto further = Publish(Weights(3), EncoderHalves::kQuery, query->encoder);
  ASSERT_TRUE(further.ok()) << further.status();
  EXPECT_EQ(further->encoder->spec().fingerprint.passage, Default()->spec().fingerprint.passage);
  EXPECT_EQ(Vector(*further->encoder, TextRole::kPassage), Vector(*Default(), TextRole::kPassage));
  EXPECT_EQ(Vector(*further->encoder, TextRole::kQuery), VectorOf(3, TextRole::kQuery));
  const auto back = Publish(*fs_.ReadFile(JoinPath(CheckpointDirectory(1), kWeightsFile)), EncoderHalves::kQuery, further->encoder);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_TRUE(back->was_there);
  EXPECT_EQ(back->encoder, Default());
}

TEST_F(EncoderPublisherTest, TheSameWeightsAgainAreTheSameEncoder) {
  Start();
  const std::string weights = Weights(2);
  const auto first = Publish(weights, EncoderHalves::kQuery);
  ASSERT_TRUE(first.ok()) << first.status();
  const std::vector<std::string> folders = Folders();
  const auto again = Publish(weights, EncoderHalves::kQuery);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->was_there);
  EXPECT_EQ(again->encoder, first->encoder);
  EXPECT_EQ(Folders(), folders);
  Stop();
  Start();
  EXPECT_TRUE(Publish(weights, EncoderHalves::kQuery)->was_there);
}

TEST_F(EncoderPublisherTest, TakesWhatTransformersWrites) {
  Start();
  Tensors tensors = Parse(Weights(2));
  Tensors prefixed;
  for (auto& [name, tensor] : tensors) prefixed["bert." + name] = tensor;
  prefixed["bert.pooler.dense.weight"] = {"F32", {1}, std::string(4, '\0')};
  prefixed["bert.embeddings.position_ids"] = {"I64", {1}, std::string(8, '\0')};
  EXPECT_TRUE(Publish(BuildSafetensors(prefixed), EncoderHalves::kQuery).ok());
  for (const char* dtype : {"F16", "BF16"}) {
    const auto half = Publish(Weights(4, {.dtype = dtype}), EncoderHalves::kQuery);
    ASSERT_TRUE(half.ok()) << half.status();
    EXPECT_EQ(Vector(*half->encoder, TextRole::kQuery), VectorOf(4, TextRole::kQuery)) << dtype;
  }
}

TEST_F(EncoderPublisherTest, RefusesWeightsThatAreNoneOfTheEncoder) {
  Start();
  const Tensors good = Parse(Weights(2));
  const std::string name = "encoder.layer.1.output.dense.weight";
  const struct {
    const char* what;
    std::function<void(Tensors*)> spoil;
    std::string says;
  } kCases[] = {
      {"missing", [&](Tensors* t) { t->erase(name); }, name},
      {"extra", [&](Tensors* t) { (*t)["query.head"] = {"F32", {1}, std::string(4, '\0')}; }, "tensor \"query.head\" is none of its parent's"},
      {"a slash", [&](Tensors* t) { (*t)["query/head"] = {"F32", {1}, std::string(4, '\0')}; }, "tensor \"query/head\" is none of its parent's"},
      {"twice", [&](Tensors* t) { (*t)["bert." + name] = t->at(name); }, "are one"},
      {"shape", [&](Tensors* t) { std::swap(t->at(name).shape[0], t->at(name).shape[1]); }, name},
      {"type", [&](Tensors* t) { t->at(name).dtype = "I32"; }, name},
      {"infinite",
       [&](Tensors* t) {
         const float infinity = std::numeric_limits<float>::infinity();
         std::memcpy(t->at(name).data.data(), &infinity, sizeof(infinity));
       },
       "not finite"},
      {"another architecture", [&](Tensors* t) { *t = Parse(Weights(5, {.hidden_size = 16})); }, "embeddings.word_embeddings.weight"},
      {"nothing", [&](Tensors* t) { t->clear(); }, "embeddings.word_embeddings.weight"},
  };
  const std::vector<std::string> folders = Folders();
  int number = 0;
  for (const auto& c : kCases) {
    constexpr EncoderHalves kHalves[] = {EncoderHalves::kQuery, EncoderHalves::kPassage, EncoderHalves::kBoth};
    const EncoderHalves halves = kHalves[number++ % 3];
    SCOPED_TRACE(absl::StrCat(c.what, " ", static_cast<int>(halves)));
    Tensors tensors = good;
    c.spoil(&tensors);
    const absl::Status status = Publish(BuildSafetensors(tensors), halves).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(ReasonOf(status), "ENCODER_INVALID");
    EXPECT_EQ(GetErrorReason(status)->metadata.at("field"), "weights");
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.says));
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr(directory_)));
    EXPECT_EQ(Folders(), folders);
  }
  for (const std::string& bytes : {std::string("no safetensors at all"), std::string(1, '\0'), BuildSafetensors(good).substr(0, 5'000)}) {
    EXPECT_EQ(ReasonOf(Publish(bytes, EncoderHalves::kQuery).status()), "ENCODER_INVALID") << bytes.size();
  }
  EXPECT_EQ(Folders(), folders);
}

TEST_F(EncoderPublisherTest, RefusesAnotherSizeOrSum) {
  Start();
  const std::string weights = Weights(2);
  const std::vector<std::string> folders = Folders();
  const auto refused = [&](const std::string& sent, EncoderPublication publication, const std::string& field) {
    const absl::Status status = Send(sent, std::move(publication)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(ReasonOf(status), "WEIGHTS_MISMATCH");
    EXPECT_EQ(GetErrorReason(status)->metadata.at("field"), field);
    EXPECT_EQ(Folders(), folders);
  };
  const EncoderPublication good = Publication(weights, EncoderHalves::kQuery, Default());
  refused(weights.substr(0, weights.size() - 1), good, "header.size_bytes");
  refused("", good, "header.size_bytes");
  refused(weights + "x", good, "header.size_bytes");
  std::string flipped = weights;
  flipped[flipped.size() / 2] ^= 1;
  refused(flipped, good, "header.sha256");
}

TEST_F(EncoderPublisherTest, NeedsRoomAndAWholeParent) {
  Start();
  const std::string weights = Weights(2);
  const auto full = EncoderPublisher::Start(*registry_, fs_, Publication(weights, EncoderHalves::kQuery, Default()), [](const std::string&) { return 1'000'000; });
  EXPECT_EQ(ReasonOf(full.status()), "DISK") << full.status();
  EncoderPublication huge = Publication(weights, EncoderHalves::kQuery, Default());
  huge.size_bytes = int64_t{1} << 50;
  EXPECT_EQ(ReasonOf(EncoderPublisher::Start(*registry_, fs_, huge).status()), "MEMORY");
  // The parent's files rot while it serves.
  const std::vector<std::string> folders = Folders();
  std::string model = *fs_.ReadFile(JoinPath(CheckpointDirectory(1), kWeightsFile));
  model.back() ^= 1;
  const std::string parent_weights = JoinPath(registry_->Directory(Default()->spec().fingerprint), kWeightsFile);
  ASSERT_TRUE(WriteFileAtomically(fs_, parent_weights, model).ok());
  const auto told = [&](EncoderHalves halves) {
    SCOPED_TRACE(static_cast<int>(halves));
    const absl::Status damaged = Publish(weights, halves).status();
    EXPECT_EQ(damaged.code(), absl::StatusCode::kDataLoss) << damaged;
    EXPECT_EQ(ReasonOf(damaged), "ENCODER_DAMAGED");
    EXPECT_THAT(std::string(damaged.message()), Not(HasSubstr(directory_)));
    EXPECT_EQ(Folders(), folders);
  };
  told(EncoderHalves::kQuery);
  told(EncoderHalves::kPassage);
  // Its header.
  std::string header = model, renamed = model;
  header[0] ^= 1;
  renamed[renamed.find("encoder.layer.0")] = 'f';
  for (const std::string& content : {header, std::string("{"), std::string(), renamed}) {
    ASSERT_TRUE(WriteFileAtomically(fs_, parent_weights, content).ok());
    for (const EncoderHalves halves : {EncoderHalves::kQuery, EncoderHalves::kPassage, EncoderHalves::kBoth}) told(halves);
  }
  ASSERT_TRUE(fs_.DeleteFile(parent_weights).ok());
  for (const EncoderHalves halves : {EncoderHalves::kQuery, EncoderHalves::kPassage, EncoderHalves::kBoth}) told(halves);
}

// The queries' weights are loaded again beside new ones for passages, the passages' are the parent's.
TEST_F(EncoderPublisherTest, NeedsRoomForEachTowerThatIsLoaded) {
  Start();
  const std::string weights = Weights(2);
  SmallMemory small(3 * static_cast<int64_t>(weights.size()));  // A tower takes twice its weights.
  for (const EncoderHalves halves : {EncoderHalves::kQuery, EncoderHalves::kPassage, EncoderHalves::kBoth}) {
    const absl::Status status = EncoderPublisher::Start(*registry_, small, Publication(weights, halves, Default())).status();
    EXPECT_EQ(ReasonOf(status), halves == EncoderHalves::kPassage ? "MEMORY" : "") << status;
  }
}

TEST_F(EncoderPublisherTest, ADamagedTowerIsToldAndReplacedWhenItComesAgain) {
  Start();
  const std::string weights = Weights(2);
  const Fingerprint fingerprint = Publish(weights, EncoderHalves::kQuery)->encoder->spec().fingerprint;
  Stop();
  Start();
  for (const char* file : {kQueryWeightsFile, kWeightsFile}) {
    const std::string path = JoinPath(registry_->Directory(fingerprint), file);
    std::string content = *fs_.ReadFile(path);
    content.back() ^= 1;
    ASSERT_TRUE(WriteFileAtomically(fs_, path, content).ok());
    Stop();
    Start();
    const absl::Status status = registry_->Get(fingerprint.ToString()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << file << status;
    const auto again = Publish(weights, EncoderHalves::kQuery);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_FALSE(again->was_there);
    Stop();
    Start();
    EXPECT_TRUE(registry_->Get(fingerprint.ToString()).ok()) << file;
  }
}

// Vectors are asked by the encoder that they were made beside; a published query half is nobody's choice but the store's that it went to.
TEST_F(EncoderPublisherTest, OthersOfTheHalfKeepTheEncoderThatWasImported) {
  Start(/*import_encoder=*/false);
  const std::shared_ptr<TextEncoder> imported = *registry_->Import(CheckpointDirectory(1), /*make_default=*/false);
  const Fingerprint fingerprint = imported->spec().fingerprint;
  std::vector<std::shared_ptr<TextEncoder>> published;
  for (int seed = 2; seed < 6; ++seed) {  // Some of them sort before the parent.
    published.push_back(Publish(Weights(seed), EncoderHalves::kQuery, imported)->encoder);
    EXPECT_EQ(*registry_->ForPassageHalf(fingerprint.passage), imported);
    EXPECT_EQ(*registry_->ForVectors(published.back()->spec().fingerprint), published.back());
  }
  EXPECT_EQ(*registry_->ForVectors({"0123456789abcdef", fingerprint.passage}), imported);
  EXPECT_EQ(*registry_->ForVectors(fingerprint), imported);
  // Another query prefix: the passage half is the same, and who makes it the default means it.
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, CheckpointDirectory(8), {.query_prefix = "ask: ", .seed = 1}).ok());
  const std::shared_ptr<TextEncoder> prefixed = *registry_->Import(CheckpointDirectory(8));
  ASSERT_EQ(prefixed->spec().fingerprint.passage, fingerprint.passage);
  EXPECT_EQ(*registry_->ForVectors(fingerprint), prefixed);
  EXPECT_EQ(*registry_->ForPassageHalf(fingerprint.passage), prefixed);
  EXPECT_EQ(*registry_->ForVectors(published[0]->spec().fingerprint), published[0]);
  EXPECT_EQ(registry_->ForVectors({fingerprint.query, "0123456789abcdef"}).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(EncoderPublisherTest, OldOnesThatNothingUsesAreDeleted) {
  Start();
  std::vector<std::string> names;
  std::shared_ptr<TextEncoder> held;
  for (int seed = 2; seed < 7; ++seed) {
    const auto published = Publish(Weights(seed), EncoderHalves::kQuery);
    ASSERT_TRUE(published.ok()) << published.status();
    names.push_back(published->encoder->spec().fingerprint.ToString());
    if (seed == 4) held = published->encoder;
  }
  EXPECT_EQ(*registry_->DeletePublished(5, {}), 0);
  EXPECT_EQ(*registry_->DeletePublished(1, {names[1]}), 2) << "the first and the fourth";
  const auto left = [&] {
    std::vector<bool> there;
    for (const std::string& name : names) there.push_back(registry_->Get(name).ok());
    return there;
  };
  EXPECT_THAT(left(), ElementsAre(false, true, true, false, true));
  EXPECT_TRUE(registry_->Get("").ok()) << "that was imported";
  held.reset();
  EXPECT_EQ(*registry_->DeletePublished(0, {names[1]}), 2);
  EXPECT_THAT(left(), ElementsAre(false, true, false, false, false));
  EXPECT_EQ(Folders().size(), 2u);
  EXPECT_FALSE(Publish(Weights(2), EncoderHalves::kQuery)->was_there) << "it comes again";
}

TEST_F(EncoderPublisherTest, WhatIsPublishedAgainIsNew) {
  Start();
  std::vector<std::string> names;
  for (int seed = 2; seed < 5; ++seed) names.push_back(Publish(Weights(seed), EncoderHalves::kQuery)->encoder->spec().fingerprint.ToString());
  EXPECT_TRUE(Publish(Weights(2), EncoderHalves::kQuery)->was_there) << "not loaded any more";
  {
    const std::shared_ptr<TextEncoder> held = *registry_->Get(names[1]);
    EXPECT_TRUE(Publish(Weights(3), EncoderHalves::kQuery)->was_there) << "loaded";
  }
  // What a deletion that failed has left does not end all others.
  const std::string third = absl::StrReplaceAll(names[2], {{":", "-"}});
  ASSERT_TRUE(fs_.CreateDirectories(JoinPath(DataDirectory(), absl::StrCat("encoders/.importing-deleted-", third, "/x"))).ok());
  EXPECT_EQ(*registry_->DeletePublished(0, {Default()->spec().fingerprint.passage}), 0) << "whichever is of that half";
  ASSERT_TRUE(registry_->Get(names[1]).ok());
  const auto deleted = registry_->DeletePublished(2, {});
  ASSERT_TRUE(deleted.ok()) << deleted.status();
  EXPECT_EQ(*deleted, 1);
  EXPECT_TRUE(registry_->Get(names[0]).ok());
  EXPECT_TRUE(registry_->Get(names[1]).ok());
  EXPECT_EQ(registry_->Get(names[2]).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(EncoderPublisherTest, AHalfNamesTheImportedOneElseTheOnlyOne) {
  Start(/*import_encoder=*/false);
  const std::shared_ptr<TextEncoder> imported = *registry_->Import(CheckpointDirectory(1), /*make_default=*/false);
  const std::shared_ptr<TextEncoder> passage = Publish(Weights(2), EncoderHalves::kPassage, imported)->encoder;
  const std::string half = passage->spec().fingerprint.passage;
  EXPECT_EQ(*registry_->Get(half), passage);
  std::vector<std::string> queries;
  for (int seed = 3; seed < 6; ++seed) {
    EXPECT_TRUE(Publish(Weights(seed), EncoderHalves::kQuery, imported).ok());
    queries.push_back(Publish(Weights(seed), EncoderHalves::kQuery, passage)->encoder->spec().fingerprint.query);
  }
  for (const bool loaded : {true, false}) {
    SCOPED_TRACE(loaded);
    if (!loaded) {
      Stop();
      Start(/*import_encoder=*/false);
    }
    EXPECT_EQ((*registry_->Get(imported->spec().fingerprint.passage))->spec().fingerprint, imported->spec().fingerprint);
    const absl::Status status = registry_->Get(half).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(ReasonOf(status), "ENCODER_AMBIGUOUS");
    EXPECT_EQ((*registry_->ForPassageHalf(half))->spec().fingerprint.passage, half) << "any of them made these vectors";
    for (const std::string& query : queries) EXPECT_EQ((*registry_->Get(query))->spec().fingerprint, (Fingerprint{query, half}));
  }
}

// Before every sync of a publication, and at its end.
TEST_F(EncoderPublisherTest, APowerCutLeavesAllOfAnEncoderOrNothing) {
  const std::string weights = Weights(2);
  const std::string root = JoinPath(directory_, "disk"), empty = JoinPath(directory_, "empty"), left = JoinPath(directory_, "left");
  ASSERT_TRUE(fs_.CreateDirectories(root).ok() && fs_.CreateDirectories(empty).ok());
  RecordingDisk disk(root);
  std::string fingerprint;
  {
    auto registry = EncoderRegistry::Open({.directory = JoinPath(root, "encoders"), .fs = &disk});
    ASSERT_TRUE(registry.ok()) << registry.status();
    const auto parent = (*registry)->Import(CheckpointDirectory(1));
    ASSERT_TRUE(parent.ok()) << parent.status();
    disk.Mark(1);
    auto publisher = EncoderPublisher::Start(**registry, disk, Publication(weights, EncoderHalves::kQuery, *parent));
    ASSERT_TRUE(publisher.ok()) << publisher.status();
    ASSERT_TRUE((*publisher)->Add(weights).ok());
    const auto published = (*publisher)->Finish();
    ASSERT_TRUE(published.ok()) << published.status();
    fingerprint = published->encoder->spec().fingerprint.ToString();
    disk.Mark(2);
  }
  const std::vector<DiskOperation> operations = disk.operations();
  DiskModel model(empty);
  std::mt19937 random(1);
  bool begun = false, done = false;
  int cuts = 0, found = 0;
  for (size_t i = 0; i <= operations.size(); ++i) {
    if (begun && (i == operations.size() || operations[i].is_sync() || operations[i].kind == DiskOperation::Kind::kRename)) {
      for (const DiskModel::Survival survival : {DiskModel::Survival::kOnlySynced, DiskModel::Survival::kAny, DiskModel::Survival::kAll}) {
        SCOPED_TRACE(absl::StrCat("operation ", i, ", survival ", static_cast<int>(survival)));
        WriteImage(model.Image(survival, &random), left);
        auto registry = EncoderRegistry::Open({.directory = JoinPath(left, "encoders")});
        ASSERT_TRUE(registry.ok()) << registry.status();
        const auto encoder = (*registry)->Get(fingerprint);
        if (encoder.ok()) {
          EXPECT_EQ(Vector(**encoder, TextRole::kQuery), VectorOf(2, TextRole::kQuery));
          ++found;
        } else {
          EXPECT_EQ(encoder.status().code(), absl::StatusCode::kNotFound) << encoder.status();
          EXPECT_FALSE(done);
        }
        const std::vector<std::string> folders = *fs_.List(JoinPath(left, "encoders"));
        for (const std::string& name : folders) EXPECT_THAT(name, Not(::testing::StartsWith(".")));
        ++cuts;
      }
    }
    if (i == operations.size()) break;
    if (operations[i].kind == DiskOperation::Kind::kMark) (operations[i].offset == 1 ? begun : done) = true;
    model.Play(operations[i]);
  }
  EXPECT_TRUE(done);
  EXPECT_GT(cuts, 30);
  EXPECT_GT(found, 2);
  EXPECT_LT(found, cuts);
}

}  // namespace
}  // namespace loci
