#include "server/training_service.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "server/double_matrix.h"
#include "server/publish_call.h"
#include "server/reply.h"
#include "server/training_validation.h"
#include "server/unary_call.h"
#include "server/upload_call.h"
#include "server/validation.h"

namespace loci {
namespace {

absl::Status FillRetrieveResponse(TrainingRetrieveReply&& reply, const loci::v1::RetrieveRequest& request, loci::v1::RetrieveResponse* out) {
  const bool text = request.include_text(), vectors = request.include_vectors();
  out->set_handle(reply.handle);
  const std::vector<TrainingResult>& results = reply.retrieval->results;
  std::vector<double> means;
  for (size_t q = 0; q < results.size(); ++q) {
    loci::v1::TrainingResult& result = *out->add_results();
    for (SearchHit& hit : reply.hits[q]) FillHit(std::move(hit), text, vectors, result.add_hits());
    result.mutable_log_probs()->Add(results[q].log_probs.begin(), results[q].log_probs.end());
    result.set_log_z(results[q].log_z);
    result.set_head_mass(results[q].head_mass);
    result.set_log_null_prob(results[q].log_null_prob);
    for (SearchHit& hit : reply.tail_hits[q]) FillHit(std::move(hit), text, vectors, result.add_tail_hits());
    if (request.include_mean_vectors()) means.insert(means.end(), results[q].mean_vector.begin(), results[q].mean_vector.end());
  }
  if (request.include_mean_vectors()) {
    const ElementType type = request.query_vectors().type() == loci::v1::VECTOR_TYPE_FLOAT64 ? ElementType::kFloat64 : ElementType::kFloat32;
    LOCI_RETURN_IF_ERROR(EncodeDoubles(means.data(), static_cast<int64_t>(results.size()), reply.dim, type, out->mutable_mean_vectors()));
  }
  out->set_generation(reply.generation);
  out->set_revision(reply.revision);
  out->set_encoder_fingerprint(reply.encoder_fingerprint);
  loci::v1::Staleness& staleness = *out->mutable_staleness();
  staleness.set_age_ms(reply.age_us / 1000);
  staleness.set_drift(reply.drift.drift);
  staleness.set_drift_sample_count(reply.drift.sample_count);
  FillTimings(reply.times, out->mutable_timings());
  for (const TokenUsage& usage : reply.usage) FillUsage(usage, out->add_usage());
  return CheckReplySize(*out);
}

absl::Status FillBackwardResponse(const TrainingBackwardReply& reply, const loci::v1::BackwardRequest& request, ElementType type,
                                  loci::v1::BackwardResponse* out) {
  const TrainingGradients& gradients = reply.gradients;
  LOCI_RETURN_IF_ERROR(EncodeDoubles(gradients.query_gradients.data(), reply.query_count, reply.dim, type, out->mutable_query_gradients()));
  out->mutable_log_marginals()->Add(gradients.log_marginals.begin(), gradients.log_marginals.end());
  out->mutable_certificates()->Add(gradients.certificates.begin(), gradients.certificates.end());
  if (request.include_passage_gradients()) {
    LOCI_RETURN_IF_ERROR(EncodeDoubles(gradients.passage_gradients.data(), static_cast<int64_t>(gradients.passage_gradients.size()) / reply.dim, reply.dim, type,
                                       out->mutable_passage_gradients()));
  }
  out->set_generation(reply.generation);
  out->set_revision(reply.revision);
  return CheckReplySize(*out);
}

}  // namespace

grpc::ServerUnaryReactor* TrainingServiceImpl::OpenSession(grpc::CallbackServerContext* context, const loci::v1::OpenSessionRequest* request,
                                                           loci::v1::OpenSessionResponse* response) {
  return RunCall(services_, Method::kOpenSession, context, request->ByteSizeLong(), [this, request, response](const RequestLimits& limits) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request->store()));
    LOCI_RETURN_IF_ERROR(ValidateGeneration(store, request->generation()));
    LOCI_RETURN_IF_ERROR(ValidateLease(request->lease_ms()));
    LOCI_ASSIGN_OR_RETURN(const TrainingSessionInfo info, services_.training->Open(store, request->generation(), request->lease_ms(), limits));
    response->set_session_id(info.session_id);
    response->set_generation(info.generation);
    response->set_revision(info.revision);
    response->set_encoder_fingerprint(info.encoder_fingerprint);
    response->set_passage_count(info.passage_count);
    response->set_dim(info.dim);
    response->set_lease_ms(info.lease_ms);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* TrainingServiceImpl::RenewSession(grpc::CallbackServerContext* context, const loci::v1::RenewSessionRequest* request,
                                                            loci::v1::RenewSessionResponse* response) {
  return RunCall(services_, Method::kRenewSession, context, request->ByteSizeLong(), [this, request, response](const RequestLimits&) -> absl::Status {
    LOCI_RETURN_IF_ERROR(ValidateSessionId(request->session_id()));
    LOCI_RETURN_IF_ERROR(ValidateLease(request->lease_ms()));
    LOCI_ASSIGN_OR_RETURN(const TrainingSessionInfo info, services_.training->Renew(request->session_id(), request->lease_ms()));
    response->set_lease_ms(info.lease_ms);
    response->set_generation(info.generation);
    response->set_revision(info.revision);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* TrainingServiceImpl::CloseSession(grpc::CallbackServerContext* context, const loci::v1::CloseSessionRequest* request,
                                                            loci::v1::CloseSessionResponse*) {
  return RunCall(services_, Method::kCloseSession, context, request->ByteSizeLong(), [this, request](const RequestLimits&) -> absl::Status {
    LOCI_RETURN_IF_ERROR(ValidateSessionId(request->session_id()));
    return services_.training->Close(request->session_id());
  });
}

grpc::ServerUnaryReactor* TrainingServiceImpl::Retrieve(grpc::CallbackServerContext* context, const loci::v1::RetrieveRequest* request,
                                                        loci::v1::RetrieveResponse* response) {
  UnaryCall* const call = new UnaryCall(services_, Method::kRetrieve, context);
  if (!call->Admit(static_cast<int64_t>(request->ByteSizeLong()))) return call;
  absl::StatusOr<TrainingRetrieveCall> valid = ValidateRetrieve(*request, call->limits());
  if (!valid.ok()) {
    call->Answer(valid.status());
    return call;
  }
  services_.training->Retrieve(*std::move(valid), [this, call, request, response](absl::StatusOr<TrainingRetrieveReply> reply) {
    if (!reply.ok()) return call->Answer(reply.status());
    call->SetPhases(reply->times);
    for (const TokenUsage& usage : reply->usage) services_.metrics->Tokens(Method::kRetrieve, usage);
    call->Answer(FillRetrieveResponse(*std::move(reply), *request, response));
  });
  return call;
}

grpc::ServerUnaryReactor* TrainingServiceImpl::Backward(grpc::CallbackServerContext* context, const loci::v1::BackwardRequest* request,
                                                        loci::v1::BackwardResponse* response) {
  UnaryCall* const call = new UnaryCall(services_, Method::kBackward, context);
  if (!call->Admit(static_cast<int64_t>(request->ByteSizeLong()))) return call;
  absl::StatusOr<ValidBackward> valid = ValidateBackward(*request, call->limits());
  if (!valid.ok()) {
    call->Answer(valid.status());
    return call;
  }
  services_.training->Backward(std::move(valid->call), [call, request, response, type = valid->vector_type](absl::StatusOr<TrainingBackwardReply> reply) {
    if (!reply.ok()) return call->Answer(reply.status());
    call->SetPhases(reply->times);
    call->Answer(FillBackwardResponse(*reply, *request, type, response));
  });
  return call;
}

grpc::ServerReadReactor<grpc::ByteBuffer>* TrainingServiceImpl::PublishEncoder(grpc::CallbackServerContext* context, grpc::ByteBuffer* response) {
  return new UploadCall(services_, std::make_unique<PublishUpload>(services_), context, response);
}

}  // namespace loci
