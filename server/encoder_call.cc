#include "server/encoder_call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "server/reply.h"
#include "server/request_errors.h"

namespace loci {

absl::Status EncoderUpload::Take(UploadCall& call, grpc::ByteBuffer* message, int64_t number) {
  loci::v1::ImportEncoderRequest request;
  if (!grpc::SerializationTraits<loci::v1::ImportEncoderRequest>::Deserialize(message, &request).ok()) {
    return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("message ", number, " of the stream is not an ImportEncoderRequest")),
                           "MALFORMED_MESSAGE", {{"message", absl::StrCat(number)}});
  }
  if (importer_ == nullptr) {
    if (!request.has_header()) return InvalidField("kind", "of the first message must be the header");
    // The job first: what is refused leaves nothing.
    LOCI_ASSIGN_OR_RETURN(job_, call.StartJob(JobKind::kImportEncoder, /*store=*/"", /*no_wait=*/false));
    LOCI_ASSIGN_OR_RETURN(importer_, EncoderImporter::Start(services_.manager->encoders(), services_.manager->fs(), request.header().name()));
    job_->SetPhase("receiving", 0, "bytes");
    return absl::OkStatus();
  }
  if (request.has_header()) return InvalidField("header", "came a second time; it must be the first message only");
  if (!request.has_piece()) return InvalidField("kind", "is not set; messages after the header must be pieces of files");
  LOCI_RETURN_IF_ERROR(importer_->Add(request.piece().path(), request.piece().data()));
  job_->SetDone(importer_->received_bytes());
  return absl::OkStatus();
}

absl::StatusOr<std::string> EncoderUpload::FinishReceiving(const JobHandle&) {
  return absl::InternalError("an import of an encoder is waited for");  // There is no no_wait.
}

absl::StatusOr<std::string> EncoderUpload::Finish(JobHandle& job) {
  job.SetPhase("loading", 0, "bytes");
  LOCI_ASSIGN_OR_RETURN(const ImportedEncoder imported, importer_->Finish());
  loci::v1::ImportEncoderResponse response;
  FillEncoderInfo(imported.encoder->spec(), response.mutable_encoder());
  response.set_was_there(imported.was_there);
  response.set_job(job.id());
  return response.SerializeAsString();
}

}  // namespace loci
