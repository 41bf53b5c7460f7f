#include "server/validation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/utf8.h"
#include "encoder/fidelity.h"
#include "index/filter_expression.h"
#include "index/index_specification.h"
#include "index/store.h"
#include "retriever/passage_validation.h"
#include "server/field_checks.h"
#include "server/request_errors.h"

namespace loci {
namespace {

absl::Status CheckIds(const google::protobuf::RepeatedPtrField<std::string>& ids) {
  LOCI_RETURN_IF_ERROR(CheckCount("ids", ids.size(), 1, kMaxPassages));
  for (int i = 0; i < ids.size(); ++i) {
    const int64_t size = static_cast<int64_t>(ids[i].size());
    if (size < 1 || size > kMaxIdBytes) {
      return InvalidField(Element("ids", i), absl::StrCat("has ", size, " bytes; it must have from 1 to ", kMaxIdBytes));
    }
    if (ids[i].find('\0') != std::string::npos) return InvalidField(Element("ids", i), "has a NUL character");
  }
  return absl::OkStatus();
}

// "QUERY:PASSAGE" or one half. Another word is no encoder's, and must not become a path.
absl::Status CheckFingerprint(std::string_view fingerprint) {
  auto is_half = [](std::string_view half) {
    return half.size() == 16 && std::all_of(half.begin(), half.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  };
  if (fingerprint.empty() || is_half(fingerprint)) return absl::OkStatus();
  if (fingerprint.size() == 33 && fingerprint[16] == ':' && is_half(fingerprint.substr(0, 16)) && is_half(fingerprint.substr(17))) {
    return absl::OkStatus();
  }
  return ErrorWithReason(absl::NotFoundError(absl::StrCat("no encoder ", Quoted(fingerprint),
                                                          "; encoders are named QUERY:PASSAGE, 16 hex digits each, or by one half")),
                         "ENCODER_NOT_FOUND", {{"encoder", std::string(fingerprint.substr(0, 33))}});
}

// A one-row matrix.
absl::StatusOr<std::vector<float>> QueryVector(const loci::v1::Matrix& matrix, std::string_view field) {
  if (matrix.rows() != 1) {
    return InvalidField(absl::StrCat(AbslView(field), ".rows"), absl::StrCat("is ", matrix.rows(), "; a query vector has 1 row"));
  }
  LOCI_ASSIGN_OR_RETURN(DecodedMatrix decoded, DecodeMatrix(matrix, field, NonFinite::kRefuse));
  return std::move(decoded.values);
}

}  // namespace

absl::StatusOr<IndexSearchOptions> ValidateSearchOptions(const loci::v1::SearchOptions& options, int64_t top_k, int64_t query_count) {
  IndexSearchOptions result;
  result.exact = options.exact();
  if (options.nprobe() < 0) {
    return InvalidField("options.nprobe", absl::StrCat("is ", options.nprobe(), "; it must be at least 1, or 0 for the index's default"));
  }
  result.nprobe = options.nprobe();
  if (options.ef_search() < 0 || options.ef_search() > kMaxEfSearch) {
    return InvalidField("options.ef_search", absl::StrCat("is ", options.ef_search(), "; it must be from 1 to ", kMaxEfSearch,
                                                          ", or 0 for the index's default"));
  }
  result.ef_search = options.ef_search();
  if (options.rescore_factor() < 0 || options.rescore_factor() > kMaxRescoreFactor) {
    return InvalidField("options.rescore_factor", absl::StrCat("is ", options.rescore_factor(), "; it must be from 1 to ", kMaxRescoreFactor,
                                                               ", or 0 for the index's default"));
  }
  if (int64_t{options.rescore_factor()} * top_k > kMaxCandidates || int64_t{options.rescore_factor()} * top_k * query_count > kMaxRescored) {
    return InvalidField("options.rescore_factor",
                        absl::StrCat("is ", options.rescore_factor(), " for ", query_count, " queries of top_k ", top_k, "; times top_k it must be at most ",
                                     kMaxCandidates, ", and times the queries at most ", kMaxRescored));
  }
  result.rescore_factor = options.rescore_factor();
  if (!(options.recall_target() >= 0 && options.recall_target() <= 1)) {
    return InvalidField("options.recall_target", absl::StrCat("is ", options.recall_target(), "; it must be above 0 and at most 1, or 0 for none"));
  }
  result.recall_target = options.recall_target();
  if (result.recall_target > 0 && (result.nprobe != 0 || result.ef_search != 0 || result.rescore_factor != 0)) {
    return InvalidField("options.recall_target", "does not go with nprobe, ef_search or rescore_factor: it chooses them");
  }
  return result;
}

absl::StatusOr<std::string> ValidateStore(std::string_view store) {
  if (store.empty()) return std::string(kDefaultStore);
  LOCI_RETURN_IF_ERROR(InField(ValidateStoreName(store), "store"));
  return std::string(store);
}

absl::Status ValidateGeneration(std::string_view store, std::string_view generation) {
  auto is_name = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.';
  };
  if (generation.empty()) return absl::OkStatus();
  if (generation.size() <= 64 && generation[0] != '.' && std::all_of(generation.begin(), generation.end(), is_name)) {
    return absl::OkStatus();
  }
  return GenerationNotFound(store, generation);
}

absl::StatusOr<ValidEncode> ValidateEncode(const loci::v1::EncodeRequest& request, const RequestLimits& limits) {
  ValidEncode result;
  result.call.encoder = request.encoder();
  LOCI_RETURN_IF_ERROR(CheckCount("texts", request.texts_size(), 1, kMaxTexts));
  for (int i = 0; i < request.texts_size(); ++i) LOCI_RETURN_IF_ERROR(CheckText(Element("texts", i), request.texts(i)));
  switch (request.role()) {
    case loci::v1::TEXT_ROLE_UNSPECIFIED:
    case loci::v1::TEXT_ROLE_PASSAGE:
      result.call.options.role = TextRole::kPassage;
      break;
    case loci::v1::TEXT_ROLE_QUERY:
      result.call.options.role = TextRole::kQuery;
      break;
    default:
      return InvalidField("role", Range(request.role(), 0, 2));
  }
  switch (request.truncation()) {
    case loci::v1::TRUNCATION_UNSPECIFIED:
    case loci::v1::TRUNCATION_TRUNCATE:
      result.call.options.truncation = Truncation::kTruncate;
      break;
    case loci::v1::TRUNCATION_POOL_WINDOWS:
      result.call.options.truncation = Truncation::kPoolWindows;
      break;
    case loci::v1::TRUNCATION_REFUSE:
      result.call.options.truncation = Truncation::kRefuse;
      break;
    default:
      return InvalidField("truncation", Range(request.truncation(), 0, 3));
  }
  LOCI_ASSIGN_OR_RETURN(result.vector_type, ElementTypeOf(request.vector_type(), "vector_type"));
  result.call.texts.assign(request.texts().begin(), request.texts().end());
  result.call.options.limits = limits;
  return result;
}

absl::StatusOr<SearchCall> ValidateSearch(const loci::v1::SearchRequest& request, const RequestLimits& limits) {
  SearchCall result;
  LOCI_ASSIGN_OR_RETURN(result.store, ValidateStore(request.store()));
  LOCI_RETURN_IF_ERROR(ValidateGeneration(result.store, request.generation()));
  result.generation = request.generation();
  if (request.top_k() < 1 || request.top_k() > kMaxTopK) return InvalidField("top_k", Range(request.top_k(), 1, kMaxTopK));
  LOCI_RETURN_IF_ERROR(CheckCount("queries", request.queries_size(), 1, kMaxQueries));
  if (int64_t{request.queries_size()} * request.top_k() > kMaxHits) {
    return InvalidField("top_k", absl::StrCat("is ", request.top_k(), " for ", request.queries_size(),
                                              " queries; their product must be at most ", kMaxHits));
  }
  LOCI_ASSIGN_OR_RETURN(result.options, ValidateSearchOptions(request.options(), request.top_k(), request.queries_size()));
  if (!request.filter().empty()) {
    LOCI_ASSIGN_OR_RETURN(result.filter, FilterExpression::Parse(request.filter()));
  }
  result.queries.reserve(request.queries_size());
  for (int i = 0; i < request.queries_size(); ++i) {
    const loci::v1::Query& query = request.queries(i);
    switch (query.kind_case()) {
      case loci::v1::Query::kText:
        LOCI_RETURN_IF_ERROR(CheckQuestion(absl::StrCat(Element("queries", i), ".text"), query.text()));
        result.queries.emplace_back(query.text());
        break;
      case loci::v1::Query::kVector: {
        LOCI_ASSIGN_OR_RETURN(std::vector<float> vector, QueryVector(query.vector(), absl::StrCat(Element("queries", i), ".vector")));
        result.queries.emplace_back(std::move(vector));
        break;
      }
      case loci::v1::Query::KIND_NOT_SET:
        return InvalidField(Element("queries", i), "is empty; it must have a text or a vector");
    }
  }
  result.options.top_k = request.top_k();
  result.options.limits = limits;
  result.include_text = request.include_text();
  result.include_vectors = request.include_vectors();
  return result;
}

absl::StatusOr<AnswerCall> ValidateAnswer(const loci::v1::AnswerRequest& request, const RequestLimits& limits) {
  AnswerCall result;
  LOCI_ASSIGN_OR_RETURN(result.store, ValidateStore(request.store()));
  LOCI_RETURN_IF_ERROR(ValidateGeneration(result.store, request.generation()));
  result.generation = request.generation();
  LOCI_RETURN_IF_ERROR(CheckQuestion("question", request.question()));
  if (request.top_k() < 0 || request.top_k() > kMaxAnswerPassages) {
    return InvalidField("top_k", absl::StrCat("is ", request.top_k(), "; it must be from 1 to ", kMaxAnswerPassages, ", or 0 for ",
                                              kDefaultAnswerPassages));
  }
  if (request.max_answers() < 0 || request.max_answers() > kMaxAnswers) {
    return InvalidField("max_answers", absl::StrCat("is ", request.max_answers(), "; it must be from 1 to ", kMaxAnswers, ", or 0 for 1"));
  }
  if (!request.filter().empty()) {
    LOCI_ASSIGN_OR_RETURN(result.filter, FilterExpression::Parse(request.filter()));
  }
  if (static_cast<int64_t>(request.reader().size()) > kMaxIdBytes) {
    return InvalidField("reader", absl::StrCat("has ", request.reader().size(), " bytes; the limit is ", kMaxIdBytes));
  }
  result.question = request.question();
  result.top_k = request.top_k() == 0 ? kDefaultAnswerPassages : request.top_k();
  result.max_answers = request.max_answers() == 0 ? 1 : request.max_answers();
  if (!request.reader().empty()) result.reader = request.reader();
  result.limits = limits;
  return result;
}

absl::Status ValidateKeepGenerations(int32_t keep_generations) {
  if (keep_generations >= 0 && keep_generations <= kMaxKeepGenerations) return absl::OkStatus();
  return InvalidField("keep_generations", Range(keep_generations, 0, kMaxKeepGenerations));
}

absl::StatusOr<bool> ValidateStorePrecision(const std::string& encoder_precision) {
  if (encoder_precision == "auto") return false;
  if (encoder_precision == "int8") return true;
  return InvalidField("encoder_precision", absl::StrCat("is \"", encoder_precision.substr(0, Utf8Prefix(encoder_precision, 64)),
                                                        "\"; it must be auto or int8"));
}

absl::StatusOr<ValidCompare> ValidateCompare(const loci::v1::CompareGenerationsRequest& request) {
  ValidCompare valid;
  LOCI_ASSIGN_OR_RETURN(valid.store, ValidateStore(request.store()));
  LOCI_RETURN_IF_ERROR(ValidateGeneration(valid.store, request.generation_a()));
  if (request.generation_b().empty()) return InvalidField("generation_b", "is empty; it must name the generation to compare with");
  LOCI_RETURN_IF_ERROR(ValidateGeneration(valid.store, request.generation_b()));
  LOCI_RETURN_IF_ERROR(CheckCount("queries", request.queries_size(), 1, kMaxQueries));
  for (int i = 0; i < request.queries_size(); ++i) LOCI_RETURN_IF_ERROR(CheckQuestion(Element("queries", i), request.queries(i)));
  valid.top_k = request.top_k() == 0 ? kDefaultCompareTopK : request.top_k();
  if (valid.top_k < 1 || valid.top_k > kMaxCompareTopK) return InvalidField("top_k", Range(request.top_k(), 1, kMaxCompareTopK));
  if (int64_t{request.queries_size()} * valid.top_k > kMaxComparedHits) {
    return InvalidField("top_k", absl::StrCat("is ", valid.top_k, " for ", request.queries_size(), " queries; the product of both must be at most ",
                                              kMaxComparedHits));
  }
  valid.queries.assign(request.queries().begin(), request.queries().end());
  return valid;
}

absl::StatusOr<ValidTune> ValidateTune(const loci::v1::TuneStoreRequest& request) {
  constexpr int64_t kMinSampleRows = 1'000, kMaxSampleRows = 1'000'000;
  ValidTune valid;
  LOCI_ASSIGN_OR_RETURN(valid.store, ValidateStore(request.store()));
  if (!(request.recall_target() > 0 && request.recall_target() <= 1)) {
    return InvalidField("recall_target", absl::StrCat("is ", request.recall_target(), "; it must be above 0 and at most 1"));
  }
  valid.options.recall_target = request.recall_target();
  if (request.memory_budget_bytes() != 0 && request.memory_budget_bytes() < kMinMemoryBudgetBytes) {
    return InvalidField("memory_budget_bytes", absl::StrCat("is ", request.memory_budget_bytes(), "; it must be at least ", kMinMemoryBudgetBytes,
                                                            ", or 0 for any"));
  }
  valid.options.memory_budget_bytes = request.memory_budget_bytes();
  LOCI_RETURN_IF_ERROR(CheckCount("queries", request.queries_size(), 0, kMaxQueries));
  for (int i = 0; i < request.queries_size(); ++i) LOCI_RETURN_IF_ERROR(CheckQuestion(Element("queries", i), request.queries(i)));
  valid.options.queries.assign(request.queries().begin(), request.queries().end());
  if (request.sample_row_count() != 0 && (request.sample_row_count() < kMinSampleRows || request.sample_row_count() > kMaxSampleRows)) {
    return InvalidField("sample_row_count", absl::StrCat("is ", request.sample_row_count(), "; it must be from ", kMinSampleRows, " to ",
                                                         kMaxSampleRows, ", or 0 for ", kTuningSampleRows));
  }
  if (request.sample_row_count() != 0) valid.options.sample_rows = request.sample_row_count();
  return valid;
}

absl::StatusOr<ValidQuantize> ValidateQuantize(const loci::v1::QuantizeStoreRequest& request) {
  ValidQuantize valid;
  LOCI_ASSIGN_OR_RETURN(valid.store, ValidateStore(request.store()));
  valid.sample_count = request.sample_count() == 0 ? kDefaultFidelitySample : request.sample_count();
  if (valid.sample_count < kMinFidelityTexts || valid.sample_count > kMaxFidelityTexts) {
    return InvalidField("sample_count", absl::StrCat("is ", request.sample_count(), "; it must be from ", kMinFidelityTexts, " to ", kMaxFidelityTexts,
                                                     ", or 0 for ", kDefaultFidelitySample));
  }
  return valid;
}

absl::StatusOr<ActivationGates> ValidateGates(const loci::v1::ActivationGates& gates) {
  ActivationGates result;
  const auto take_share = [](bool is_set, double value, const char* field, std::optional<double>* out) -> absl::Status {
    if (!is_set) return absl::OkStatus();
    if (!(value >= 0 && value <= 1)) return InvalidField(field, absl::StrCat("is ", value, "; it must be from 0 to 1"));
    *out = value;
    return absl::OkStatus();
  };
  LOCI_RETURN_IF_ERROR(take_share(gates.has_min_ndcg_at_10(), gates.min_ndcg_at_10(), "gates.min_ndcg_at_10", &result.min_ndcg_at_10));
  LOCI_RETURN_IF_ERROR(take_share(gates.has_min_recall_at_10(), gates.min_recall_at_10(), "gates.min_recall_at_10", &result.min_recall_at_10));
  LOCI_RETURN_IF_ERROR(take_share(gates.has_min_overlap_at_10(), gates.min_overlap_at_10(), "gates.min_overlap_at_10", &result.min_overlap_at_10));
  if (gates.has_max_p99_us()) {
    if (gates.max_p99_us() <= 0) return InvalidField("gates.max_p99_us", absl::StrCat("is ", gates.max_p99_us(), "; it must be above 0"));
    result.max_p99_us = gates.max_p99_us();
  }
  const bool has_condition = result.min_ndcg_at_10.has_value() || result.min_recall_at_10.has_value() || result.min_overlap_at_10.has_value() ||
                             result.max_p99_us.has_value();
  if (!has_condition && gates.queries().empty()) return result;
  LOCI_RETURN_IF_ERROR(CheckCount("gates.queries", gates.queries_size(), 1, kMaxQueries));
  int64_t judgement_count = 0;
  bool judged = false;
  for (int i = 0; i < gates.queries_size(); ++i) {
    const loci::v1::GateQuery& query = gates.queries(i);
    const std::string field = absl::StrCat("gates.queries[", i, "]");
    if (query.text().empty()) return InvalidField(field + ".text", "is empty");
    if (static_cast<int64_t>(query.text().size()) > kMaxTextBytes) {
      return InvalidField(field + ".text", absl::StrCat("has ", query.text().size(), " bytes; the limit is ", kMaxTextBytes));
    }
    judgement_count += query.judgements_size();
    if (judgement_count > kMaxJudgements) return InvalidField("gates.queries", absl::StrCat("have more than ", kMaxJudgements, " judgements"));
    GateQuery& taken = result.queries.emplace_back();
    taken.text = query.text();
    for (int j = 0; j < query.judgements_size(); ++j) {
      const loci::v1::GateQuery::Judgement& judgement = query.judgements(j);
      if (const absl::Status valid = ValidatePassageId(judgement.id()); !valid.ok()) {
        return InvalidField(absl::StrCat(field, ".judgements[", j, "]"), absl::StrCat("has a bad id: ", valid.message()));
      }
      if (!taken.grades.emplace(judgement.id(), judgement.grade()).second) {
        return InvalidField(field + ".judgements", absl::StrCat("judge ", Quoted(judgement.id()), " twice"));
      }
    }
    judged |= HasRelevant(taken.grades);
  }
  if (!judged && (result.min_ndcg_at_10.has_value() || result.min_recall_at_10.has_value())) {
    return InvalidField("gates.queries", "have no judgement of a grade above 0, which min_ndcg_at_10 and min_recall_at_10 are measured by");
  }
  return result;
}

absl::StatusOr<WatchConditions> ValidateWatch(const loci::v1::ActivationWatch& watch) {
  WatchConditions result;
  if (watch.watch_ms() < 0 || watch.watch_ms() > kMaxWatchMs) {
    return InvalidField("watch.watch_ms", absl::StrCat("is ", watch.watch_ms(), "; it must be from 0 to ", kMaxWatchMs));
  }
  if (watch.has_max_error_rate()) {
    if (!(watch.max_error_rate() >= 0 && watch.max_error_rate() <= 1)) {
      return InvalidField("watch.max_error_rate", absl::StrCat("is ", watch.max_error_rate(), "; it must be from 0 to 1"));
    }
    result.max_error_rate = watch.max_error_rate();
  }
  if (watch.has_max_p99_us()) {
    if (watch.max_p99_us() <= 0) return InvalidField("watch.max_p99_us", absl::StrCat("is ", watch.max_p99_us(), "; it must be above 0"));
    result.max_p99_us = watch.max_p99_us();
  }
  if (watch.min_requests() < 0) return InvalidField("watch.min_requests", absl::StrCat("is ", watch.min_requests(), "; it must be 0 or more"));
  if (watch.min_requests() > 0) result.min_requests = watch.min_requests();
  if (watch.watch_ms() == 0 && (result.max_error_rate.has_value() || result.max_p99_us.has_value() || watch.min_requests() > 0)) {
    return InvalidField("watch.watch_ms", "is 0, and conditions of a watch are set; it must say how long it lasts");
  }
  result.watch_us = watch.watch_ms() * 1000;
  return result;
}

absl::StatusOr<ActivationStrategy> ValidateStrategy(loci::v1::ActivationStrategy strategy) {
  switch (strategy) {
    case loci::v1::ACTIVATION_STRATEGY_UNSPECIFIED:
    case loci::v1::ACTIVATION_STRATEGY_BLUE_GREEN:
      return ActivationStrategy::kBlueGreen;
    case loci::v1::ACTIVATION_STRATEGY_IN_PLACE:
      return ActivationStrategy::kInPlace;
    default:
      return InvalidField("strategy", Range(strategy, 0, 2));
  }
}

absl::StatusOr<WritesPolicy> ValidateWritesSince(loci::v1::WritesSince writes_since) {
  switch (writes_since) {
    case loci::v1::WRITES_SINCE_UNSPECIFIED:
      return WritesPolicy::kRefuse;
    case loci::v1::WRITES_SINCE_REPLAY:
      return WritesPolicy::kReplay;
    case loci::v1::WRITES_SINCE_DISCARD:
      return WritesPolicy::kDiscard;
    default:
      return InvalidField("writes_since", Range(writes_since, 0, 2));
  }
}

namespace {

absl::StatusOr<LinePolicy> ValidateLinePolicy(loci::v1::LinePolicy policy, std::string_view field) {
  switch (policy) {
    case loci::v1::LINE_POLICY_UNSPECIFIED:
      return LinePolicy::kDefault;
    case loci::v1::LINE_POLICY_SKIP:
      return LinePolicy::kSkip;
    case loci::v1::LINE_POLICY_FAIL:
      return LinePolicy::kFail;
    default:
      return InvalidField(field, Range(policy, 0, 2));
  }
}

}  // namespace

namespace {

absl::Status ValidateIndexSpec(const loci::v1::IndexSpec& index) {
  LOCI_ASSIGN_OR_RETURN(const ElementType type, ElementTypeOf(index.vector_type(), "header.index.vector_type"));
  if (type == ElementType::kInt8 || type == ElementType::kFloat64) {
    return InvalidField("header.index.vector_type",
                        absl::StrCat("is ", AbslView(ElementTypeName(type)), "; vectors are stored as float32, float16 or bfloat16"));
  }
  if (index.factory().size() > 256) {
    return InvalidField("header.index.factory", absl::StrCat("has ", index.factory().size(), " bytes; the limit is 256"));
  }
  if (IsExactIndex(index.factory())) LOCI_RETURN_IF_ERROR(InField(ParseExactIndex(index.factory()).status(), "header"));
  if (IsAutoIndex(index.factory())) LOCI_RETURN_IF_ERROR(InField(ParseAutoIndex(index.factory()).status(), "header"));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<IngestOptions> ValidateIngestHeader(const loci::v1::IngestHeader& header, const RequestLimits& limits) {
  IngestOptions result;
  LOCI_ASSIGN_OR_RETURN(result.store, ValidateStore(header.store()));
  LOCI_ASSIGN_OR_RETURN(result.writes_since, ValidateWritesSince(header.writes_since()));
  LOCI_RETURN_IF_ERROR(CheckFingerprint(header.encoder_fingerprint()));
  result.encoder_fingerprint = header.encoder_fingerprint();
  switch (header.mode()) {
    case loci::v1::INGEST_MODE_UNSPECIFIED:
    case loci::v1::INGEST_MODE_NEW_GENERATION:
      result.mode = IngestMode::kNewGeneration;
      break;
    case loci::v1::INGEST_MODE_UPSERT:
      result.mode = IngestMode::kUpsert;
      break;
    default:
      return InvalidField("header.mode", Range(header.mode(), 0, 2));
  }
  LOCI_ASSIGN_OR_RETURN(result.bad_lines, ValidateLinePolicy(header.bad_lines(), "header.bad_lines"));
  LOCI_ASSIGN_OR_RETURN(result.duplicates, ValidateLinePolicy(header.duplicates(), "header.duplicates"));
  result.reencode = header.reencode();
  if (header.has_chunking()) {
    // Their upper ends are the encoder's business: see Ingester.
    if (header.chunking().max_tokens() < 0) {
      return InvalidField("header.chunking.max_tokens",
                          absl::StrCat("is ", header.chunking().max_tokens(), "; it must be from 16 to the encoder's length, or 0 for that"));
    }
    if (header.chunking().overlap_tokens() < 0) {
      return InvalidField("header.chunking.overlap_tokens",
                          absl::StrCat("is ", header.chunking().overlap_tokens(), "; it must be from 0 to half of max_tokens"));
    }
    result.chunking = ChunkingOptions{.max_tokens = header.chunking().max_tokens(), .overlap_tokens = header.chunking().overlap_tokens()};
  }
  LOCI_RETURN_IF_ERROR(ValidateIndexSpec(header.index()));
  LOCI_ASSIGN_OR_RETURN(result.element_type, ElementTypeOf(header.index().vector_type(), "header.index.vector_type"));
  if (!header.index().factory().empty()) result.index = header.index().factory();
  result.activate = !header.no_activate();
  if (result.mode == IngestMode::kUpsert) {
    // Passed over, these would look as if they had been obeyed.
    if (!header.index().factory().empty() || header.index().vector_type() != loci::v1::VECTOR_TYPE_UNSPECIFIED) {
      return InvalidField("header.index", "goes with INGEST_MODE_NEW_GENERATION only; upserts go into the generation that is active");
    }
    if (header.no_activate()) return InvalidField("header.no_activate", "goes with INGEST_MODE_NEW_GENERATION only");
    if (header.writes_since() != loci::v1::WRITES_SINCE_UNSPECIFIED) {
      return InvalidField("header.writes_since", "goes with INGEST_MODE_NEW_GENERATION only");
    }
  }
  result.limits = limits;
  return result;
}

constexpr double kLeastEncoderShare = 0.01;

absl::StatusOr<ReembedOptions> ValidateReembed(const loci::v1::ReembedStoreRequest& request) {
  ReembedOptions options;
  LOCI_ASSIGN_OR_RETURN(options.store, ValidateStore(request.store()));
  if (request.encoder().empty()) return InvalidField("encoder", "is empty; it must name the encoder to encode with");
  loci::v1::IndexSpec index;
  index.set_factory(request.index());
  LOCI_RETURN_IF_ERROR(ValidateIndexSpec(index));
  options.index = request.index();
  options.activate = !request.no_activate();
  const double share = request.max_encoder_share();
  if (share != 0 && !(share >= kLeastEncoderShare && share <= 1)) {
    return InvalidField("max_encoder_share", absl::StrCat("is ", share, "; it must be from ", kLeastEncoderShare, " to 1, or 0"));
  }
  options.max_encoder_share = share == 0 ? 1 : share;
  return options;
}

absl::StatusOr<ImportOptions> ValidateImportHeader(const loci::v1::ImportHeader& header, const RequestLimits& limits) {
  ImportOptions result;
  LOCI_ASSIGN_OR_RETURN(result.store, ValidateStore(header.store()));
  LOCI_ASSIGN_OR_RETURN(result.writes_since, ValidateWritesSince(header.writes_since()));
  LOCI_RETURN_IF_ERROR(ValidateIndexSpec(header.index()));
  result.index = header.index().factory();
  if (header.index().vector_type() != loci::v1::VECTOR_TYPE_UNSPECIFIED) {
    LOCI_ASSIGN_OR_RETURN(result.element_type, ElementTypeOf(header.index().vector_type(), "header.index.vector_type"));
  }
  result.activate = !header.no_activate();
  result.allow_unknown_encoder = header.allow_unknown_encoder();
  if (result.allow_unknown_encoder && result.activate) {
    return InvalidField("header.allow_unknown_encoder", "goes with no_activate only; what no encoder serves can't answer");
  }
  result.limits = limits;
  return result;
}

absl::StatusOr<DecodedMatrix> ValidateBatch(const loci::v1::PassageBatch& batch) {
  LOCI_RETURN_IF_ERROR(CheckCount("batch.passages", batch.passages_size(), 0, kMaxPassages));
  const loci::v1::Matrix& vectors = batch.vectors();
  if (!batch.has_vectors() || (vectors.rows() == 0 && vectors.cols() == 0 && vectors.data().empty())) return DecodedMatrix{};
  if (vectors.rows() != batch.passages_size()) {
    return InvalidField("batch.vectors.rows", absl::StrCat("is ", vectors.rows(), "; the batch has ", batch.passages_size(), " passages"));
  }
  return DecodeMatrix(vectors, "batch.vectors", NonFinite::kKeep);
}

absl::StatusOr<ValidUpsert> ValidateUpsert(const loci::v1::UpsertPassagesRequest& request) {
  ValidUpsert result;
  LOCI_ASSIGN_OR_RETURN(result.store, ValidateStore(request.store()));
  LOCI_RETURN_IF_ERROR(CheckCount("passages", request.passages_size(), 1, kMaxPassages));
  for (int i = 0; i < request.passages_size(); ++i) {
    const absl::Status status = ValidatePassage(request.passages(i));
    if (!status.ok()) return InField(Annotate(status, Element("passages", i)), Element("passages", i));
  }
  result.passages.assign(request.passages().begin(), request.passages().end());
  return result;
}

absl::StatusOr<ValidDelete> ValidateDelete(const loci::v1::DeletePassagesRequest& request) {
  ValidDelete result;
  LOCI_ASSIGN_OR_RETURN(result.store, ValidateStore(request.store()));
  LOCI_RETURN_IF_ERROR(CheckIds(request.ids()));
  result.ids.assign(request.ids().begin(), request.ids().end());
  return result;
}

absl::StatusOr<std::string> ValidateGetPassages(const loci::v1::GetPassagesRequest& request) {
  LOCI_ASSIGN_OR_RETURN(std::string store, ValidateStore(request.store()));
  LOCI_RETURN_IF_ERROR(ValidateGeneration(store, request.generation()));
  LOCI_RETURN_IF_ERROR(CheckIds(request.ids()));
  return store;
}

absl::StatusOr<std::string> ValidateDeleteStore(const loci::v1::DeleteStoreRequest& request) {
  LOCI_ASSIGN_OR_RETURN(std::string store, ValidateStore(request.store()));
  if (request.confirm_name() != store) {
    return InvalidField("confirm_name",
                        absl::StrCat("is ", Quoted(request.confirm_name()), "; it must repeat the store's name, ", Quoted(store)));
  }
  return store;
}

}  // namespace loci
