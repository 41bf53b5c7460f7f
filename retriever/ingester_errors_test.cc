// What an ingest refuses, and what programs read of it.
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "retriever/ingester.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::HasSubstr;

class IngesterErrors : public RetrieverFixture {
 protected:
  IngesterErrors() { Start(); }
  // The error of an ingest of one batch.
  absl::Status Run(IngestOptions options, std::vector<loci::v1::Passage> passages, const std::vector<float>& vectors = {}, int64_t dim = 0) {
    options.store = "s";
    absl::StatusOr<std::unique_ptr<Ingester>> ingester = Ingester::Start(*manager_, std::move(options));
    if (!ingester.ok()) return ingester.status();
    if (const absl::Status added = (*ingester)->Add(std::move(passages), vectors, dim); !added.ok()) return added;
    return (*ingester)->Finish().status();
  }
  std::string passage_half() { return (*registry_->Get(""))->spec().fingerprint.passage; }
};

TEST_F(IngesterErrors, EveryInvalidArgumentNamesItsField) {
  using Passages = std::vector<loci::v1::Passage>;
  const loci::v1::Passage good = MakePassage("p", "text");
  loci::v1::Passage heavy = good;
  (*heavy.mutable_metadata())["notes"].set_string_value(std::string(5'000, 'x'));
  const std::vector<float> vector(kDim, 0.5f), nan(kDim, std::numeric_limits<float>::quiet_NaN()), huge(kDim, 1e5f);
  const IngestOptions fail{.bad_lines = LinePolicy::kFail};
  IngestOptions with_vectors = fail, rounded = fail;
  with_vectors.encoder_fingerprint = rounded.encoder_fingerprint = passage_half();
  rounded.element_type = ElementType::kFloat16;
  IngestOptions chunked = fail;
  chunked.chunking = ChunkingOptions{};
  const struct {
    std::string field;
    std::function<absl::Status()> refuse;
  } cases[] = {
      {"header.chunking.max_tokens", [&] { return Run({.chunking = ChunkingOptions{.max_tokens = 15}}, {good}); }},
      {"header.chunking.overlap_tokens", [&] { return Run({.chunking = ChunkingOptions{.max_tokens = 16, .overlap_tokens = 9}}, {good}); }},
      {"index.factory", [&] { return Run({.index = "nonsense"}, {good}); }},
      {"header.encoder_fingerprint", [&] { return Run({}, {good}, vector, kDim); }},
      {"batch.vectors", [&] { return Run(with_vectors, {good}, vector, kDim / 2); }},
      {"batch.vectors", [&] { return Run(with_vectors, {good, good}, vector, kDim); }},
      {"batch.vectors", [&] {
         IngestOptions both = with_vectors;
         both.chunking = ChunkingOptions{};
         return Run(both, {good}, vector, kDim);
       }},
      {"vector", [&] { return Run(with_vectors, {good}, nan, kDim); }},
      {"vector", [&] { return Run(rounded, {good}, huge, kDim); }},
      {"id", [&] { return Run(fail, {MakePassage("", "text")}); }},
      {"text", [&] { return Run(fail, {MakePassage("p", "")}); }},
      {"text", [&] { return Run(chunked, {MakePassage("p", " \n ")}); }},
      {"metadata", [&] { return Run(chunked, {heavy}); }},
      {"id", [&] { return Run({.duplicates = LinePolicy::kFail}, {good, good}); }},
      {"batch.passages", [&] { return Run({}, Passages()); }},
  };
  for (const auto& test : cases) {
    const absl::Status status = test.refuse();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << test.field << ": " << status;
    const std::optional<ErrorReason> reason = GetErrorReason(status);
    ASSERT_TRUE(reason.has_value() && reason->metadata.contains("field")) << test.field << ": " << status;
    EXPECT_EQ(reason->metadata.at("field"), test.field) << status;
  }
  const absl::Status alone = Run({.bad_lines = LinePolicy::kFail}, {heavy});  // Limits of its own: those of `fail` are cancelled.
  EXPECT_TRUE(alone.ok()) << "a passage of its own is repeated nowhere: " << alone;
}

TEST_F(IngesterErrors, MetadataThatEachPassageRepeatsHasALimitOfItsOwn) {
  loci::v1::Passage section = MakePassage("d", "text");
  (*section.mutable_metadata())["notes"].set_string_value(std::string(5'000, 'x'));
  const absl::StatusOr<IngestResult> result = Ingest("s", {section, MakePassage("e", "text")}, {.chunking = ChunkingOptions{}});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->rejected_count, 1);
  EXPECT_THAT(result->errors.at(0).message, HasSubstr("bytes, the limit of a document's is 4096"));
  (*section.mutable_metadata())["notes"].set_string_value(std::string(4'000, 'x'));
  EXPECT_EQ(Ingest("t", {section}, {.chunking = ChunkingOptions{}})->rejected_count, 0);
}

TEST_F(IngesterErrors, UpsertsOfAnotherEncoderThanTheActiveOneAreRefused) {
  ASSERT_TRUE(Ingest("s", {MakePassage("p", "text")}).ok());
  const std::string active = passage_half();
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, CheckpointDirectory(2), {.seed = 2}).ok());
  const auto other = registry_->Import(CheckpointDirectory(2));
  ASSERT_TRUE(other.ok()) << other.status();
  const std::string half = (*other)->spec().fingerprint.passage;
  for (const bool bring_vectors : {false, true}) {
    const absl::Status status = Run({.mode = IngestMode::kUpsert, .encoder_fingerprint = half}, {MakePassage("q", "text")},
                                    std::vector<float>(bring_vectors ? kDim : 0, 0.1f), bring_vectors ? kDim : 0);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(half), HasSubstr(active)));
    EXPECT_EQ(GetErrorReason(status)->reason, "ENCODER_MISMATCH");
  }
  EXPECT_TRUE(Run({.mode = IngestMode::kUpsert, .encoder_fingerprint = active}, {MakePassage("q", "text")}).ok());
  // A store that has no generation yet takes any.
  EXPECT_TRUE(Ingest("new", {MakePassage("q", "text")}, {.mode = IngestMode::kUpsert, .encoder_fingerprint = half}).ok());
}

}  // namespace
}  // namespace loci
