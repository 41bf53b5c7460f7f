#include "retriever/encoder_registry.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/error.h"
#include "encoder/towers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::HasSubstr;

class EncoderRegistryTest : public RetrieverFixture {
 protected:
  std::string EncodersDirectory() const { return JoinPath(DataDirectory(), "encoders"); }
  // A checkpoint as a client sends it: "checkpoint-<seed>".
  absl::StatusOr<ImportedEncoder> Send(int seed) {
    const std::string staging = registry_->MakeStagingDirectory().value();
    EXPECT_TRUE(WriteTinyCheckpoint(fs_, staging, {.seed = static_cast<uint64_t>(seed)}).ok());
    return registry_->Adopt(staging, absl::StrCat("checkpoint-", seed));
  }
  // A file of the registry's copy.
  void Damage(const std::string& fingerprint, const std::string& file, bool gone) {
    const std::string path = JoinPath(EncodersDirectory(), absl::StrCat(absl::StrReplaceAll(fingerprint, {{":", "-"}}), "/", file));
    ASSERT_TRUE(fs_.Exists(path)) << path;
    ASSERT_TRUE(gone ? fs_.DeleteFile(path).ok() : WriteFileAtomically(fs_, path, "{").ok());
  }
  // Of those loaded, sorted.
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& encoder : registry_->Loaded()) names.push_back(encoder->spec().model_name);
    std::sort(names.begin(), names.end());
    return names;
  }
};

TEST_F(EncoderRegistryTest, FindsAnEncoderByEitherHalfAndByDefault) {
  Start();
  const auto encoder = registry_->Get("");
  ASSERT_TRUE(encoder.ok());
  const Fingerprint fingerprint = (*encoder)->spec().fingerprint;
  for (const std::string& name : {fingerprint.ToString(), fingerprint.query, fingerprint.passage}) {
    const auto found = registry_->Get(name);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->get(), encoder->get());
  }
  ASSERT_TRUE(registry_->ForPassageHalf(fingerprint.passage).ok());
}

TEST_F(EncoderRegistryTest, NamesWhatItDoesNotHave) {
  Start();
  const absl::Status status = registry_->Get("0123456789abcdef").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("0123456789abcdef"));
  EXPECT_EQ(GetErrorReason(status)->reason, "ENCODER_NOT_FOUND");
  // A query half makes no passage vectors.
  const std::string query_half = (*registry_->Get(""))->spec().fingerprint.query;
  const absl::Status mismatch = registry_->ForPassageHalf(query_half).status();
  EXPECT_EQ(mismatch.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(GetErrorReason(mismatch)->reason, "ENCODER_MISMATCH");
}

TEST_F(EncoderRegistryTest, HasNoDefaultWithoutAModel) {
  Start(/*import_encoder=*/false);
  EXPECT_EQ(registry_->Get("").status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(registry_->Loaded().empty());
}

TEST_F(EncoderRegistryTest, LoadsWhatItImportedAfterARestartWithoutTheModel) {
  Start();
  const EncoderSpec spec = (*registry_->Get(""))->spec();
  Stop();
  ASSERT_TRUE(fs_.DeleteRecursively(CheckpointDirectory(1)).ok());
  Start(/*import_encoder=*/false);
  const auto again = registry_->Get(spec.fingerprint.ToString());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->spec().fingerprint, spec.fingerprint);
  EXPECT_EQ((*again)->spec().model_name, "checkpoint-1");
}

TEST_F(EncoderRegistryTest, TwoCheckpointsAreTwoVectorSpaces) {
  Start();
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, CheckpointDirectory(2), {.seed = 2}).ok());
  const std::string first = (*registry_->Get(""))->spec().fingerprint.ToString();
  const auto second = registry_->Import(CheckpointDirectory(2));
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_NE((*second)->spec().fingerprint.ToString(), first);
  EXPECT_EQ((*registry_->Get(""))->spec().fingerprint, (*second)->spec().fingerprint);
  EXPECT_TRUE(registry_->Get(first).ok());
  EXPECT_EQ(registry_->Loaded().size(), 2u);
}

