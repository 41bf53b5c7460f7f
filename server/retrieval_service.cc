#include "server/retrieval_service.h"

#include <string>
#include <utility>

#include "server/reply.h"
#include "server/unary_call.h"
#include "server/validation.h"

namespace loci {

RetrievalServiceImpl::Watched RetrievalServiceImpl::WatchedBy(const std::string& store, const std::string& named_generation) const {
  if (!named_generation.empty() || !services_.activation_watches->IsWatching()) return {};
  const absl::StatusOr<std::shared_ptr<const ServingSet>> serving = services_.manager->TryCapture(store, "");
  if (!serving.ok() || *serving == nullptr) return {};
  return {store, (*serving)->view->generation().id()};
}

template <typename Reply>
void RetrievalServiceImpl::Record(const Watched& watched, const absl::StatusOr<Reply>& reply) const {
  if (watched.store.empty()) return;
  const bool answered = reply.ok() && reply->serving_set != nullptr;
  services_.activation_watches->Record(watched.store, answered ? reply->serving_set->view->generation().id() : watched.generation,
                                       reply.status().code(), reply.ok() ? reply->times.filter_us + reply->times.search_us : 0);
}

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
  const Watched watched = WatchedBy(valid->store, valid->generation);
  services_.pipeline->Search(*std::move(valid), [this, call, response, include_text, include_vectors, watched](absl::StatusOr<SearchReply> reply) {
    Record(watched, reply);
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
  const Watched watched = WatchedBy(valid->store, valid->generation);
  services_.pipeline->Answer(*std::move(valid), [this, call, response, reader, watched](absl::StatusOr<AnswerReply> reply) {
    Record(watched, reply);
    if (!reply.ok()) return call->Answer(reply.status());
    call->SetPhases(reply->times);
    FillAnswerResponse(*std::move(reply), reader, response);
    call->Answer(CheckReplySize(*response));
  });
  return call;
}

}  // namespace loci
