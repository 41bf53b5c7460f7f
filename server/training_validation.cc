#include "server/training_validation.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/hex.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "index/softmax_scan.h"
#include "server/double_matrix.h"
#include "server/field_checks.h"
#include "server/request_errors.h"
#include "server/validation.h"

namespace loci {
namespace {

// A matrix that a client may leave out, whichever way its library sends that.
bool IsUnset(const loci::v1::Matrix& matrix) { return matrix.rows() == 0 && matrix.cols() == 0 && matrix.data().empty(); }

absl::StatusOr<Estimator> ValidateEstimator(loci::v1::Estimator estimator) {
  switch (estimator) {
    case loci::v1::ESTIMATOR_TOP_K:
      return Estimator::kTopK;
    case loci::v1::ESTIMATOR_EXACT_Z:
      return Estimator::kExactZ;
    case loci::v1::ESTIMATOR_UNSPECIFIED:
    case loci::v1::ESTIMATOR_EXACT_Z_NULL:
      return Estimator::kExactZNull;
    case loci::v1::ESTIMATOR_EXACT_Z_TAIL:
      return Estimator::kExactZTail;
    case loci::v1::ESTIMATOR_FULL:
      return Estimator::kFull;
    default:
      return InvalidField("estimator", Range(estimator, 0, 5));
  }
}

absl::StatusOr<EncoderHalves> ValidateHalves(loci::v1::EncoderHalves halves) {
  switch (halves) {
    case loci::v1::ENCODER_HALVES_QUERY:
      return EncoderHalves::kQuery;
    case loci::v1::ENCODER_HALVES_PASSAGE:
      return EncoderHalves::kPassage;
    case loci::v1::ENCODER_HALVES_BOTH:
      return EncoderHalves::kBoth;
    default:
      return InvalidField("header.halves", Range(halves, 1, 3));
  }
}

// "QUERY:PASSAGE", or, where `half` may do, one of both. What is none is no model's name either.
absl::Status CheckEncoder(std::string_view field, const std::string& fingerprint, bool half) {
  if (half && IsHex(fingerprint, kHalfDigits)) return absl::OkStatus();
  if (fingerprint.size() == 2 * kHalfDigits + 1 && fingerprint[kHalfDigits] == ':' &&
      IsHex(std::string_view(fingerprint).substr(0, kHalfDigits), kHalfDigits) &&
      IsHex(std::string_view(fingerprint).substr(kHalfDigits + 1), kHalfDigits)) {
    return absl::OkStatus();
  }
  return InvalidField(field, absl::StrCat("is ", Quoted(fingerprint), "; it must be QUERY:PASSAGE, 16 lower-case hex digits each", half ? ", or one half" : ""));
}

absl::Status ReadWeightsOfHeader(const loci::v1::PublishHeader& header, EncoderPublication* publication) {
  LOCI_ASSIGN_OR_RETURN(publication->halves, ValidateHalves(header.halves()));
  if (const int64_t bytes = static_cast<int64_t>(header.job_name().size()); bytes > kMaxJobNameBytes) {
    return InvalidField("header.job_name", absl::StrCat("has ", bytes, " bytes, the limit is ", kMaxJobNameBytes));
  }
  publication->job = header.job_name();
  LOCI_RETURN_IF_ERROR(CheckCount("header.metrics", header.metrics_size(), 0, kMaxPublishMetrics));
  for (const auto& [name, value] : header.metrics()) {
    const std::string field = absl::StrCat("header.metrics[", Quoted(name), "]");
    if (name.empty() || static_cast<int64_t>(name.size()) > kMaxMetricNameBytes) {
      return InvalidField(field, absl::StrCat("has a name of ", name.size(), " bytes; it must have 1 to ", kMaxMetricNameBytes));
    }
    if (!std::isfinite(value)) return InvalidField(field, absl::StrCat("is ", value, "; it must be finite"));
    publication->metrics.emplace(name, value);
  }
  if (header.size_bytes() < 1 || header.size_bytes() > EncoderImporter::kMaxWeightBytes) {
    return InvalidField("header.size_bytes", Range(header.size_bytes(), 1, EncoderImporter::kMaxWeightBytes));
  }
  publication->size_bytes = header.size_bytes();
  publication->sha256 = header.sha256();
  for (char& c : publication->sha256) c = c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c;
  if (!IsHex(publication->sha256, 64)) {
    return InvalidField("header.sha256", absl::StrCat("is ", Quoted(header.sha256()), "; it must be the 64 hex digits of the weights' SHA-256"));
  }
  return absl::OkStatus();
}

absl::Status ReadQueryVectors(const loci::v1::Matrix& matrix, TrainingRetrieveCall* call) {
  if (matrix.rows() < 1 || matrix.rows() > kMaxTrainingQueries) {
    return InvalidField("query_vectors.rows", Range(matrix.rows(), 1, kMaxTrainingQueries));
  }
  if (matrix.cols() > kMaxTrainingQueryElements / matrix.rows()) {
    return InvalidField("query_vectors", absl::StrCat("have ", matrix.rows(), " rows of ", matrix.cols(), " numbers; the limit is ",
                                                      kMaxTrainingQueryElements, " numbers at once"));
  }
  call->query_count = matrix.rows();
  call->query_dim = matrix.cols();
  if (matrix.type() == loci::v1::VECTOR_TYPE_FLOAT64) {
    LOCI_ASSIGN_OR_RETURN(DoubleMatrix doubles, DecodeDoubles(matrix, "query_vectors", NonFinite::kRefuse));
    call->queries = std::move(doubles.values);
  } else {
    LOCI_ASSIGN_OR_RETURN(DecodedMatrix floats, DecodeMatrix(matrix, "query_vectors", NonFinite::kRefuse));
    call->queries = std::move(floats.values);
  }
  return absl::OkStatus();
}

absl::Status ReadExclusions(const loci::v1::RetrieveRequest& request, TrainingRetrieveCall* call) {
  if (request.exclusions_size() != 0 && request.exclusions_size() != call->query_count) {
    return InvalidField("exclusions", absl::StrCat("has ", request.exclusions_size(), " entries; it must have one a query, ", call->query_count,
                                                   ", or none"));
  }
  int64_t total = 0;
  for (int i = 0; i < request.exclusions_size(); ++i) {
    const auto& ids = request.exclusions(i).ids();
    LOCI_RETURN_IF_ERROR(CheckCount(absl::StrCat(Element("exclusions", i), ".ids"), ids.size(), 0, kMaxExcludedIds));
    total += ids.size();
    if (total > kMaxAllExcludedIds) return InvalidField("exclusions", absl::StrCat("have more than ", kMaxAllExcludedIds, " ids in all"));
    call->excluded.emplace_back(ids.begin(), ids.end());
  }
  return absl::OkStatus();
}

absl::StatusOr<DoubleMatrix> ReadFeedback(const loci::v1::Matrix& matrix, const char* field) {
  LOCI_ASSIGN_OR_RETURN(const ElementType type, ElementTypeOf(matrix.type(), absl::StrCat(field, ".type")));
  if (type == ElementType::kInt8) return InvalidField(absl::StrCat(field, ".type"), "is int8; it must be float32, float16, bfloat16 or float64");
  const int64_t count = static_cast<int64_t>(matrix.data().size() / ElementSize(type));
  if (count > kMaxFeedbackElements) {
    return InvalidField(field, absl::StrCat("has ", count, " numbers; the limit is ", kMaxFeedbackElements));
  }
  return DecodeDoubles(matrix, field, NonFinite::kKeep);  // -infinity is a likelihood of 0; who knows the handle's columns judges the others.
}

}  // namespace

absl::Status ValidateLease(int32_t lease_ms) {
  if (lease_ms == 0 || (lease_ms >= kMinLeaseMs && lease_ms <= kMaxLeaseMs)) return absl::OkStatus();
  return InvalidField("lease_ms", absl::StrCat(Range(lease_ms, kMinLeaseMs, kMaxLeaseMs), ", or 0 for the default"));
}

absl::Status ValidateSessionId(const std::string& session_id) {
  if (!session_id.empty()) return absl::OkStatus();
  return InvalidField("session_id", "is empty; it must be what OpenSession replied");
}

absl::StatusOr<TrainingRetrieveCall> ValidateRetrieve(const loci::v1::RetrieveRequest& request, const RequestLimits& limits) {
  TrainingRetrieveCall call;
  LOCI_RETURN_IF_ERROR(ValidateSessionId(request.session_id()));
  call.session_id = request.session_id();
  const bool has_vectors = request.has_query_vectors() && !IsUnset(request.query_vectors());
  if (has_vectors == (request.query_texts_size() > 0)) {
    return InvalidField("query_vectors", has_vectors ? "and query_texts are both there; it must be one of them" : "and query_texts are both empty");
  }
  if (has_vectors) {
    LOCI_RETURN_IF_ERROR(ReadQueryVectors(request.query_vectors(), &call));
  } else {
    LOCI_RETURN_IF_ERROR(CheckCount("query_texts", request.query_texts_size(), 1, kMaxTrainingQueries));
    for (int i = 0; i < request.query_texts_size(); ++i) LOCI_RETURN_IF_ERROR(CheckQuestion(Element("query_texts", i), request.query_texts(i)));
    call.query_count = request.query_texts_size();
    call.queries = std::vector<std::string>(request.query_texts().begin(), request.query_texts().end());
  }

  TrainingOptions& options = call.options;
  if (request.top_k() < 1 || request.top_k() > kMaxTopK) return InvalidField("top_k", Range(request.top_k(), 1, kMaxTopK));
  if (call.query_count * request.top_k() > kMaxHits) {
    return InvalidField("top_k", absl::StrCat("is ", request.top_k(), " for ", call.query_count, " queries; their product must be at most ", kMaxHits));
  }
  LOCI_ASSIGN_OR_RETURN(options.search, ValidateSearchOptions(request.options(), request.top_k(), call.query_count));
  options.search.top_k = request.top_k();
  options.search.limits = limits;
  LOCI_ASSIGN_OR_RETURN(options.estimator, ValidateEstimator(request.estimator()));
  if (request.temperature() != 0 && !(request.temperature() >= kMinTemperature && request.temperature() <= kMaxTemperature)) {
    return InvalidField("temperature", absl::StrCat("is ", request.temperature(), "; it must be from ", kMinTemperature, " to ", kMaxTemperature,
                                                    ", or 0 for 1"));
  }
  options.temperature = request.temperature() == 0 ? 1 : request.temperature();
  if (options.estimator == Estimator::kExactZTail) {
    if (request.tail_samples() < 1 || request.tail_samples() > kMaxTailSamples) {
      return InvalidField("tail_samples", Range(request.tail_samples(), 1, kMaxTailSamples));
    }
    if (call.query_count * request.tail_samples() > kMaxHits) {
      return InvalidField("tail_samples", absl::StrCat("is ", request.tail_samples(), " for ", call.query_count,
                                                       " queries; their product must be at most ", kMaxHits));
    }
  } else if (request.tail_samples() != 0) {
    return InvalidField("tail_samples", absl::StrCat("is ", request.tail_samples(), "; it goes with ESTIMATOR_EXACT_Z_TAIL only"));
  }
  options.tail_samples = request.tail_samples();
  options.seed = request.seed();
  if (!request.filter().empty()) {
    LOCI_ASSIGN_OR_RETURN(call.filter, FilterExpression::Parse(request.filter()));
  }
  LOCI_RETURN_IF_ERROR(ReadExclusions(request, &call));
  call.include_text = request.include_text();
  call.include_vectors = request.include_vectors();
  call.include_mean_vectors = request.include_mean_vectors();
  call.max_reply_bytes = kMaxMessageBytes;
  return call;
}

absl::StatusOr<ValidBackward> ValidateBackward(const loci::v1::BackwardRequest& request, const RequestLimits& limits) {
  ValidBackward valid;
  TrainingBackwardCall& call = valid.call;
  LOCI_RETURN_IF_ERROR(ValidateSessionId(request.session_id()));
  call.session_id = request.session_id();
  if (request.handle().empty()) return InvalidField("handle", "is empty; it must be what Retrieve replied");
  call.handle = request.handle();
  const bool has_likelihoods = request.has_log_likelihoods() && !IsUnset(request.log_likelihoods());
  const bool has_gradients = request.has_grad_log_probs() && !IsUnset(request.grad_log_probs());
  if (has_likelihoods == has_gradients) {
    return InvalidField("log_likelihoods", has_gradients ? "and grad_log_probs are both there; it must be one of them" : "and grad_log_probs are both empty");
  }
  const char* const field = has_likelihoods ? "log_likelihoods" : "grad_log_probs";
  LOCI_ASSIGN_OR_RETURN(DoubleMatrix feedback, ReadFeedback(has_likelihoods ? request.log_likelihoods() : request.grad_log_probs(), field));
  if (feedback.rows < 1) return InvalidField(absl::StrCat(field, ".rows"), "is 0; it must be at least 1");
  call.rows = feedback.rows;
  call.cols = feedback.cols;
  (has_likelihoods ? call.log_likelihoods : call.grad_log_probs) = std::move(feedback.values);
  call.row_query.assign(request.row_query().begin(), request.row_query().end());
  if (request.has_max_log_likelihood()) {
    if (std::isnan(request.max_log_likelihood()) || request.max_log_likelihood() == HUGE_VAL) {
      return InvalidField("max_log_likelihood", absl::StrCat("is ", request.max_log_likelihood(), "; it must be a number below infinity, or absent"));
    }
    call.max_log_likelihood = request.max_log_likelihood();
  }
  LOCI_ASSIGN_OR_RETURN(valid.vector_type, ElementTypeOf(request.vector_type(), "vector_type"));
  if (valid.vector_type != ElementType::kFloat32 && valid.vector_type != ElementType::kFloat64) {
    return InvalidField("vector_type", absl::StrCat("is ", AbslView(ElementTypeName(valid.vector_type)), "; it must be float32 or float64"));
  }
  call.include_passage_gradients = request.include_passage_gradients();
  call.element_bytes = static_cast<int64_t>(ElementSize(valid.vector_type));
  call.max_reply_bytes = kMaxMessageBytes;
  call.limits = limits;
  return valid;
}

absl::StatusOr<ValidPublish> ValidatePublishHeader(const loci::v1::PublishHeader& header) {
  ValidPublish valid;
  if (!header.store().empty()) {
    LOCI_ASSIGN_OR_RETURN(valid.store, ValidateStore(header.store()));
  }
  if (!header.fingerprint().empty()) {
    LOCI_RETURN_IF_ERROR(CheckEncoder("header.fingerprint", header.fingerprint(), /*half=*/false));
    if (header.halves() != 0 || header.size_bytes() != 0 || !header.sha256().empty() || !header.parent_fingerprint().empty() ||
        !header.job_name().empty() || header.metrics_size() > 0) {
      return InvalidField("header.fingerprint", "names an encoder that is there; nothing may be said of weights, which do not come");
    }
    if (valid.store.empty()) return InvalidField("header.store", "is empty; with header.fingerprint it must name the store that the encoder goes into");
    valid.fingerprint = header.fingerprint();
  } else {
    if (!header.parent_fingerprint().empty()) {
      LOCI_RETURN_IF_ERROR(CheckEncoder("header.parent_fingerprint", header.parent_fingerprint(), /*half=*/true));
    }
    valid.parent_fingerprint = header.parent_fingerprint();
    LOCI_RETURN_IF_ERROR(ReadWeightsOfHeader(header, &valid.publication));
  }
  if (const double share = header.max_encoder_share(); share != 0) {
    if (!(share >= 0.01 && share <= 1)) return InvalidField("header.max_encoder_share", absl::StrCat("is ", share, "; it must be from 0.01 to 1, or 0"));
    valid.max_encoder_share = share;
  }
  if (header.no_activate() && valid.store.empty()) return InvalidField("header.no_activate", "is set, but no store is named");
  if (header.no_activate() && valid.fingerprint.empty() && valid.publication.halves == EncoderHalves::kQuery) {
    return InvalidField("header.no_activate", "is set for a query half, for which nothing is built; name no store to have it stored alone");
  }
  valid.activate = !header.no_activate();
  return valid;
}

}  // namespace loci
