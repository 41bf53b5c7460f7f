#include "server/validation.h"

#include <cmath>
#include <string>

#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using ::testing::HasSubstr;

template <typename T>
std::string Invalid(const absl::StatusOr<T>& result) {
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << result.status();
  return std::string(result.status().message());
}

loci::v1::SearchRequest GoodSearch() {
  loci::v1::SearchRequest request;
  request.set_top_k(5);
  request.add_queries()->set_text("which package turns PDF into text?");
  return request;
}

loci::v1::Matrix Row(std::vector<float> values) {
  loci::v1::Matrix matrix;
  EncodeMatrix(values.data(), 1, static_cast<int64_t>(values.size()), ElementType::kFloat32, &matrix);
  return matrix;
}

TEST(ValidateSearch, TurnsARequestIntoACall) {
  loci::v1::SearchRequest request = GoodSearch();
  request.set_generation("20261121-094142-3f2a");
  *request.add_queries()->mutable_vector() = Row({0.6f, 0.8f});
  request.mutable_options()->set_exact(true);
  request.mutable_options()->set_nprobe(3);
  request.mutable_options()->set_ef_search(100'000);
  request.set_include_text(true);
  const RequestLimits limits(12345);
  const absl::StatusOr<SearchCall> call = ValidateSearch(request, limits);
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_EQ(call->store, "default");
  EXPECT_EQ(call->generation, "20261121-094142-3f2a");
  ASSERT_EQ(call->queries.size(), 2u);
  EXPECT_EQ(std::get<std::string>(call->queries[0]), "which package turns PDF into text?");
  EXPECT_THAT(std::get<std::vector<float>>(call->queries[1]), testing::ElementsAre(0.6f, 0.8f));
  EXPECT_EQ(call->options.top_k, 5);
  EXPECT_TRUE(call->options.exact);
  EXPECT_EQ(call->options.nprobe, 3);
  EXPECT_EQ(call->options.ef_search, 100'000);
  EXPECT_TRUE(call->include_text);
  EXPECT_FALSE(call->include_vectors);
  limits.Cancel();
  EXPECT_TRUE(call->options.limits.cancelled()) << "the call shares the request's flag";
  EXPECT_EQ(call->options.limits.deadline_us(), 12345);
}

TEST(ValidateSearch, RefusesTopKOutsideItsRange) {
  loci::v1::SearchRequest request = GoodSearch();
  request.set_top_k(0);
  EXPECT_EQ(Invalid(ValidateSearch(request, {})), "top_k is 0; it must be from 1 to 10000");
  EXPECT_EQ(GetErrorReason(ValidateSearch(request, {}).status())->metadata.at("field"), "top_k");
  for (const int32_t top_k : {-1, INT32_MIN, 10'001, INT32_MAX}) {
    request.set_top_k(top_k);
    EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("it must be from 1 to 10000"));
  }
  request.set_top_k(10'000);
  EXPECT_TRUE(ValidateSearch(request, {}).ok());
  for (int i = 0; i < 100; ++i) request.add_queries()->set_text("q");
  EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("101 queries; their product must be at most 1000000"));
}

TEST(ValidateSearch, RefusesQueriesThatAskNothing) {
  loci::v1::SearchRequest request = GoodSearch();
  request.add_queries()->set_text("");
  EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("queries[1].text is empty"));
  request.mutable_queries(1)->Clear();
  EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("queries[1] is empty; it must have a text or a vector"));
  request.mutable_queries(1)->set_text(std::string(kMaxTextBytes + 1, 'a'));
  EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("has 1048577 bytes; the limit is 1048576"));
  request.mutable_queries(1)->set_text(std::string(kMaxTextBytes, '\x01'));
  EXPECT_TRUE(ValidateSearch(request, {}).ok()) << "control characters are text";
  request.clear_queries();
  EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("queries has 0 entries; it must have from 1 to 1024"));
  for (int i = 0; i < 1025; ++i) request.add_queries()->set_text("q");
  EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("queries has 1025 entries"));
}

TEST(ValidateSearch, RefusesVectorsThatAreNone) {
  loci::v1::SearchRequest request = GoodSearch();
  loci::v1::Matrix& vector = *request.mutable_queries(0)->mutable_vector();
  EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("queries[0].vector.rows is 0; a query vector has 1 row"));
  vector = Row({1, NAN});
  EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("queries[0].vector has nan"));
  vector = Row({1, INFINITY});
  EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("queries[0].vector has inf"));
  vector = Row({1, 2});
  vector.mutable_data()->pop_back();
  EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("queries[0].vector.data has 7 bytes"));
  vector = Row({1, 2});
  vector.set_rows(2);
  vector.set_cols(1);
  EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("a query vector has 1 row"));
}

