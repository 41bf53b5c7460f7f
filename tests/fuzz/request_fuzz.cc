// Whatever bytes a client sends, validation answers with a call whose promises hold or with an error that a client may see.
//
// The first byte of the input chooses the message, the rest is its wire format. gRPC parses before we are asked, so that bytes that
// do not parse are not our case.
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/utf8.h"
#include "server/training_validation.h"
#include "server/validation.h"

namespace {

void Require(bool condition) {
  if (!condition) __builtin_trap();
}

void RequireError(const absl::Status& status) {
  Require(!status.ok());
  Require(status.code() == absl::StatusCode::kInvalidArgument || status.code() == absl::StatusCode::kNotFound ||
          status.code() == absl::StatusCode::kUnimplemented);
  Require(!status.message().empty() && status.message().size() < 2048);
  Require(loci::IsValidUtf8(std::string(status.message())));
}

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= 64 && name.find('/') == std::string_view::npos && name[0] != '.' && name.find('\0') == std::string_view::npos;
}

template <typename Request, typename Validate, typename Check>
void Run(std::string_view bytes, Validate validate, Check check) {
  Request request;
  if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return;
  auto result = validate(request);
  if (result.ok()) {
    check(request, *result);
  } else {
    RequireError(result.status());
  }
}

void CheckSearch(const loci::v1::SearchRequest& request, const loci::SearchCall& call) {
  Require(IsName(call.store) && (call.generation.empty() || IsName(call.generation)));
  Require(call.options.top_k >= 1 && call.options.top_k <= 10'000 && call.options.nprobe >= 0 && call.options.ef_search >= 0 &&
          call.options.rescore_factor >= 0 && call.options.recall_target >= 0 && call.options.recall_target <= 1);
  Require(call.queries.size() == static_cast<size_t>(request.queries_size()) && !call.queries.empty());
  Require(request.filter().empty() == (call.filter == nullptr));
  for (const auto& query : call.queries) {
    if (const std::string* text = std::get_if<std::string>(&query)) {
      Require(!text->empty());
    } else {
      const std::vector<float>& vector = std::get<std::vector<float>>(query);
      Require(!vector.empty());
      for (const float value : vector) Require(std::isfinite(value));
    }
  }
}

