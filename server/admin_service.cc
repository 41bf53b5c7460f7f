#include "server/admin_service.h"

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "server/encoder_call.h"
#include "server/export_call.h"
#include "server/import_call.h"
#include "server/ingest_call.h"
#include "server/matrix_codec.h"
#include "server/reply.h"
#include "server/request_errors.h"
#include "server/validation.h"

namespace loci {
namespace {

// Passages read between two looks at the size of the reply.
constexpr int kReadPassages = 64;

constexpr int64_t kYieldingEndMs = 10'000;  // So long the deletion of a store waits for the end of a fold that nobody asked for.

}  // namespace

grpc::ServerUnaryReactor* AdminServiceImpl::Run(Method method, grpc::CallbackServerContext* context, size_t size_bytes,
                                                std::function<absl::Status(const RequestLimits&)> body) {
  return RunCall(services_, method, context, size_bytes, std::move(body));
}

grpc::ServerUnaryReactor* AdminServiceImpl::CreateStore(grpc::CallbackServerContext* context, const loci::v1::CreateStoreRequest* request,
                                                        loci::v1::CreateStoreResponse* response) {
  return Run(Method::kCreateStore, context, request->ByteSizeLong(), [this, request, response](const RequestLimits&) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request->store()));
    std::optional<int32_t> keep_generations;
    if (request->has_keep_generations()) keep_generations = request->keep_generations();
    LOCI_RETURN_IF_ERROR(ValidateKeepGenerations(keep_generations.value_or(0)));
    std::optional<bool> int8;
    if (request->has_encoder_precision()) {
      LOCI_ASSIGN_OR_RETURN(int8, ValidateStorePrecision(request->encoder_precision()));
    }
    LOCI_ASSIGN_OR_RETURN(const StoreInfo info, services_.manager->CreateStore(store, keep_generations, int8));
    FillStore(info, response->mutable_store());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::UpdateStore(grpc::CallbackServerContext* context, const loci::v1::UpdateStoreRequest* request,
                                                        loci::v1::UpdateStoreResponse* response) {
  return Run(Method::kUpdateStore, context, request->ByteSizeLong(), [this, request, response](const RequestLimits&) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request->store()));
    std::optional<int32_t> keep_generations;
    if (request->has_keep_generations()) keep_generations = request->keep_generations();
    LOCI_RETURN_IF_ERROR(ValidateKeepGenerations(keep_generations.value_or(0)));
    std::optional<bool> int8;
    if (request->has_encoder_precision()) {
      LOCI_ASSIGN_OR_RETURN(int8, ValidateStorePrecision(request->encoder_precision()));
    }
    LOCI_ASSIGN_OR_RETURN(const StoreInfo info, services_.manager->UpdateStore(store, keep_generations, int8));
    FillStore(info, response->mutable_store());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::GetStore(grpc::CallbackServerContext* context, const loci::v1::GetStoreRequest* request,
                                                     loci::v1::GetStoreResponse* response) {
  return Run(Method::kGetStore, context, request->ByteSizeLong(), [this, request, response](const RequestLimits&) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request->store()));
    LOCI_ASSIGN_OR_RETURN(const StoreInfo info, services_.manager->GetStore(store));
    FillStore(info, response->mutable_store());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::ListStores(grpc::CallbackServerContext* context, const loci::v1::ListStoresRequest* request,
                                                       loci::v1::ListStoresResponse* response) {
  return Run(Method::kListStores, context, request->ByteSizeLong(), [this, response](const RequestLimits&) -> absl::Status {
    for (const StoreInfo& info : services_.manager->ListStores()) FillStore(info, response->add_stores());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::DeleteStore(grpc::CallbackServerContext* context, const loci::v1::DeleteStoreRequest* request,
                                                        loci::v1::DeleteStoreResponse*) {
  return Run(Method::kDeleteStore, context, request->ByteSizeLong(), [this, request](const RequestLimits&) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateDeleteStore(*request));
    services_.jobs->EndYielding(store, kYieldingEndMs);
    LOCI_RETURN_IF_ERROR(services_.jobs->CheckNoJob(store));
    LOCI_RETURN_IF_ERROR(services_.manager->DeleteStore(store));
    services_.refresher->Forget(store);
    return absl::OkStatus();
  });
}

grpc::ServerReadReactor<grpc::ByteBuffer>* AdminServiceImpl::Ingest(grpc::CallbackServerContext* context, grpc::ByteBuffer* response) {
  return new UploadCall(services_, std::make_unique<IngestUpload>(services_), context, response);
}

grpc::ServerReadReactor<grpc::ByteBuffer>* AdminServiceImpl::ImportStore(grpc::CallbackServerContext* context, grpc::ByteBuffer* response) {
  return new UploadCall(services_, std::make_unique<ImportUpload>(services_), context, response);
}

grpc::ServerReadReactor<grpc::ByteBuffer>* AdminServiceImpl::ImportEncoder(grpc::CallbackServerContext* context, grpc::ByteBuffer* response) {
  return new UploadCall(services_, std::make_unique<EncoderUpload>(services_), context, response);
}

grpc::ServerWriteReactor<loci::v1::ExportChunk>* AdminServiceImpl::ExportStore(grpc::CallbackServerContext* context,
                                                                               const loci::v1::ExportRequest* request) {
  return new ExportCall(services_, context, *request);
}

grpc::ServerUnaryReactor* AdminServiceImpl::UpsertPassages(grpc::CallbackServerContext* context,
                                                           const loci::v1::UpsertPassagesRequest* request,
                                                           loci::v1::UpsertPassagesResponse* response) {
  return Run(Method::kUpsertPassages, context, request->ByteSizeLong(), [this, request, response](const RequestLimits& limits) -> absl::Status {
    const int64_t start_us = services_.clock->NowMicros();
    LOCI_ASSIGN_OR_RETURN(ValidUpsert valid, ValidateUpsert(*request));
    const int64_t count = static_cast<int64_t>(valid.passages.size());
    LOCI_ASSIGN_OR_RETURN(const UpsertResult result, services_.manager->Upsert(valid.store, std::move(valid.passages), limits));
    response->set_generation(result.generation);
    response->set_revision(result.revision);
    response->set_upserted_count(count);
    for (const TokenUsage& usage : result.usage) {
      services_.metrics->Tokens(Method::kUpsertPassages, usage);
      FillUsage(usage, response->add_usage());
    }
    PhaseTimes times;
    times.queue_us = result.queue_us;
    times.tokenize_us = result.tokenize_us;
    times.encode_us = result.encode_us;
    times.total_us = services_.clock->NowMicros() - start_us;
    services_.metrics->Phases(Method::kUpsertPassages, times);
    FillTimings(times, response->mutable_timings());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::DeletePassages(grpc::CallbackServerContext* context,
                                                           const loci::v1::DeletePassagesRequest* request,
                                                           loci::v1::DeletePassagesResponse* response) {
  return Run(Method::kDeletePassages, context, request->ByteSizeLong(), [this, request, response](const RequestLimits&) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const ValidDelete valid, ValidateDelete(*request));
    LOCI_ASSIGN_OR_RETURN(const DeleteResult result, services_.manager->Delete(valid.store, valid.ids));
    response->set_generation(result.generation);
    response->set_revision(result.revision);
    response->set_deleted_count(result.deleted_count);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::GetPassages(grpc::CallbackServerContext* context, const loci::v1::GetPassagesRequest* request,
                                                        loci::v1::GetPassagesResponse* response) {
  return Run(Method::kGetPassages, context, request->ByteSizeLong(),
             [this, request, response](const RequestLimits& limits) { return ReadPassages(*request, limits, response); });
}

absl::Status AdminServiceImpl::ReadPassages(const loci::v1::GetPassagesRequest& request, const RequestLimits& limits,
                                            loci::v1::GetPassagesResponse* response) const {
  LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateGetPassages(request));
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<const ServingSet> serving_set, services_.manager->Capture(store, request.generation()));
  const View& view = *serving_set->view;
  std::vector<ViewRow> rows;
  rows.reserve(request.ids_size());
  for (const std::string& id : request.ids()) {
    LOCI_ASSIGN_OR_RETURN(const std::optional<ViewRow> row, view.Find(id));
    if (!row.has_value()) {
      return ErrorWithReason(absl::NotFoundError(absl::StrCat("store ", Quoted(store), ", generation ", view.generation().id(),
                                                              " has no passage ", Quoted(id))),
                             "PASSAGE_NOT_FOUND", {{"store", store}, {"id", id}});
    }
    rows.push_back(*row);
  }
  int64_t size_bytes = 0;
  for (size_t begin = 0; begin < rows.size(); begin += kReadPassages) {
    LOCI_RETURN_IF_ERROR(limits.Check(services_.clock->NowMicros()));
    const std::span<const ViewRow> part = std::span(rows).subspan(begin, std::min<size_t>(kReadPassages, rows.size() - begin));
    std::vector<loci::v1::Passage> passages;
    LOCI_RETURN_IF_ERROR(view.Read(part, &passages));
    for (loci::v1::Passage& passage : passages) {
      size_bytes += static_cast<int64_t>(passage.ByteSizeLong());
      *response->add_passages() = std::move(passage);
    }
    if (size_bytes > kMaxMessageBytes) break;  // CheckReplySize says so.
  }
  if (request.include_vectors() && size_bytes <= kMaxMessageBytes) {
    std::vector<float> vectors(rows.size() * static_cast<size_t>(view.dim()));
    for (size_t i = 0; i < rows.size(); ++i) LOCI_RETURN_IF_ERROR(view.CopyVector(rows[i], vectors.data() + i * view.dim()));
    EncodeMatrix(vectors.data(), static_cast<int64_t>(rows.size()), view.dim(), ElementType::kFloat32, response->mutable_vectors());
  }
  response->set_generation(view.generation().id());
  response->set_revision(view.revision());
  return CheckReplySize(*response);
}

grpc::ServerUnaryReactor* AdminServiceImpl::GetServerInfo(grpc::CallbackServerContext* context,
                                                          const loci::v1::GetServerInfoRequest* request,
                                                          loci::v1::GetServerInfoResponse* response) {
  return Run(Method::kGetServerInfo, context, request->ByteSizeLong(), [this, response](const RequestLimits&) -> absl::Status {
    *response = services_.info;
    for (const auto& encoder : services_.manager->encoders().Loaded()) FillEncoderInfo(encoder->spec(), response->add_encoders());
    return absl::OkStatus();
  });
}

}  // namespace loci