TEST(ValidateSearch, BoundsWhatIsRescored) {
  loci::v1::SearchRequest request = GoodSearch();
  request.clear_options();
  request.set_top_k(100);
  request.mutable_options()->set_rescore_factor(1000);
  const auto call = ValidateSearch(request, {});
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_EQ(call->options.rescore_factor, 1000);
  request.set_top_k(101);
  EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("options.rescore_factor is 1000 for 1 queries of top_k 101"));
  request.set_top_k(10);
  for (int i = 1; i < 1001; ++i) *request.add_queries() = request.queries(0);
  EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("options.rescore_factor is 1000 for 1001 queries"));
  for (const int factor : {-1, 1001, INT32_MIN, INT32_MAX}) {
    request.mutable_options()->set_rescore_factor(factor);
    EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("it must be from 1 to 1000")) << factor;
  }
}

TEST(ValidateSearch, TakesARecallTargetAlone) {
  loci::v1::SearchRequest request = GoodSearch();
  request.clear_options();
  for (const double target : {1e-9, 0.95, 1.0}) {
    request.mutable_options()->set_recall_target(target);
    const auto call = ValidateSearch(request, {});
    ASSERT_TRUE(call.ok()) << call.status();
    EXPECT_EQ(call->options.recall_target, target);
  }
  for (const double target : {-0.1, 1.5, static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    request.mutable_options()->set_recall_target(target);
    EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("options.recall_target is ")) << target;
  }
  request.mutable_options()->set_recall_target(0.9);
  request.mutable_options()->set_exact(true);
  EXPECT_TRUE(ValidateSearch(request, {}).ok());
  request.mutable_options()->set_nprobe(2);
  EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("options.recall_target does not go with nprobe"));
}

TEST(ValidateSearch, ReadsTheFilterOrSaysWhereItGoesWrong) {
  loci::v1::SearchRequest request = GoodSearch();
  EXPECT_EQ(ValidateSearch(request, {})->filter, nullptr);
  request.set_filter("year > 2000");
  const auto call = ValidateSearch(request, {});
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_EQ(call->filter->ToString(), "`year` > 2000");
  request.set_filter("year > ");
  EXPECT_EQ(Invalid(ValidateSearch(request, {})),
            "filter has its end at byte 7; expected a value: a string in quotes, a number, true or false");
}

TEST(ValidateSearch, RefusesOptionsOutsideTheirRange) {
  loci::v1::SearchRequest request = GoodSearch();
  request.mutable_options()->set_nprobe(-1);
  EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("options.nprobe is -1"));
  request = GoodSearch();
  request.mutable_options()->set_ef_search(100'001);
  EXPECT_THAT(Invalid(ValidateSearch(request, {})), HasSubstr("options.ef_search is 100001; it must be from 1 to 100000"));
}

TEST(ValidateTune, TakesTargetBudgetAndQueries) {
  loci::v1::TuneStoreRequest request;
  request.set_recall_target(0.9);
  auto valid = ValidateTune(request);
  ASSERT_TRUE(valid.ok()) << valid.status();
  EXPECT_EQ(valid->store, "default");
  EXPECT_EQ(valid->options.memory_budget_bytes, 0);
  EXPECT_EQ(valid->options.sample_rows, kTuningSampleRows);
  request.set_memory_budget_bytes(1 << 20);
  request.set_sample_row_count(1000);
  request.add_queries("one");
  valid = ValidateTune(request);
  ASSERT_TRUE(valid.ok()) << valid.status();
  EXPECT_EQ(valid->options.recall_target, 0.9);
  EXPECT_EQ(valid->options.memory_budget_bytes, 1 << 20);
  EXPECT_EQ(valid->options.sample_rows, 1000);
  EXPECT_EQ(valid->options.queries, std::vector<std::string>{"one"});
}