void CheckRetrieve(const loci::v1::RetrieveRequest& request, const loci::TrainingRetrieveCall& call) {
  Require(!call.session_id.empty() && call.query_count >= 1 && call.query_count <= loci::kMaxTrainingQueries);
  Require(call.options.search.top_k >= 1 && call.options.search.top_k <= 10'000 && call.query_count * call.options.search.top_k <= loci::kMaxHits);
  Require(call.options.temperature > 0 && std::isfinite(call.options.temperature));
  Require((call.options.estimator == loci::Estimator::kExactZTail) == (call.options.tail_samples > 0));
  Require(call.excluded.empty() || static_cast<int64_t>(call.excluded.size()) == call.query_count);
  Require(request.filter().empty() == (call.filter == nullptr));
  const auto require_finite = [&call](const auto& values) {
    Require(static_cast<int64_t>(values.size()) == call.query_count * call.query_dim && !values.empty());
    for (const auto value : values) Require(std::isfinite(value));
  };
  if (const auto* const texts = std::get_if<std::vector<std::string>>(&call.queries)) {
    Require(static_cast<int64_t>(texts->size()) == call.query_count);
    for (const std::string& text : *texts) Require(!text.empty());
  } else if (const auto* const floats = std::get_if<std::vector<float>>(&call.queries)) {
    require_finite(*floats);
  } else {
    require_finite(std::get<std::vector<double>>(call.queries));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const loci::RequestLimits limits;
  switch (data[0] % 10) {
    case 0:
      Run<loci::v1::SearchRequest>(bytes, [&](const auto& request) { return loci::ValidateSearch(request, limits); }, CheckSearch);
      break;
    case 1:
      Run<loci::v1::EncodeRequest>(
          bytes, [&](const auto& request) { return loci::ValidateEncode(request, limits); },
          [](const auto& request, const loci::ValidEncode& valid) {
            Require(valid.call.texts.size() == static_cast<size_t>(request.texts_size()) && !valid.call.texts.empty());
          });
      break;
    case 2:
      Run<loci::v1::AnswerRequest>(
          bytes, [&](const auto& request) { return loci::ValidateAnswer(request, limits); },
          [](const auto&, const loci::AnswerCall& call) {
            Require(!call.question.empty() && call.top_k >= 1 && call.top_k <= 100 && call.max_answers >= 1 && call.max_answers <= 100);
            Require(IsName(call.store));
          });
      break;
    case 3:
      Run<loci::v1::IngestHeader>(
          bytes, [&](const auto& request) { return loci::ValidateIngestHeader(request, limits); },
          [](const auto&, const loci::IngestOptions& options) {
            Require(IsName(options.store) && !options.index.empty());
            Require(options.element_type == loci::ElementType::kFloat32 || options.element_type == loci::ElementType::kFloat16 ||
                    options.element_type == loci::ElementType::kBfloat16);
          });
      break;
    case 4:
      Run<loci::v1::PassageBatch>(bytes, loci::ValidateBatch, [](const auto& request, const loci::DecodedMatrix& vectors) {
        Require(vectors.values.empty() || vectors.rows == request.passages_size());
        Require(static_cast<int64_t>(vectors.values.size()) == vectors.rows * vectors.cols);
      });
      break;
    case 5:
      Run<loci::v1::UpsertPassagesRequest>(bytes, loci::ValidateUpsert, [](const auto& request, const loci::ValidUpsert& valid) {
        Require(IsName(valid.store) && valid.passages.size() == static_cast<size_t>(request.passages_size()) && !valid.passages.empty());
        for (const loci::v1::Passage& passage : valid.passages) Require(!passage.id().empty());
      });
      break;
    case 7:
      Run<loci::v1::RetrieveRequest>(bytes, [&](const auto& request) { return loci::ValidateRetrieve(request, limits); }, CheckRetrieve);
      break;
    case 8:
      Run<loci::v1::BackwardRequest>(
          bytes, [&](const auto& request) { return loci::ValidateBackward(request, limits); },
          [](const auto& request, const loci::ValidBackward& valid) {
            const loci::TrainingBackwardCall& call = valid.call;
            Require(!call.session_id.empty() && !call.handle.empty() && call.log_likelihoods.empty() != call.grad_log_probs.empty());
            Require(static_cast<int64_t>(call.log_likelihoods.size() + call.grad_log_probs.size()) == call.rows * call.cols);
            Require(call.row_query.size() == static_cast<size_t>(request.row_query_size()));
            Require(!call.max_log_likelihood.has_value() || *call.max_log_likelihood < HUGE_VAL);
          });
      break;
    case 9:
      Run<loci::v1::PublishHeader>(bytes, loci::ValidatePublishHeader, [](const auto&, const loci::ValidPublish& valid) {
        Require(valid.store.empty() || IsName(valid.store));
        Require(valid.max_encoder_share >= 0.01 && valid.max_encoder_share <= 1);
        if (!valid.fingerprint.empty()) return Require(!valid.store.empty() && valid.fingerprint.size() == 33);
        const loci::EncoderPublication& publication = valid.publication;
        Require(publication.size_bytes >= 1 && publication.size_bytes <= loci::EncoderImporter::kMaxWeightBytes && publication.sha256.size() == 64);
        Require(publication.job.size() <= 256 && publication.metrics.size() <= 64);
        for (const auto& [name, value] : publication.metrics) Require(!name.empty() && std::isfinite(value));
      });
      break;
    default:
      Run<loci::v1::GetPassagesRequest>(bytes, loci::ValidateGetPassages,
                                        [](const auto& request, const std::string& store) { Require(IsName(store) && request.ids_size() > 0); });
      break;
  }
  return 0;
}