TEST_F(EncoderRegistryTest, APassageTowerIsReadWithoutTheQueryTower) {
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, CheckpointDirectory(2), {.seed = 2}).ok());
  Start(/*import_encoder=*/false);
  const std::string weights = *fs_.ReadFile(JoinPath(CheckpointDirectory(2), kWeightsFile));
  ASSERT_TRUE(WriteFileAtomically(fs_, JoinPath(CheckpointDirectory(1), kQueryWeightsFile), weights).ok());
  const auto imported = registry_->Import(CheckpointDirectory(1));
  ASSERT_TRUE(imported.ok()) << imported.status();
  const Fingerprint fingerprint = (*imported)->spec().fingerprint;
  const auto whole = registry_->LoadPassageTower(fingerprint, Precision::kFloat32);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ((*whole)->spec().fingerprint.passage, fingerprint.passage);
  Damage(fingerprint.ToString(), kQueryWeightsFile, /*gone=*/false);
  const auto alone = registry_->LoadPassageTower(fingerprint, Precision::kInt8);
  ASSERT_TRUE(alone.ok()) << alone.status();
  EXPECT_EQ((*alone)->spec().element_type, "int8");
  Damage(fingerprint.ToString(), kWeightsFile, /*gone=*/false);
  EXPECT_EQ(GetErrorReason(registry_->LoadPassageTower(fingerprint, Precision::kFloat32).status())->reason, "ENCODER_DAMAGED");
  // Another's weights are not the ones that were asked for.
  const std::string path = JoinPath(registry_->Directory(fingerprint), kWeightsFile);
  ASSERT_TRUE(WriteFileAtomically(fs_, path, weights).ok());
  EXPECT_EQ(GetErrorReason(registry_->LoadPassageTower(fingerprint, Precision::kFloat32).status())->reason, "ENCODER_DAMAGED");
}

TEST_F(EncoderRegistryTest, AFurtherOneIsNamedByItsFolderAndLeavesTheDefault) {
  Start();
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, CheckpointDirectory(2), {.hidden_size = 16, .seed = 2}).ok());
  const std::shared_ptr<TextEncoder> second = *registry_->Import(CheckpointDirectory(2), /*make_default=*/false);
  EXPECT_EQ((*registry_->Get(""))->spec().model_name, "checkpoint-1");
  EXPECT_EQ(*registry_->Get("checkpoint-2"), second);
  EXPECT_EQ(*registry_->Get("checkpoint-1"), *registry_->Get(""));
  for (const char* name : {"checkpoint-3", "../checkpoint-2", "checkpoint", "CHECKPOINT-2", "."}) {
    EXPECT_EQ(registry_->Get(name).status().code(), absl::StatusCode::kNotFound) << name;
  }
  EXPECT_EQ(registry_->ForPassageHalf("checkpoint-2").status().code(), absl::StatusCode::kFailedPrecondition) << "a name is no half";
  // Another folder of the same name.
  const std::string other = JoinPath(directory_, "other/checkpoint-2");
  ASSERT_TRUE(fs_.CreateDirectories(JoinPath(directory_, "other")).ok());
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, other, {.seed = 3}).ok());
  const std::shared_ptr<TextEncoder> third = *registry_->Import(other, /*make_default=*/false);
  const absl::Status ambiguous = registry_->Get("checkpoint-2").status();
  EXPECT_EQ(ambiguous.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(GetErrorReason(ambiguous)->reason, "ENCODER_AMBIGUOUS");
  EXPECT_EQ(*registry_->Get(third->spec().fingerprint.ToString()), third);
  EXPECT_EQ(registry_->Loaded().size(), 3u);
}

TEST_F(EncoderRegistryTest, WhatNobodyUsesIsUnloadedWhenAnotherComes) {
  Start();
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, CheckpointDirectory(2), {.seed = 2}).ok());
  ASSERT_TRUE(registry_->Import(CheckpointDirectory(2), /*make_default=*/false).ok());
  std::shared_ptr<TextEncoder> held = Send(3).value().encoder;
  const std::string unused = Send(4).value().encoder->spec().fingerprint.ToString();
  EXPECT_EQ(registry_->Loaded().size(), 4u);
  const std::string last = Send(5).value().encoder->spec().fingerprint.ToString();
  EXPECT_EQ(Names(), (std::vector<std::string>{"checkpoint-1", "checkpoint-2", "checkpoint-3", "checkpoint-5"})) << "nobody held the fourth";
  EXPECT_EQ(*registry_->Get(held->spec().fingerprint.ToString()), held);
  // It is there again for who asks, and another goes.
  const auto again = registry_->Get(unused);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->spec().model_name, "checkpoint-4");
  EXPECT_EQ(Names(), (std::vector<std::string>{"checkpoint-1", "checkpoint-2", "checkpoint-3", "checkpoint-4"}));
  EXPECT_TRUE(registry_->Get(last).ok());
  EXPECT_TRUE((*again)->EncodeAndWait({"one"}, {}).ok()) << "who holds one may use it";
}

