// Every INVALID_ARGUMENT that a request's fields earn names the field for programs: ErrorInfo.metadata["field"].
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"
#include "gtest/gtest.h"
#include "server/request_errors.h"
#include "server/validation.h"

namespace loci {
namespace {

struct Case {
  std::string field;
  std::function<absl::Status()> refuse;
};

void Check(const std::vector<Case>& cases) {
  for (const Case& test : cases) {
    const absl::Status status = test.refuse();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << test.field << ": " << status;
    const std::optional<ErrorReason> reason = GetErrorReason(status);
    ASSERT_TRUE(reason.has_value()) << test.field << ": " << status;
    ASSERT_TRUE(reason->metadata.contains("field")) << test.field << ": " << status;
    EXPECT_EQ(reason->metadata.at("field"), test.field) << status;
  }
}

// What `change` makes wrong in a request that is fine.
Case Encode(std::string field, std::function<void(loci::v1::EncodeRequest&)> change) {
  return {std::move(field), [change] {
            loci::v1::EncodeRequest request;
            request.add_texts("text");
            change(request);
            return ValidateEncode(request, {}).status();
          }};
}
Case Search(std::string field, std::function<void(loci::v1::SearchRequest&)> change) {
  return {std::move(field), [change] {
            loci::v1::SearchRequest request;
            request.set_top_k(10);
            request.add_queries()->set_text("text");
            change(request);
            return ValidateSearch(request, {}).status();
          }};
}
Case Answer(std::string field, std::function<void(loci::v1::AnswerRequest&)> change) {
  return {std::move(field), [change] {
            loci::v1::AnswerRequest request;
            request.set_question("text");
            change(request);
            return ValidateAnswer(request, {}).status();
          }};
}
Case Compare(std::string field, std::function<void(loci::v1::CompareGenerationsRequest&)> change) {
  return {std::move(field), [change] {
            loci::v1::CompareGenerationsRequest request;
            request.set_generation_b("g");
            request.add_queries("text");
            change(request);
            return ValidateCompare(request).status();
          }};
}
Case Header(std::string field, std::function<void(loci::v1::IngestHeader&)> change) {
  return {std::move(field), [change] {
            loci::v1::IngestHeader header;
            change(header);
            return ValidateIngestHeader(header, {}).status();
          }};
}
Case Batch(std::string field, std::function<void(loci::v1::PassageBatch&)> change) {
  return {std::move(field), [change] {
            loci::v1::PassageBatch batch;
            batch.add_passages()->set_id("p");
            loci::v1::Matrix& vectors = *batch.mutable_vectors();
            vectors.set_rows(1);
            vectors.set_cols(1);
            vectors.set_data(std::string(4, 'x'));
            change(batch);
            return ValidateBatch(batch).status();
          }};
}
Case Upsert(std::string field, std::function<void(loci::v1::UpsertPassagesRequest&)> change) {
  return {std::move(field), [change] {
            loci::v1::UpsertPassagesRequest request;
            for (const char* const id : {"p", "q"}) {
              request.add_passages()->set_id(id);
              request.mutable_passages(request.passages_size() - 1)->set_text("text");
            }
            change(request);
            return ValidateUpsert(request).status();
          }};
}

const std::string kLong(2 << 20, 'x');

TEST(ErrorField, OfReads) {
  Check({
      Encode("texts", [](auto& r) { r.clear_texts(); }),
      Encode("texts[1]", [](auto& r) { r.add_texts(kLong); }),
      Encode("role", [](auto& r) { r.set_role(static_cast<loci::v1::TextRole>(9)); }),
      Encode("truncation", [](auto& r) { r.set_truncation(static_cast<loci::v1::Truncation>(9)); }),
      Encode("vector_type", [](auto& r) { r.set_vector_type(static_cast<loci::v1::VectorType>(9)); }),
      Search("store", [](auto& r) { r.set_store("../x"); }),
      Search("top_k", [](auto& r) { r.set_top_k(0); }),
      Search("queries", [](auto& r) { r.clear_queries(); }),
      Search("queries[0].text", [](auto& r) { r.mutable_queries(0)->set_text(""); }),
      Search("queries[0].text", [](auto& r) { r.mutable_queries(0)->set_text(kLong); }),
      Search("queries[1]", [](auto& r) { r.add_queries(); }),
      Search("queries[0].vector.rows", [](auto& r) { r.mutable_queries(0)->mutable_vector()->set_rows(2); }),
      Search("queries[0].vector.cols", [](auto& r) { r.mutable_queries(0)->mutable_vector()->set_rows(1); }),
      Search("options.nprobe", [](auto& r) { r.mutable_options()->set_nprobe(-1); }),
      Search("options.ef_search", [](auto& r) { r.mutable_options()->set_ef_search(-1); }),
      Search("options.rescore_factor", [](auto& r) { r.mutable_options()->set_rescore_factor(1001); }),
      Search("options.recall_target", [](auto& r) { r.mutable_options()->set_recall_target(1.5); }),
      Answer("store", [](auto& r) { r.set_store("A"); }),
      Answer("question", [](auto& r) { r.clear_question(); }),
      Answer("top_k", [](auto& r) { r.set_top_k(-1); }),
      Answer("max_answers", [](auto& r) { r.set_max_answers(-1); }),
      Answer("reader", [](auto& r) { r.set_reader(kLong); }),
      Compare("store", [](auto& r) { r.set_store("A"); }),
      Compare("generation_b", [](auto& r) { r.clear_generation_b(); }),
      Compare("queries", [](auto& r) { r.clear_queries(); }),
      Compare("queries[1]", [](auto& r) { r.add_queries(""); }),
      Compare("top_k", [](auto& r) { r.set_top_k(-1); }),
      {"store", [] { loci::v1::GetPassagesRequest r; r.set_store("A"); return ValidateGetPassages(r).status(); }},
      {"ids", [] { return ValidateGetPassages({}).status(); }},
      {"ids[0]", [] { loci::v1::GetPassagesRequest r; r.add_ids(""); return ValidateGetPassages(r).status(); }},
  });
}

TEST(ErrorField, OfWrites) {
  Check({
      Header("store", [](auto& h) { h.set_store("A"); }),
      Header("header.mode", [](auto& h) { h.set_mode(static_cast<loci::v1::IngestMode>(9)); }),
      Header("writes_since", [](auto& h) { h.set_writes_since(static_cast<loci::v1::WritesSince>(9)); }),
      Header("header.bad_lines", [](auto& h) { h.set_bad_lines(static_cast<loci::v1::LinePolicy>(9)); }),
      Header("header.duplicates", [](auto& h) { h.set_duplicates(static_cast<loci::v1::LinePolicy>(9)); }),
      Header("header.chunking.max_tokens", [](auto& h) { h.mutable_chunking()->set_max_tokens(-1); }),
      Header("header.chunking.overlap_tokens", [](auto& h) { h.mutable_chunking()->set_overlap_tokens(-1); }),
      Header("header.index.vector_type", [](auto& h) { h.mutable_index()->set_vector_type(loci::v1::VECTOR_TYPE_INT8); }),
      Header("header.index.factory", [](auto& h) { h.mutable_index()->set_factory(kLong); }),
      Header("header.index.factory", [](auto& h) { h.mutable_index()->set_factory("auto:recall=2"); }),
      Header("header.index", [](auto& h) { h.set_mode(loci::v1::INGEST_MODE_UPSERT); h.mutable_index()->set_factory("exact"); }),
      Header("header.no_activate", [](auto& h) { h.set_mode(loci::v1::INGEST_MODE_UPSERT); h.set_no_activate(true); }),
      Header("header.writes_since", [](auto& h) { h.set_mode(loci::v1::INGEST_MODE_UPSERT); h.set_writes_since(loci::v1::WRITES_SINCE_REPLAY); }),
      Batch("batch.passages", [](auto& b) { for (int i = 0; i < 10'001; ++i) b.add_passages(); }),
      Batch("batch.vectors.rows", [](auto& b) { b.mutable_vectors()->set_rows(2); }),
      Batch("batch.vectors.cols", [](auto& b) { b.mutable_vectors()->set_cols(-1); }),
      Batch("batch.vectors.data", [](auto& b) { b.mutable_vectors()->clear_data(); }),
      Batch("batch.vectors.scales", [](auto& b) { b.mutable_vectors()->add_scales(1); }),
      Upsert("store", [](auto& r) { r.set_store("A"); }),
      Upsert("passages", [](auto& r) { r.clear_passages(); }),
      Upsert("passages[1].id", [](auto& r) { r.mutable_passages(1)->clear_id(); }),
      Upsert("passages[1].text", [](auto& r) { r.mutable_passages(1)->clear_text(); }),
      Upsert("passages[0].title", [](auto& r) { r.mutable_passages(0)->set_title(kLong); }),
      Upsert("passages[0].chunk_index", [](auto& r) { r.mutable_passages(0)->set_chunk_index(-1); }),
      Upsert("passages[0].metadata", [](auto& r) {
        (*r.mutable_passages(0)->mutable_metadata())["x"].set_double_value(std::numeric_limits<double>::quiet_NaN());
      }),
      Upsert("passages[0].metadata key", [](auto& r) { (*r.mutable_passages(0)->mutable_metadata())[""].set_bool_value(true); }),
      {"store", [] { loci::v1::DeletePassagesRequest r; r.set_store("A"); return ValidateDelete(r).status(); }},
      {"ids", [] { return ValidateDelete({}).status(); }},
      {"confirm_name", [] { return ValidateDeleteStore({}).status(); }},
      {"keep_generations", [] { return ValidateKeepGenerations(-1); }},
      {"writes_since", [] { return ValidateWritesSince(static_cast<loci::v1::WritesSince>(9)).status(); }},
  });
}

TEST(ErrorField, IsPutBeforeOneThatIsNamedAndOnlyIntoInvalidArguments) {
  EXPECT_EQ(GetErrorReason(InField(InvalidField("text", "is empty"), "passages[3]"))->metadata.at("field"), "passages[3].text");
  const absl::Status plain = InField(absl::InvalidArgumentError("x"), "store");
  EXPECT_EQ(GetErrorReason(plain)->reason, "INVALID_ARGUMENT");
  EXPECT_EQ(plain.message(), "x");
  EXPECT_FALSE(GetErrorReason(InField(absl::NotFoundError("x"), "store")).has_value());
  EXPECT_TRUE(InField(absl::OkStatus(), "store").ok());
}

}  // namespace
}  // namespace loci
