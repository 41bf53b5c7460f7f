#include "server/import_call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "retriever/job_progress.h"
#include "server/reply.h"
#include "server/request_errors.h"
#include "server/validation.h"

namespace loci {

absl::Status ImportUpload::Take(UploadCall& call, grpc::ByteBuffer* message, int64_t number) {
  loci::v1::ImportRequest request;
  if (!grpc::SerializationTraits<loci::v1::ImportRequest>::Deserialize(message, &request).ok()) {
    return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("message ", number, " of the stream is not an ImportRequest")),
                           "MALFORMED_MESSAGE", {{"message", absl::StrCat(number)}});
  }
  if (importer_ == nullptr) {
    if (!request.has_header()) return InvalidField("kind", "of the first message must be the header");
    return TakeHeader(call, request.header());
  }
  if (request.has_header()) return InvalidField("header", "came a second time; it must be the first message only");
  if (request.kind_case() != loci::v1::ImportRequest::kData) {
    return InvalidField("kind", "is not set; messages after the header must be data of the archive");
  }
  return importer_->Add(request.data());
}

absl::Status ImportUpload::TakeHeader(UploadCall& call, const loci::v1::ImportHeader& header) {
  LOCI_ASSIGN_OR_RETURN(ImportOptions options, ValidateImportHeader(header, call.LimitsOf(header.no_wait())));
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<JobHandle> job, call.StartJob(JobKind::kImport, options.store, header.no_wait()));
  options.progress = ProgressOf(job, kUploadSwitch);
  importer_ = std::make_unique<ArchiveImporter>(*services_.manager, std::move(options));
  return absl::OkStatus();
}

absl::StatusOr<std::string> ImportUpload::FinishReceiving(const JobHandle& job) {
  LOCI_ASSIGN_OR_RETURN(const ImportResult received, importer_->FinishReceiving());
  loci::v1::ImportResponse response;
  FillImportResponse(received, &response);
  response.set_job(job.id());
  return response.SerializeAsString();
}

absl::StatusOr<std::string> ImportUpload::Finish(JobHandle& job) {
  LOCI_ASSIGN_OR_RETURN(const ImportResult result, importer_->Finish());
  loci::v1::ImportResponse response;
  FillImportResponse(result, &response);
  response.set_job(job.id());
  response.set_done(true);
  job.SetGeneration(result.generation);
  return response.SerializeAsString();
}

}  // namespace loci
