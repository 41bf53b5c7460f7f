#include "server/training_validation.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/double_matrix.h"

namespace loci {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
const double kNan = std::nan("");

loci::v1::Matrix Doubles(int64_t rows, int64_t cols, std::vector<double> values) {
  loci::v1::Matrix matrix;
  EXPECT_TRUE(EncodeDoubles(values.data(), rows, cols, ElementType::kFloat64, &matrix).ok());
  return matrix;
}

loci::v1::RetrieveRequest GoodRetrieve() {
  loci::v1::RetrieveRequest request;
  request.set_session_id("s");
  *request.mutable_query_vectors() = Doubles(2, 3, {1, 2, 3, 4, 5, 6});
  request.set_top_k(5);
  return request;
}

loci::v1::BackwardRequest GoodBackward() {
  loci::v1::BackwardRequest request;
  request.set_session_id("s");
  request.set_handle("h1");
  *request.mutable_log_likelihoods() = Doubles(1, 3, {-1, -kInf, 0});
  return request;
}

TEST(DoubleMatrix, Float64KeepsEveryBitAndOtherTypesWiden) {
  const std::vector<double> values = {1 + 0x1p-52, -0.0, 1e300, -kInf, 5e-324, 2};
  const absl::StatusOr<DoubleMatrix> kept = DecodeDoubles(Doubles(2, 3, values), "m", NonFinite::kKeep);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ(kept->values, values);
  EXPECT_EQ(kept->rows, 2);
  EXPECT_EQ(kept->cols, 3);
  EXPECT_TRUE(std::signbit(kept->values[1]));
  EXPECT_TRUE(DecodeDoubles(Doubles(1, 1, {1e300}), "m", NonFinite::kRefuse).ok()) << "float32 could not hold it";
  const absl::Status refused = DecodeDoubles(Doubles(2, 2, {0, 1, 2, kNan}), "m", NonFinite::kRefuse).status();
  EXPECT_THAT(std::string(refused.message()), testing::HasSubstr("row 1, column 1"));
  loci::v1::Matrix floats;
  EXPECT_TRUE(EncodeDoubles(values.data(), 1, 2, ElementType::kFloat32, &floats).ok());
  EXPECT_EQ(floats.type(), loci::v1::VECTOR_TYPE_FLOAT32);
  EXPECT_THAT(DecodeDoubles(floats, "m", NonFinite::kRefuse)->values, testing::ElementsAre(1, 0));
  const absl::Status too_large = EncodeDoubles(values.data(), 1, 3, ElementType::kFloat32, &floats);
  EXPECT_EQ(GetErrorReason(too_large)->metadata.at("field"), "vector_type");
}

TEST(ValidateRetrieve, TurnsARequestIntoACall) {
  loci::v1::RetrieveRequest request = GoodRetrieve();
  request.set_estimator(loci::v1::ESTIMATOR_EXACT_Z_TAIL);
  request.set_tail_samples(4);
  request.set_temperature(0.5);
  request.set_seed(~uint64_t{0});
  request.add_exclusions()->add_ids("a");
  request.add_exclusions();
  request.mutable_options()->set_nprobe(3);
  const RequestLimits limits(12345);
  absl::StatusOr<TrainingRetrieveCall> call = ValidateRetrieve(request, limits);
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_EQ(call->query_count, 2);
  EXPECT_EQ(call->query_dim, 3);
  EXPECT_THAT(std::get<std::vector<double>>(call->queries), testing::ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_EQ(call->options.estimator, Estimator::kExactZTail);
  EXPECT_EQ(call->options.tail_samples, 4);
  EXPECT_EQ(call->options.temperature, 0.5);
  EXPECT_EQ(call->options.seed, ~uint64_t{0});
  EXPECT_EQ(call->options.search.top_k, 5);
  EXPECT_EQ(call->options.search.nprobe, 3);
  EXPECT_THAT(call->excluded, testing::ElementsAre(testing::ElementsAre("a"), testing::IsEmpty()));
  limits.Cancel();
  EXPECT_TRUE(call->options.search.limits.cancelled()) << "the call shares the request's flag";

  request = GoodRetrieve();
  request.mutable_query_vectors()->Clear();
  request.add_query_texts("which passage?");
  call = ValidateRetrieve(request, {});
  ASSERT_TRUE(call.ok()) << "a matrix with nothing in it is none: " << call.status();
  EXPECT_EQ(call->options.estimator, Estimator::kExactZNull) << "the default";
  EXPECT_EQ(call->options.temperature, 1);
  for (const double end : {1e-12, 1e12}) {
    request.set_temperature(end);
    EXPECT_TRUE(ValidateRetrieve(request, {}).ok()) << end;
  }
  EXPECT_TRUE(std::holds_alternative<std::vector<std::string>>(call->queries));
}

TEST(ValidateRetrieve, NamesTheFieldThatIsWrong) {
  using Request = loci::v1::RetrieveRequest;
  const std::vector<std::pair<std::string, std::function<void(Request&)>>> cases = {
      {"session_id", [](Request& r) { r.clear_session_id(); }},
      {"query_vectors", [](Request& r) { r.clear_query_vectors(); }},
      {"query_vectors", [](Request& r) { r.add_query_texts("both"); }},
      {"query_vectors", [](Request& r) { *r.mutable_query_vectors() = Doubles(1, 2, {1, kNan}); }},
      {"query_vectors", [](Request& r) { *r.mutable_query_vectors() = Doubles(1, 2, {1, kInf}); }},
      {"query_vectors", [](Request& r) { r.mutable_query_vectors()->set_cols(int64_t{1} << 62); }},
      {"query_vectors.rows", [](Request& r) { r.mutable_query_vectors()->set_rows(-1); }},
      {"query_vectors.rows", [](Request& r) { r.mutable_query_vectors()->set_rows(kMaxTrainingQueries + 1); }},
      {"query_vectors.cols", [](Request& r) { r.mutable_query_vectors()->set_cols(-3); }},
      {"query_vectors.data", [](Request& r) { r.mutable_query_vectors()->set_cols(4); }},
      {"query_vectors.type", [](Request& r) { r.mutable_query_vectors()->set_type(static_cast<loci::v1::VectorType>(9)); }},
      {"query_texts[1]",
       [](Request& r) {
         r.clear_query_vectors();
         r.add_query_texts("good");
         r.add_query_texts("");
       }},
      {"query_texts",
       [](Request& r) {
         r.clear_query_vectors();
         for (int i = 0; i <= kMaxTrainingQueries; ++i) r.add_query_texts("x");
       }},
      {"top_k", [](Request& r) { r.set_top_k(0); }},
      {"top_k", [](Request& r) { r.set_top_k(10'001); }},
      {"top_k",
       [](Request& r) {
         *r.mutable_query_vectors() = Doubles(101, 1, std::vector<double>(101));
         r.set_top_k(10'000);
       }},
      {"estimator", [](Request& r) { r.set_estimator(static_cast<loci::v1::Estimator>(6)); }},
      {"temperature", [](Request& r) { r.set_temperature(-1); }},
      {"temperature", [](Request& r) { r.set_temperature(kNan); }},
      {"temperature", [](Request& r) { r.set_temperature(kInf); }},
      {"temperature", [](Request& r) { r.set_temperature(0.9e-12); }},
      {"temperature", [](Request& r) { r.set_temperature(1.1e12); }},
      {"tail_samples", [](Request& r) { r.set_tail_samples(1); }},
      {"tail_samples", [](Request& r) { r.set_estimator(loci::v1::ESTIMATOR_EXACT_Z_TAIL); }},
      {"tail_samples",
       [](Request& r) {
         r.set_estimator(loci::v1::ESTIMATOR_EXACT_Z_TAIL);
         r.set_tail_samples(kMaxTailSamples + 1);
       }},
      {"filter", [](Request& r) { r.set_filter("lang = "); }},
      {"options.nprobe", [](Request& r) { r.mutable_options()->set_nprobe(-1); }},
      {"exclusions", [](Request& r) { r.add_exclusions(); }},
      {"exclusions[1].ids",
       [](Request& r) {
         r.add_exclusions();
         loci::v1::Exclusion& many = *r.add_exclusions();
         for (int i = 0; i <= kMaxExcludedIds; ++i) many.add_ids("x");
       }},
  };
  for (const auto& [field, change] : cases) {
    loci::v1::RetrieveRequest request = GoodRetrieve();
    change(request);
    const absl::Status status = ValidateRetrieve(request, {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field << ": " << status;
    EXPECT_EQ(GetErrorReason(status).value_or(ErrorReason()).metadata["field"], field) << status;
  }
}

TEST(ValidateBackward, TurnsARequestIntoACallOrNamesTheField) {
  loci::v1::BackwardRequest good = GoodBackward();
  good.set_vector_type(loci::v1::VECTOR_TYPE_FLOAT64);
  good.set_max_log_likelihood(0);
  const absl::StatusOr<ValidBackward> valid = ValidateBackward(good, {});
  ASSERT_TRUE(valid.ok()) << valid.status();
  EXPECT_THAT(valid->call.log_likelihoods, testing::ElementsAre(-1, -kInf, 0));
  EXPECT_EQ(valid->call.max_log_likelihood, 0) << "0 is a bound, and not the same as none";
  EXPECT_EQ(valid->call.element_bytes, 8);
  EXPECT_FALSE(ValidateBackward(GoodBackward(), {})->call.max_log_likelihood.has_value());

  using Request = loci::v1::BackwardRequest;
  const std::vector<std::pair<std::string, std::function<void(Request&)>>> cases = {
      {"session_id", [](Request& r) { r.clear_session_id(); }},
      {"handle", [](Request& r) { r.clear_handle(); }},
      {"log_likelihoods", [](Request& r) { r.clear_log_likelihoods(); }},
      {"log_likelihoods", [](Request& r) { *r.mutable_grad_log_probs() = Doubles(1, 1, {0}); }},
      {"log_likelihoods.rows", [](Request& r) { *r.mutable_log_likelihoods() = Doubles(0, 3, {}); }},
      {"log_likelihoods.type", [](Request& r) { r.mutable_log_likelihoods()->set_type(loci::v1::VECTOR_TYPE_INT8); }},
      {"log_likelihoods.data", [](Request& r) { r.mutable_log_likelihoods()->set_rows(2); }},
      {"max_log_likelihood", [](Request& r) { r.set_max_log_likelihood(kNan); }},
      {"max_log_likelihood", [](Request& r) { r.set_max_log_likelihood(kInf); }},
      {"vector_type", [](Request& r) { r.set_vector_type(loci::v1::VECTOR_TYPE_FLOAT16); }},
      {"vector_type", [](Request& r) { r.set_vector_type(static_cast<loci::v1::VectorType>(77)); }},
  };
  for (const auto& [field, change] : cases) {
    loci::v1::BackwardRequest request = GoodBackward();
    change(request);
    const absl::Status status = ValidateBackward(request, {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field << ": " << status;
    EXPECT_EQ(GetErrorReason(status).value_or(ErrorReason()).metadata["field"], field) << status;
  }
}

TEST(ValidateLease, IsBounded) {
  for (const int32_t good : {0, kMinLeaseMs, kMaxLeaseMs}) EXPECT_TRUE(ValidateLease(good).ok()) << good;
  for (const int32_t bad : {-1, 1, kMinLeaseMs - 1, kMaxLeaseMs + 1, std::numeric_limits<int32_t>::min()}) {
    EXPECT_EQ(GetErrorReason(ValidateLease(bad)).value_or(ErrorReason()).metadata["field"], "lease_ms") << bad;
  }
}

loci::v1::PublishHeader GoodPublish() {
  loci::v1::PublishHeader header;
  header.set_store("s");
  header.set_parent_fingerprint("0123456789abcdef:fedcba9876543210");
  header.set_halves(loci::v1::ENCODER_HALVES_PASSAGE);
  header.set_job_name("job");
  (*header.mutable_metrics())["loss"] = 0.5;
  header.set_size_bytes(90'000'000);
  header.set_sha256(std::string(63, '0') + "A");
  return header;
}

TEST(TrainingValidation, APublicationComesThroughWhole) {
  const auto valid = ValidatePublishHeader(GoodPublish());
  ASSERT_TRUE(valid.ok()) << valid.status();
  EXPECT_EQ(valid->store, "s");
  EXPECT_EQ(valid->parent_fingerprint, "0123456789abcdef:fedcba9876543210");
  EXPECT_EQ(valid->publication.halves, EncoderHalves::kPassage);
  EXPECT_EQ(valid->publication.job, "job");
  EXPECT_EQ(valid->publication.metrics.at("loss"), 0.5);
  EXPECT_EQ(valid->publication.size_bytes, 90'000'000);
  EXPECT_EQ(valid->publication.sha256, std::string(63, '0') + "a");
  EXPECT_EQ(valid->max_encoder_share, kDefaultPublishShare);
  EXPECT_TRUE(valid->activate);
  loci::v1::PublishHeader header = GoodPublish();
  header.clear_store();
  header.clear_parent_fingerprint();
  header.clear_job_name();
  header.clear_metrics();
  header.set_max_encoder_share(0.25);
  const auto stored = ValidatePublishHeader(header);
  ASSERT_TRUE(stored.ok()) << stored.status();
  EXPECT_TRUE(stored->store.empty()) << "not \"default\"";
  EXPECT_EQ(stored->max_encoder_share, 0.25);
  loci::v1::PublishHeader there;
  there.set_store("s");
  there.set_fingerprint("0123456789abcdef:fedcba9876543210");
  there.set_no_activate(true);
  const auto named = ValidatePublishHeader(there);
  ASSERT_TRUE(named.ok()) << named.status();
  EXPECT_EQ(named->fingerprint, there.fingerprint());
  EXPECT_FALSE(named->activate);
}

TEST(TrainingValidation, APublicationNamesTheFieldThatIsWrong) {
  using Header = loci::v1::PublishHeader;
  const struct {
    const char* field;
    std::function<void(Header*)> spoil;
  } kCases[] = {
      {"store", [](Header* h) { h->set_store("a/b"); }},
      {"header.parent_fingerprint", [](Header* h) { h->set_parent_fingerprint("all-MiniLM-L6-v2"); }},
      {"header.parent_fingerprint", [](Header* h) { h->set_parent_fingerprint("0123456789ABCDEF"); }},
      {"header.parent_fingerprint", [](Header* h) { h->set_parent_fingerprint("0123456789abcdef:"); }},
      {"header.halves", [](Header* h) { h->clear_halves(); }},
      {"header.halves", [](Header* h) { h->set_halves(static_cast<loci::v1::EncoderHalves>(9)); }},
      {"header.job_name", [](Header* h) { h->set_job_name(std::string(257, 'j')); }},
      {"header.metrics[\"\"]", [](Header* h) { (*h->mutable_metrics())[""] = 1; }},
      {"header.metrics[\"loss\"]", [](Header* h) { (*h->mutable_metrics())["loss"] = kNan; }},
      {"header.metrics", [](Header* h) { for (int i = 0; i < 64; ++i) (*h->mutable_metrics())[std::to_string(i)] = 1; }},
      {"header.size_bytes", [](Header* h) { h->set_size_bytes(0); }},
      {"header.size_bytes", [](Header* h) { h->set_size_bytes((int64_t{2} << 30) + 1); }},
      {"header.sha256", [](Header* h) { h->clear_sha256(); }},
      {"header.sha256", [](Header* h) { h->set_sha256(std::string(65, '0')); }},
      {"header.max_encoder_share", [](Header* h) { h->set_max_encoder_share(kNan); }},
      {"header.max_encoder_share", [](Header* h) { h->set_max_encoder_share(-1); }},
      {"header.no_activate", [](Header* h) { h->clear_store(), h->set_no_activate(true); }},
      {"header.no_activate", [](Header* h) { h->set_halves(loci::v1::ENCODER_HALVES_QUERY), h->set_no_activate(true); }},
      {"header.fingerprint", [](Header* h) { h->set_fingerprint("0123456789abcdef:fedcba9876543210"); }},
      {"header.fingerprint", [](Header* h) { h->Clear(), h->set_store("s"), h->set_fingerprint("0123456789abcdef"); }},
      {"header.store", [](Header* h) { h->Clear(), h->set_fingerprint("0123456789abcdef:fedcba9876543210"); }},
  };
  for (const auto& c : kCases) {
    Header header = GoodPublish();
    c.spoil(&header);
    const absl::Status status = ValidatePublishHeader(header).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << header.ShortDebugString();
    EXPECT_EQ(GetErrorReason(status)->metadata.at("field"), c.field) << status;
  }
}

}  // namespace
}  // namespace loci