TEST(ValidateTune, NamesWhatIsOutOfRange) {
  loci::v1::TuneStoreRequest good;
  good.set_recall_target(1);
  for (const double target : {0.0, -0.1, 1.5, static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    loci::v1::TuneStoreRequest request = good;
    request.set_recall_target(target);
    EXPECT_THAT(Invalid(ValidateTune(request)), HasSubstr("recall_target is ")) << target;
  }
  for (const int64_t bytes : {int64_t{-1}, int64_t{1}, (int64_t{1} << 20) - 1, INT64_MIN}) {
    loci::v1::TuneStoreRequest request = good;
    request.set_memory_budget_bytes(bytes);
    EXPECT_THAT(Invalid(ValidateTune(request)), HasSubstr("it must be at least 1048576, or 0 for any")) << bytes;
  }
  for (const int64_t rows : {int64_t{-1}, int64_t{999}, int64_t{1'000'001}}) {
    loci::v1::TuneStoreRequest request = good;
    request.set_sample_row_count(rows);
    EXPECT_THAT(Invalid(ValidateTune(request)), HasSubstr("sample_row_count is ")) << rows;
  }
  loci::v1::TuneStoreRequest request = good;
  request.add_queries("");
  EXPECT_THAT(Invalid(ValidateTune(request)), HasSubstr("queries[0] is empty"));
  for (int i = 0; i < 1024; ++i) request.add_queries("x");
  EXPECT_THAT(Invalid(ValidateTune(request)), HasSubstr("queries has 1025 entries"));
  request = good;
  request.set_store("../x");
  EXPECT_THAT(Invalid(ValidateTune(request)), HasSubstr("store"));
}

TEST(ValidateNames, RefusesWhatCouldBecomeAPath) {
  for (const std::string& store : {std::string("../x"), std::string("/etc"), std::string("A"), std::string("-x"), std::string("a b"),
                                   std::string(65, 'a'), std::string("a\0b", 3), std::string(1'000'000, 'x')}) {
    EXPECT_EQ(ValidateStore(store).status().code(), absl::StatusCode::kInvalidArgument) << store.substr(0, 70);
    EXPECT_LT(ValidateStore(store).status().message().size(), 400u) << "the value is cut";
  }
  EXPECT_EQ(*ValidateStore(""), "default");
  EXPECT_EQ(*ValidateStore("packages_2-a"), "packages_2-a");
  for (const std::string& generation : {std::string(".."), std::string("a/b"), std::string("a\0b", 3), std::string("é"), std::string(65, 'a')}) {
    EXPECT_EQ(ValidateGeneration("s", generation).code(), absl::StatusCode::kNotFound) << generation;
  }
  EXPECT_TRUE(ValidateGeneration("s", "").ok());
}

TEST(ValidateEncode, TakesEveryTextAndRefusesTheRest) {
  loci::v1::EncodeRequest request;
  EXPECT_THAT(Invalid(ValidateEncode(request, {})), HasSubstr("texts has 0 entries; it must have from 1 to 2048"));
  request.add_texts("");
  request.set_role(loci::v1::TEXT_ROLE_QUERY);
  request.set_truncation(loci::v1::TRUNCATION_POOL_WINDOWS);
  request.set_vector_type(loci::v1::VECTOR_TYPE_INT8);
  const absl::StatusOr<ValidEncode> valid = ValidateEncode(request, {});
  ASSERT_TRUE(valid.ok()) << "the empty string is a text";
  EXPECT_EQ(valid->call.options.role, TextRole::kQuery);
  EXPECT_EQ(valid->call.options.truncation, Truncation::kPoolWindows);
  EXPECT_EQ(valid->vector_type, ElementType::kInt8);
  request.clear_role();
  EXPECT_EQ(ValidateEncode(request, {})->call.options.role, TextRole::kPassage);
  request.add_texts(std::string(kMaxTextBytes + 1, 'x'));
  EXPECT_THAT(Invalid(ValidateEncode(request, {})), HasSubstr("texts[1] has 1048577 bytes; the limit is 1048576"));
  request.mutable_texts(1)->clear();
  request.set_role(static_cast<loci::v1::TextRole>(7));
  EXPECT_THAT(Invalid(ValidateEncode(request, {})), HasSubstr("role is 7; it must be from 0 to 2"));
  request.clear_role();
  request.set_truncation(static_cast<loci::v1::Truncation>(-7));
  EXPECT_THAT(Invalid(ValidateEncode(request, {})), HasSubstr("truncation is -7"));
  request.clear_truncation();
  request.set_vector_type(static_cast<loci::v1::VectorType>(70));
  EXPECT_THAT(Invalid(ValidateEncode(request, {})), HasSubstr("vector_type is 70"));
  request.clear_vector_type();
  for (int i = 0; i < kMaxTexts; ++i) request.add_texts("x");
  EXPECT_THAT(Invalid(ValidateEncode(request, {})), HasSubstr("texts has 2050 entries"));
}

TEST(ValidateIngestHeader, KnowsTheShapeOfFingerprints) {
  loci::v1::IngestHeader header;
  for (const char* good : {"", "0123456789abcdef", "0123456789abcdef:fedcba9876543210"}) {
    header.set_encoder_fingerprint(good);
    EXPECT_TRUE(ValidateIngestHeader(header, {}).ok()) << good;
  }
  for (const char* bad : {"minilm", "../../etc/passwd", "0123456789abcdeg", "0123456789abcdef:", "0123456789ABCDEF"}) {
    header.set_encoder_fingerprint(bad);
    const absl::Status status = ValidateIngestHeader(header, {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << bad;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad));
  }
}

TEST(ValidateAnswer, FillsDefaultsAndRefusesTheRest) {
  loci::v1::AnswerRequest request;
  EXPECT_THAT(Invalid(ValidateAnswer(request, {})), HasSubstr("question is empty"));
  request.set_question("why?");
  const absl::StatusOr<AnswerCall> call = ValidateAnswer(request, {});
  ASSERT_TRUE(call.ok());
  EXPECT_EQ(call->top_k, 5);
  EXPECT_EQ(call->max_answers, 1);
  EXPECT_EQ(call->reader, "sentence");
  for (const int bad : {-1, 101}) {
    request.set_top_k(bad);
    EXPECT_THAT(Invalid(ValidateAnswer(request, {})), HasSubstr("it must be from 1 to 100"));
    request.clear_top_k();
    request.set_max_answers(bad);
    EXPECT_THAT(Invalid(ValidateAnswer(request, {})), HasSubstr("max_answers is " + std::to_string(bad)));
    request.clear_max_answers();
  }
  request.set_filter("x and");
  EXPECT_THAT(Invalid(ValidateAnswer(request, {})), HasSubstr("filter has its end at byte 5"));
  request.set_filter("x");
  EXPECT_EQ(ValidateAnswer(request, {})->filter->ToString(), "`x` = true");
}

TEST(ValidateIngest, ChecksTheHeader) {
  loci::v1::IngestHeader header;
  const absl::StatusOr<IngestOptions> defaults = ValidateIngestHeader(header, {});
  ASSERT_TRUE(defaults.ok());
  EXPECT_EQ(defaults->store, "default");
  EXPECT_EQ(defaults->mode, IngestMode::kNewGeneration);
  EXPECT_EQ(defaults->index, "exact");
  EXPECT_TRUE(defaults->activate);

  header.Clear();
  header.mutable_index()->set_vector_type(loci::v1::VECTOR_TYPE_INT8);
  EXPECT_THAT(Invalid(ValidateIngestHeader(header, {})), HasSubstr("header.index.vector_type is int8"));
  header.Clear();
  header.set_mode(static_cast<loci::v1::IngestMode>(3));
  EXPECT_THAT(Invalid(ValidateIngestHeader(header, {})), HasSubstr("header.mode is 3"));
  header.set_mode(loci::v1::INGEST_MODE_UPSERT);
  header.mutable_index()->set_factory("HNSW32");
  EXPECT_THAT(Invalid(ValidateIngestHeader(header, {})), HasSubstr("header.index goes with INGEST_MODE_NEW_GENERATION only"));
  header.clear_index();
  header.set_no_activate(true);
  EXPECT_THAT(Invalid(ValidateIngestHeader(header, {})), HasSubstr("no_activate"));
}

TEST(ValidateIngest, ReadsTheLinePolicies) {
  loci::v1::IngestHeader header;
  EXPECT_EQ(ValidateIngestHeader(header, {})->bad_lines, LinePolicy::kDefault);
  header.set_bad_lines(loci::v1::LINE_POLICY_FAIL);
  header.set_duplicates(loci::v1::LINE_POLICY_SKIP);
  EXPECT_EQ(ValidateIngestHeader(header, {})->bad_lines, LinePolicy::kFail);
  EXPECT_EQ(ValidateIngestHeader(header, {})->duplicates, LinePolicy::kSkip);
  header.set_duplicates(static_cast<loci::v1::LinePolicy>(3));
  EXPECT_THAT(Invalid(ValidateIngestHeader(header, {})), HasSubstr("header.duplicates is 3; it must be from 0 to 2"));
}

TEST(ValidateIngest, ReadsTheChunking) {
  loci::v1::IngestHeader header;
  EXPECT_FALSE(ValidateIngestHeader(header, {})->chunking.has_value());
  header.mutable_chunking();
  EXPECT_EQ(ValidateIngestHeader(header, {})->chunking->max_tokens, 0);
  header.mutable_chunking()->set_max_tokens(128);
  header.mutable_chunking()->set_overlap_tokens(16);
  EXPECT_EQ(ValidateIngestHeader(header, {})->chunking->max_tokens, 128);
  EXPECT_EQ(ValidateIngestHeader(header, {})->chunking->overlap_tokens, 16);
  header.mutable_chunking()->set_overlap_tokens(-1);
  EXPECT_THAT(Invalid(ValidateIngestHeader(header, {})), HasSubstr("header.chunking.overlap_tokens is -1"));
}

TEST(ValidateIngest, ChecksTheBatchButLeavesValuesToTheIngester) {
  loci::v1::PassageBatch batch;
  batch.add_passages()->set_id("a");
  EXPECT_TRUE(ValidateBatch(batch)->values.empty());
  *batch.mutable_vectors() = Row({NAN, 1});
  EXPECT_EQ(ValidateBatch(batch)->cols, 2);
  batch.add_passages()->set_id("b");
  EXPECT_THAT(Invalid(ValidateBatch(batch)), HasSubstr("batch.vectors.rows is 1; the batch has 2 passages"));
  batch.clear_vectors();
  for (int i = 0; i < kMaxPassages; ++i) batch.add_passages();
  EXPECT_THAT(Invalid(ValidateBatch(batch)), HasSubstr("batch.passages has 10002 entries"));
}

TEST(ValidateCompare, BoundsAllHitsTogether) {
  loci::v1::CompareGenerationsRequest request;
  request.set_generation_b("20261121-094142-3f2a");
  for (int i = 0; i < 101; ++i) request.add_queries("q");
  request.set_top_k(990);
  EXPECT_TRUE(ValidateCompare(request).ok());
  request.set_top_k(991);
  EXPECT_THAT(Invalid(ValidateCompare(request)), HasSubstr("is 991 for 101 queries; the product of both must be at most 100000"));
}

TEST(ValidateGates, NamesTheJudgementWhoseIdIsBad) {
  loci::v1::ActivationGates gates;
  gates.set_min_ndcg_at_10(0.5);
  loci::v1::GateQuery& query = *gates.add_queries();
  query.set_text("q");
  loci::v1::GateQuery::Judgement& first = *query.add_judgements();
  first.set_id("a");
  first.set_grade(1);
  EXPECT_TRUE(ValidateGates(gates).ok());
  query.add_judgements()->set_id(std::string(513, 'x'));
  const auto refused = ValidateGates(gates);
  EXPECT_THAT(Invalid(refused), HasSubstr("id has 513 bytes"));
  const std::optional<ErrorReason> reason = GetErrorReason(refused.status());
  ASSERT_TRUE(reason.has_value());
  EXPECT_EQ(reason->reason, "INVALID_ARGUMENT");
  EXPECT_EQ(reason->metadata.at("field"), "gates.queries[0].judgements[1]");
}

TEST(ValidateContent, ChecksIdsAndPassages) {
  loci::v1::UpsertPassagesRequest upsert;
  EXPECT_THAT(Invalid(ValidateUpsert(upsert)), HasSubstr("passages has 0 entries; it must have from 1 to 10000"));
  loci::v1::Passage& good = *upsert.add_passages();
  good.set_id("a");
  good.set_text("text");
  EXPECT_TRUE(ValidateUpsert(upsert).ok());
  upsert.add_passages()->set_text("no id");
  EXPECT_THAT(Invalid(ValidateUpsert(upsert)), HasSubstr("passages[1]: id is empty"));

  loci::v1::DeletePassagesRequest remove;
  EXPECT_THAT(Invalid(ValidateDelete(remove)), HasSubstr("ids has 0 entries"));
  remove.add_ids(std::string(513, 'x'));
  EXPECT_THAT(Invalid(ValidateDelete(remove)), HasSubstr("ids[0] has 513 bytes; it must have from 1 to 512"));
  *remove.mutable_ids(0) = std::string("a\0b", 3);
  EXPECT_THAT(Invalid(ValidateDelete(remove)), HasSubstr("ids[0] has a NUL character"));
  remove.set_ids(0, "a");
  EXPECT_EQ(ValidateDelete(remove)->ids.size(), 1u);

  loci::v1::DeleteStoreRequest confirm;
  confirm.set_store("s");
  confirm.set_confirm_name("t");
  EXPECT_THAT(Invalid(ValidateDeleteStore(confirm)), HasSubstr("confirm_name is \"t\"; it must repeat the store's name, \"s\""));
  confirm.set_confirm_name("s");
  EXPECT_EQ(*ValidateDeleteStore(confirm), "s");
}

}  // namespace
}  // namespace loci
