#include "server/retrieval_service.h"

#include <string>
#include <utility>

#include "server/reply.h"
#include "server/unary_call.h"
#include "server/validation.h"

namespace loci {

grpc::ServerUnaryReactor* RetrievalServiceImpl::Encode(grpc::CallbackServerContext* context, const loci::v1::EncodeRequest* request,
                                                       loci::v1::EncodeResponse* response) {
  UnaryCall* const call = new UnaryCall(services_, Method::kEncode, context);
  if (!call->Admit(static_cast<int64_t>(request->ByteSizeLong()))) return call;
  absl::StatusOr<ValidEncode> valid = ValidateEncode(*request, call->limits());
  if (!valid.ok()) {
    call->Answer(valid.status());
    return call;
  }
  services_.pipeline->Encode(std::move(valid->call),
                             [this, call, response, vector_type = valid->vector_type](absl::StatusOr<EncodeReply> reply) {
                               if (!reply.ok()) return call->Answer(reply.status());
                               call->SetPhases(reply->times);
                               for (const TokenUsage& usage : reply->usage) services_.metrics->Tokens(Method::kEncode, usage);
                               FillEncodeResponse(*reply, vector_type, response);
                               call->Answer(CheckReplySize(*response));
                             });
  return call;
}

grpc::ServerUnaryReactor* RetrievalServiceImpl::Search(grpc::CallbackServerContext* context, const loci::v1::SearchRequest* request,
                                                       loci::v1::SearchResponse* response) {
  UnaryCall* const call = new UnaryCall(services_, Method::kSearch, context);
  if (!call->Admit(static_cast<int64_t>(request->ByteSizeLong()))) return call;
  absl::StatusOr<SearchCall> valid = ValidateSearch(*request, call->limits());
  if (!valid.ok()) {
    call->Answer(valid.status());
    return call;
  }
  const bool include_text = valid->include_text;
  const bool include_vectors = valid->include_vectors;
  services_.pipeline->Search(*std::move(valid), [this, call, response, include_text, include_vectors](absl::StatusOr<SearchReply> reply) {
    if (!reply.ok()) return call->Answer(reply.status());
    call->SetPhases(reply->times);
    for (const std::optional<TokenUsage>& usage : reply->usage) {
      if (usage.has_value()) services_.metrics->Tokens(Method::kSearch, *usage);
    }
    FillSearchResponse(*std::move(reply), include_text, include_vectors, response);
    call->Answer(CheckReplySize(*response));
  });
  return call;
}

grpc::ServerUnaryReactor* RetrievalServiceImpl::Answer(grpc::CallbackServerContext* context, const loci::v1::AnswerRequest* request,
                                                       loci::v1::AnswerResponse* response) {
  UnaryCall* const call = new UnaryCall(services_, Method::kAnswer, context);
  if (!call->Admit(static_cast<int64_t>(request->ByteSizeLong()))) return call;
  absl::StatusOr<AnswerCall> valid = ValidateAnswer(*request, call->limits());
  if (!valid.ok()) {
    call->Answer(valid.status());
    return call;
  }
  const std::string reader = valid->reader;
  services_.pipeline->Answer(*std::move(valid), [call, response, reader](absl::StatusOr<AnswerReply> reply) {
    if (!reply.ok()) return call->Answer(reply.status());
    call->SetPhases(reply->times);
    FillAnswerResponse(*std::move(reply), reader, response);
    call->Answer(CheckReplySize(*response));
  });
  return call;
}

}  // namespace loci
