// Checkpoints that come file by file, and what is wrong with them on purpose.
#include "retriever/encoder_importer.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "retriever/testing/retriever_fixture.h"
#include "retriever/testing/small_memory.h"

namespace loci {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class EncoderImporterTest : public RetrieverFixture {
 protected:
  // The files of a checkpoint.
  std::map<std::string, std::string> Files(uint64_t seed = 2) {
    const std::string directory = CheckpointDirectory(static_cast<int>(seed));
    EXPECT_TRUE(WriteTinyCheckpoint(fs_, directory, {.seed = seed}).ok());
    std::map<std::string, std::string> files;
    for (const std::string path : {"config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json", "modules.json", "1_Pooling/config.json"}) {
      files[path] = *fs_.ReadFile(JoinPath(directory, path));
    }
    return files;
  }
  absl::StatusOr<ImportedEncoder> Send(const std::map<std::string, std::string>& files, const std::string& name = "other", size_t piece = 1'000,
                                       FileSystem& fs = PosixFileSystem()) {
    auto importer = EncoderImporter::Start(*registry_, fs, name);
    if (!importer.ok()) return importer.status();
    for (const auto& [path, content] : files) {
      for (size_t at = 0; at == 0 || at < content.size(); at += piece) {
        if (absl::Status added = (*importer)->Add(path, std::string_view(content).substr(at, piece)); !added.ok()) return added;
      }
    }
    return (*importer)->Finish();
  }
  std::vector<std::string> Folders() { return *fs_.List(JoinPath(DataDirectory(), "encoders")); }
  static std::string ReasonOf(const absl::Status& status) {
    const auto reason = GetErrorReason(status);
    return reason.has_value() ? reason->reason : "";
  }
};

TEST_F(EncoderImporterTest, WhatComesIsTheEncoderThatWasSent) {
  Start();
  const auto imported = Send(Files());
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_FALSE(imported->was_there);
  const auto local = LoadEncoder(fs_, CheckpointDirectory(2), {});
  EXPECT_EQ(imported->encoder->spec().fingerprint.ToString(), (*local)->spec().fingerprint.ToString());
  EXPECT_EQ(imported->encoder->spec().model_name, "other");
  EXPECT_NE(*registry_->Get(""), imported->encoder) << "the default stays";
  EXPECT_EQ(*registry_->Get("other"), imported->encoder);
  const std::vector<std::string> folders = Folders();
  EXPECT_EQ(folders.size(), 2u);
  // One of the default's name does not make that ambiguous.
  const auto namesake = Send(Files(9), "checkpoint-1");
  ASSERT_TRUE(namesake.ok()) << namesake.status();
  EXPECT_EQ(namesake->encoder->spec().model_name, "checkpoint-1-" + namesake->encoder->spec().fingerprint.passage.substr(0, 8));
  EXPECT_EQ(*registry_->Get("checkpoint-1"), *registry_->Get(""));
  ASSERT_TRUE(fs_.DeleteRecursively(JoinPath(DataDirectory(), "encoders/" + namesake->encoder->spec().fingerprint.query + "-" +
                                                                  namesake->encoder->spec().fingerprint.passage)).ok());
  // Again, and over a restart.
  const auto again = Send(Files(), "by another name", 7);
  EXPECT_EQ(again.status().code(), absl::StatusCode::kInvalidArgument) << "blanks";
  const auto twice = Send(Files(), "another-name", 7);
  ASSERT_TRUE(twice.ok()) << twice.status();
  EXPECT_TRUE(twice->was_there);
  EXPECT_EQ(twice->encoder, imported->encoder);
  EXPECT_EQ(Folders(), folders);
  const auto before = imported->encoder->EncodeAndWait({"some text"}, {})->vectors;
  const std::string fingerprint = imported->encoder->spec().fingerprint.ToString();
  Stop();
  Start();
  const auto loaded = registry_->Get(fingerprint);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)->spec().model_name, "other");
  EXPECT_EQ((*loaded)->EncodeAndWait({"some text"}, {})->vectors, before);
  EXPECT_TRUE(Send(Files())->was_there);
}

TEST_F(EncoderImporterTest, WhatIsNoEncoderIsRefusedAndLeavesNothing) {
  Start();
  const std::vector<std::string> folders = Folders();
  const std::map<std::string, std::string> whole = Files();
  std::map<std::string, std::map<std::string, std::string>> wrong;
  wrong["nothing"] = {};
  for (const std::string missing : {"config.json", "model.safetensors", "vocab.txt"}) {
    auto files = whole;
    files.erase(missing);
    wrong[absl::StrCat("no ", missing)] = files;
  }
  for (const auto& [path, content] : whole) {
    auto files = whole;
    files[path] = content.substr(0, content.size() / 2);
    if (path != "vocab.txt" && path != "tokenizer_config.json") wrong[absl::StrCat("half of ", path)] = files;
    files[path] = std::string(200, '[');
    if (path != "vocab.txt") wrong[absl::StrCat("brackets as ", path)] = files;
  }
  auto files = whole;
  files["model.safetensors"] = std::string(8, '\xff') + "{}";
  wrong["a header of 2^64 bytes"] = files;
  for (const std::string key : {"\"hidden_size\"", "\"vocab_size\""}) {
    files = whole;
    std::string& config = files["config.json"];
    const size_t at = config.find(key), colon = config.find(':', at);
    ASSERT_NE(at, std::string::npos);
    config.replace(colon + 1, config.find_first_of(",}", colon) - colon - 1, " 2000000000");
    wrong[absl::StrCat("a large ", key)] = files;
  }
  for (const auto& [what, sent] : wrong) {
    const absl::Status status = Send(sent).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << what << ": " << status;
    EXPECT_EQ(ReasonOf(status), "ENCODER_INVALID") << what;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr(DataDirectory()))) << what;
    EXPECT_EQ(Folders(), folders) << what;
  }
  EXPECT_TRUE(Send(whole).ok());
}