TEST_F(EncoderRegistryTest, ANameIsFoundAndTakenWhetherItsEncoderIsLoadedOrNot) {
  Start();
  const std::string fourth = Send(4).value().encoder->spec().fingerprint.ToString();
  Send(5).value();
  ASSERT_EQ(Names(), (std::vector<std::string>{"checkpoint-1", "checkpoint-5"}));
  EXPECT_EQ(registry_->ForPassageHalf("checkpoint-4").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Names().size(), 2u) << "a name is no half, and loads none";
  const auto named = registry_->Get("checkpoint-4");
  ASSERT_TRUE(named.ok()) << named.status();
  EXPECT_EQ((*named)->spec().fingerprint.ToString(), fourth);
  // One that comes by the name of one that is not loaded.
  const std::string staging = registry_->MakeStagingDirectory().value();
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, staging, {.seed = 6}).ok());
  const auto sixth = registry_->Adopt(staging, "checkpoint-5");
  ASSERT_TRUE(sixth.ok()) << sixth.status();
  EXPECT_EQ(sixth->encoder->spec().model_name, absl::StrCat("checkpoint-5-", sixth->encoder->spec().fingerprint.passage.substr(0, 8)));
  EXPECT_NE(*registry_->Get("checkpoint-5"), sixth->encoder);
  // Of two folders of one name neither is meant, loaded or not.
  ASSERT_TRUE(fs_.CreateDirectories(JoinPath(directory_, "other")).ok());
  for (const uint64_t seed : {7, 8}) {
    const std::string folder = JoinPath(directory_, absl::StrCat("other/", seed, "/twin"));
    ASSERT_TRUE(fs_.CreateDirectories(JoinPath(directory_, absl::StrCat("other/", seed))).ok());
    ASSERT_TRUE(WriteTinyCheckpoint(fs_, folder, {.seed = seed}).ok());
    ASSERT_TRUE(registry_->Import(folder, /*make_default=*/false).ok());
  }
  for (const bool loaded : {true, false}) {
    if (!loaded) {
      Stop();
      Start();
    }
    EXPECT_EQ(GetErrorReason(registry_->Get("twin").status())->reason, "ENCODER_AMBIGUOUS") << loaded;
  }
}

TEST_F(EncoderRegistryTest, ADamagedOneIsReplacedWhenItIsSentAgain) {
  for (const char* damaged : {"model.safetensors", "config.json", "LINEAGE"}) {
    for (const bool gone : {false, true}) {
      for (const bool loaded : {false, true}) {
        SCOPED_TRACE(absl::StrCat(damaged, gone ? " gone" : " wrong", loaded ? ", loaded" : ""));
        Start();
        const std::shared_ptr<TextEncoder> before = Send(2).value().encoder;
        const std::string fingerprint = before->spec().fingerprint.ToString();
        if (!loaded) Stop();
        Damage(fingerprint, damaged, gone);
        if (!loaded) {
          Start();
          const absl::Status status = registry_->Get(fingerprint).status();
          EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
          EXPECT_EQ(GetErrorReason(status)->reason, "ENCODER_DAMAGED");
        }
        const auto sent = Send(2);
        ASSERT_TRUE(sent.ok()) << sent.status();
        EXPECT_FALSE(sent->was_there);
        EXPECT_EQ(sent->encoder == before, loaded);
        Stop();
        Start();
        const auto again = registry_->Get(fingerprint);
        ASSERT_TRUE(again.ok()) << again.status();
        EXPECT_EQ((*again)->spec().model_name, "checkpoint-2");
        EXPECT_TRUE(Send(2)->was_there);
        Stop();
      }
    }
  }
}

// So that a start without the model finds it whole.
TEST_F(EncoderRegistryTest, ADamagedCopyIsReplacedByAStartWithTheModel) {
  Start();
  const std::string fingerprint = (*registry_->Get(""))->spec().fingerprint.ToString();
  for (const char* damaged : {"model.safetensors", "vocab.txt", "LINEAGE"}) {
    Stop();
    Damage(fingerprint, damaged, /*gone=*/false);
    Start();
    Stop();
    Start(/*import_encoder=*/false);
    EXPECT_TRUE(registry_->Get(fingerprint).ok()) << damaged << ": " << registry_->Get(fingerprint).status();
  }
}

TEST_F(EncoderRegistryTest, RemovesWhatAnInterruptedImportLeft) {
  Start();
  Stop();
  ASSERT_TRUE(fs_.CreateDirectories(JoinPath(EncodersDirectory(), ".importing-x")).ok());
  Start();
  EXPECT_FALSE(fs_.Exists(JoinPath(EncodersDirectory(), ".importing-x")));
}

TEST_F(EncoderRegistryTest, NoticesThatACopyIsNotWhatItsFolderSays) {
  Start();
  const std::string fingerprint = (*registry_->Get(""))->spec().fingerprint.ToString();
  Stop();
  const std::string folder = JoinPath(EncodersDirectory(), fs_.List(EncodersDirectory())->front());
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, CheckpointDirectory(2), {.seed = 2}).ok());
  ASSERT_TRUE(fs_.Rename(JoinPath(CheckpointDirectory(2), "model.safetensors"), JoinPath(folder, "model.safetensors")).ok());
  Start(/*import_encoder=*/false);
  EXPECT_EQ(registry_->Get(fingerprint).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace loci
