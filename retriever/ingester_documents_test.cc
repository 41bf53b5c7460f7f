// Ingests of documents, which are cut into passages.
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "retriever/document_chunker.h"
#include "retriever/ingester.h"
#include "retriever/passage_validation.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// "Cat cat ... ." of `count` tokens with its period, `sentence_count` times.
std::string Sentences(const std::string& word, int count, int sentence_count) {
  std::string sentence;
  for (int i = 1; i < count; ++i) absl::StrAppend(&sentence, i > 1 ? " " : "", word);
  sentence[0] = static_cast<char>(toupper(sentence[0]));
  std::string text;
  for (int i = 0; i < sentence_count; ++i) absl::StrAppend(&text, sentence, ". ");
  return text;
}

loci::v1::Passage Section(const std::string& document_id, const std::string& text, const std::string& title = "") {
  loci::v1::Passage section = MakePassage(absl::StrCat(document_id, "/section"), text, title);
  section.set_document_id(document_id);
  return section;
}

class IngesterDocuments : public RetrieverFixture {
 protected:
  static IngestOptions Options(IngestMode mode = IngestMode::kNewGeneration, LinePolicy duplicates = LinePolicy::kDefault) {
    IngestOptions options;
    options.mode = mode;
    options.duplicates = duplicates;
    options.chunking = ChunkingOptions{.max_tokens = 16};
    return options;
  }
  // Text by id of the passages of the documents "a" and "b".
  std::map<std::string, std::string> Contents(const std::string& store) {
    std::map<std::string, std::string> contents;
    const auto set = *manager_->Capture(store, "");
    for (const std::string document : {"a", "b"}) {
      for (int i = 0; i < 20; ++i) {
        const std::string id = ChunkId(document, i);
        const auto row = *set->view->Find(id);
        if (!row.has_value()) continue;
        std::vector<loci::v1::Passage> passages;
        EXPECT_TRUE(set->view->Read(std::vector<ViewRow>{*row}, &passages).ok());
        EXPECT_EQ(passages[0].document_id(), document);
        EXPECT_EQ(passages[0].chunk_index(), i);
        contents[id] = passages[0].text();
      }
    }
    EXPECT_EQ(set->view->passage_count(), static_cast<int64_t>(contents.size()));
    return contents;
  }
  static std::vector<std::string> Ids(const std::map<std::string, std::string>& contents) {
    std::vector<std::string> ids;
    for (const auto& [id, text] : contents) ids.push_back(id);
    return ids;
  }
};

TEST_F(IngesterDocuments, SectionsOfADocumentAreNumberedOn) {
  Start();
  for (const IngestMode mode : {IngestMode::kNewGeneration, IngestMode::kUpsert}) {
    const std::string store = mode == IngestMode::kUpsert ? "upserted" : "new";
    // 7 tokens a sentence: two fit beside the special ones.
    const auto result = Ingest(store, {Section("a", Sentences("cat", 7, 3)), Section("a", Sentences("dog", 7, 2)), MakePassage("b", "One.")},
                               Options(mode));
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->accepted_count, 3);
    EXPECT_EQ(result->passage_count, 4);
    EXPECT_EQ(result->duplicate_count, 0);
    EXPECT_THAT(Ids(Contents(store)), ElementsAre("a#0", "a#1", "a#2", "b#0"));
    EXPECT_THAT(Contents(store)["a#1"], HasSubstr("Cat cat"));
    EXPECT_THAT(Contents(store)["a#2"], HasSubstr("Dog dog"));
  }
}

TEST_F(IngesterDocuments, TheLastOfDocumentsWithOneNameStaysWhole) {
  Start();
  const std::vector<loci::v1::Passage> sections = {Section("a", Sentences("cat", 7, 8)), MakePassage("b", "One."), Section("a", Sentences("dog", 7, 4))};
  for (const IngestMode mode : {IngestMode::kNewGeneration, IngestMode::kUpsert}) {
    const std::string store = mode == IngestMode::kUpsert ? "upserted" : "new";
    const auto result = Ingest(store, sections, Options(mode));
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->duplicate_count, 1);
    EXPECT_THAT(Ids(Contents(store)), ElementsAre("a#0", "a#1", "b#0"));
    EXPECT_THAT(Contents(store)["a#0"], HasSubstr("Dog"));
  }
}