TEST_F(EncoderImporterTest, PathsAndSizesAreLimited) {
  Start();
  const std::vector<std::string> folders = Folders();
  for (const std::string path : {"", "..", "../config.json", "/etc/passwd", "1_Pooling/../config.json", "LINEAGE", "pytorch_model.bin", "config.json/", "1_Pooling"}) {
    const auto importer = EncoderImporter::Start(*registry_, fs_, "x");
    ASSERT_TRUE(importer.ok());
    const absl::Status status = (*importer)->Add(path, "{}");
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << path;
    EXPECT_EQ(GetErrorReason(status)->metadata.at("field"), "piece.path");
  }
  for (const std::string name : {"", ".", ".importing-x", "a/b", "a b", "\xc3\xa4"}) {
    EXPECT_EQ(EncoderImporter::Start(*registry_, fs_, name).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
  EXPECT_TRUE(EncoderImporter::Start(*registry_, fs_, std::string(64, 'a')).ok());
  EXPECT_FALSE(EncoderImporter::Start(*registry_, fs_, std::string(65, 'a')).ok());
  {
    const auto importer = EncoderImporter::Start(*registry_, fs_, "x");
    ASSERT_TRUE((*importer)->Add("config.json", "{").ok());
    ASSERT_TRUE((*importer)->Add("config.json", "}").ok());
    ASSERT_TRUE((*importer)->Add("vocab.txt", "a").ok());
    EXPECT_EQ(ReasonOf((*importer)->Add("config.json", "{}")), "INVALID_ARGUMENT") << "it came before";
  }
  const auto importer = EncoderImporter::Start(*registry_, fs_, "x");
  const std::string piece(static_cast<size_t>(EncoderImporter::kMaxConfigBytes), ' ');
  ASSERT_TRUE((*importer)->Add("modules.json", piece).ok());
  const absl::Status status = (*importer)->Add("modules.json", " ");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "ENCODER_TOO_LARGE");
  EXPECT_EQ(GetErrorReason(status)->metadata.at("path"), "modules.json");
}

TEST_F(EncoderImporterTest, LeavesTheStoresRoomOnDisk) {
  Start();
  const std::vector<std::string> folders = Folders();
  const std::string piece(1 << 20, 'x');
  constexpr int64_t kRoom = 3 * EncoderImporter::kRoomBytes;
  int64_t taken = 0;
  int looks = 0;
  absl::Status status;
  {
    const auto importer = EncoderImporter::Start(*registry_, fs_, "x", [&](const std::string&) {
      ++looks;
      return kRoom - taken;
    });
    for (; status.ok() && taken < kRoom; taken += static_cast<int64_t>(piece.size())) status = (*importer)->Add("model.safetensors", piece);
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "DISK");
  EXPECT_LE(taken, 2 * EncoderImporter::kRoomBytes) << "so much stays";
  EXPECT_GT(taken, EncoderImporter::kRoomBytes / 2) << "while there is room it is taken";
  EXPECT_EQ(looks, 2) << "not at each piece";
  EXPECT_EQ(Folders(), folders);
}

TEST_F(EncoderImporterTest, TwoAtOnceAreInNobodysWayAndAStartRemovesWhatIsLeft) {
  Start();
  const auto first = EncoderImporter::Start(*registry_, fs_, "x"), second = EncoderImporter::Start(*registry_, fs_, "y");
  ASSERT_TRUE((*first)->Add("config.json", "{}").ok() && (*second)->Add("config.json", "{}").ok());
  EXPECT_EQ(Folders().size(), 3u);
  auto registry = EncoderRegistry::Open({.directory = JoinPath(DataDirectory(), "encoders")});  // As after a kill.
  ASSERT_TRUE(registry.ok());
  EXPECT_EQ(Folders().size(), 1u);
}

TEST_F(EncoderImporterTest, BothTowersNeedRoomTogether) {
  Start();
  std::map<std::string, std::string> files = Files();
  SmallMemory small(3 * static_cast<int64_t>(files["model.safetensors"].size()));  // A tower takes twice its weights.
  EXPECT_TRUE(Send(files, "other", 1'000, small).ok());
  files["query_model.safetensors"] = Files(3)["model.safetensors"];
  const absl::Status status = Send(files, "other", 1'000, small).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_EQ(ReasonOf(status), "MEMORY");
  EXPECT_TRUE(Send(files).ok());
}

}  // namespace
}  // namespace loci