TEST_F(IngesterDocuments, TheFirstOfDocumentsWithOneNameStaysWhereItIsToldTo) {
  Start();
  const std::vector<loci::v1::Passage> sections = {Section("a", Sentences("cat", 7, 3)), MakePassage("b", "One."), Section("a", "Two."),
                                                   Section("a", "Three.")};
  const auto result = Ingest("s", sections, Options(IngestMode::kNewGeneration, LinePolicy::kSkip));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->duplicate_count, 2);
  EXPECT_EQ(result->accepted_count, 2);
  EXPECT_THAT(Ids(Contents("s")), ElementsAre("a#0", "a#1", "b#0"));
  const absl::Status failed = Ingest("s", sections, Options(IngestMode::kNewGeneration, LinePolicy::kFail)).status();
  ASSERT_TRUE(GetErrorReason(failed).has_value()) << failed;
  EXPECT_EQ(GetErrorReason(failed)->reason, "DUPLICATE_ID");
  EXPECT_EQ(GetErrorReason(failed)->metadata.at("line"), "3");
}

TEST_F(IngesterDocuments, AnUpsertedDocumentThatIsShorterLeavesNothingOfTheLongerOne) {
  Start();
  ASSERT_TRUE(Ingest("s", {Section("a", Sentences("cat", 7, 8)), Section("b", Sentences("dog", 7, 4))}, Options()).ok());
  ASSERT_EQ(Contents("s").size(), 6u);
  const auto result = Ingest("s", {Section("a", Sentences("cat", 7, 2))}, Options(IngestMode::kUpsert));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->passage_count, 1);
  EXPECT_EQ(result->revision, manager_->GetStore("s")->revision);
  EXPECT_THAT(Ids(Contents("s")), ElementsAre("a#0", "b#0", "b#1"));
}

TEST_F(IngesterDocuments, ADocumentOfWhichNothingCanBeTakenReplacesNothing) {
  Start();
  ASSERT_TRUE(Ingest("s", {Section("a", Sentences("cat", 7, 4)), Section("b", Sentences("dog", 7, 2))}, Options()).ok());
  const auto before = Contents("s");
  const auto upserted = Ingest("s", {Section("a", " \n ")}, Options(IngestMode::kUpsert));
  ASSERT_TRUE(upserted.ok()) << upserted.status();
  EXPECT_EQ(upserted->rejected_count, 1);
  EXPECT_EQ(Contents("s"), before);
  // Nor does it count as having come: the one after it is the first.
  const auto skipped = Ingest("t", {Section("a", "  "), Section("b", "One."), Section("a", "Two.")}, Options(IngestMode::kNewGeneration, LinePolicy::kSkip));
  ASSERT_TRUE(skipped.ok()) << skipped.status();
  EXPECT_THAT(Ids(Contents("t")), ElementsAre("a#0", "b#0"));
  const auto rebuilt = Ingest("u", {Section("a", "One."), Section("b", "Two."), Section("a", "  ")}, Options());
  ASSERT_TRUE(rebuilt.ok()) << rebuilt.status();
  EXPECT_THAT(Ids(Contents("u")), ElementsAre("a#0", "b#0"));
}

TEST_F(IngesterDocuments, DocumentsLargerThanAPassageMayBeComeInManyBatches) {
  Start();
  auto options = Options();
  options.store = "s";
  auto ingester = Ingester::Start(*manager_, options);
  ASSERT_TRUE(ingester.ok()) << ingester.status();
  loci::v1::Passage section = Section("a", Sentences("cat", 14, 600));
  ASSERT_TRUE((*ingester)->Add({section}, {}, 0).ok());
  section.set_text(Sentences("dog", 14, 600));
  ASSERT_TRUE((*ingester)->Add({section}, {}, 0).ok());
  const auto result = (*ingester)->Finish();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->accepted_count, 2);
  EXPECT_EQ(result->passage_count, 1200);
  EXPECT_EQ(manager_->GetStore("s")->passage_count, 1200);
}

TEST_F(IngesterDocuments, CountsWhatCanNotBeCut) {
  Start();
  loci::v1::Passage crowded = Section("c", "One.");
  for (int i = 0; i < kMaxMetadataEntries - 1; ++i) (*crowded.mutable_metadata())[absl::StrCat("k", i)].set_int64_value(i);
  const auto result = Ingest("s", {MakePassage("", "no id"), Section(std::string(502, 'd'), "long"), MakePassage("e", "  \n "), crowded,
                                   Section(std::string(501, 'd'), "fits"), Section("a", "\xff")},
                             Options());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->accepted_count, 1);
  ASSERT_EQ(result->rejected_count, 5);
  EXPECT_THAT(result->errors[0].message, HasSubstr("id is empty"));
  EXPECT_THAT(result->errors[1].message, HasSubstr("document_id has 502 bytes, the limit of a document's is 501"));
  EXPECT_THAT(result->errors[2].message, HasSubstr("nothing but white space"));
  EXPECT_THAT(result->errors[3].message, HasSubstr("metadata has 255 entries, the limit is 254"));
  EXPECT_THAT(result->errors[4].message, HasSubstr("not UTF-8"));
  const absl::Status failed = [&] {
    auto options = Options();
    options.bad_lines = LinePolicy::kFail;
    return Ingest("s", {MakePassage("e", "  ")}, options).status();
  }();
  EXPECT_EQ(GetErrorReason(failed)->reason, "BAD_LINE");
}

TEST_F(IngesterDocuments, RefusesWhatTheEncoderCanNotTakeAndVectors) {
  Start();
  auto options = Options();
  options.chunking = ChunkingOptions{.max_tokens = 65};
  EXPECT_THAT(std::string(Ingest("s", {}, options).status().message()), HasSubstr("header.chunking.max_tokens is 65; it must be from 16 to 64"));
  options.chunking = ChunkingOptions{.overlap_tokens = 33};
  EXPECT_THAT(std::string(Ingest("s", {}, options).status().message()), HasSubstr("header.chunking.overlap_tokens is 33; it must be from 0 to 32"));
  EXPECT_EQ(manager_->GetStore("s").status().code(), absl::StatusCode::kNotFound) << "what was refused has made no store";
  options = Options();
  options.store = "s";
  options.encoder_fingerprint = (*registry_->Get(""))->spec().fingerprint.passage;
  auto ingester = Ingester::Start(*manager_, options);
  ASSERT_TRUE(ingester.ok()) << ingester.status();
  const absl::Status status = (*ingester)->Add({MakePassage("a", "one")}, std::vector<float>(kDim, 0.1f), kDim);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("batch.vectors does not go with header.chunking"));
}

TEST_F(IngesterDocuments, AreCutByTheEncoderOfTheStoreAndByNoOther) {
  Start();
  ASSERT_TRUE(Ingest("s", {Section("a", Sentences("cat", 7, 3))}, Options()).ok());
  Stop();
  ASSERT_TRUE(fs_.DeleteRecursively(JoinPath(DataDirectory(), "encoders")).ok());
  Start(/*import_encoder=*/false);
  // A default that takes shorter texts.
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, CheckpointDirectory(2), {.max_positions = 16, .seed = 2}).ok());
  ASSERT_TRUE(registry_->Import(CheckpointDirectory(2)).ok());
  IngestOptions options = Options(IngestMode::kUpsert);
  options.chunking->max_tokens = 12;
  const auto upsert = [&] { return Ingest("s", {Section("b", Sentences("dog", 7, 3))}, options).status(); };
  EXPECT_EQ(GetErrorReason(upsert())->reason, "ENCODER_MISMATCH");
  ASSERT_TRUE(registry_->Import(CheckpointDirectory(1), /*make_default=*/false).ok());
  options.chunking->max_tokens = 32;  // Too many for the default.
  EXPECT_TRUE(upsert().ok()) << upsert();
}

}  // namespace
}  // namespace loci
