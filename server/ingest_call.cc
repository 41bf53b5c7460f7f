#include "server/ingest_call.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "retriever/job_progress.h"
#include "server/reply.h"
#include "server/request_errors.h"
#include "server/validation.h"

namespace loci {

absl::Status IngestUpload::Take(UploadCall& call, grpc::ByteBuffer* message, int64_t number) {
  if (!grpc::SerializationTraits<loci::v1::IngestRequest>::Deserialize(message, &request_).ok()) {
    return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("message ", number, " of the stream is not an IngestRequest (or has a string "
                                                                   "that is not UTF-8)")),
                           "MALFORMED_MESSAGE", {{"message", absl::StrCat(number)}});
  }
  if (ingester_ == nullptr) {
    if (!request_.has_header()) return InvalidField("kind", "of the first message must be the header");
    return TakeHeader(call);
  }
  if (request_.has_header()) return InvalidField("header", "came a second time; it must be the first message only");
  if (!request_.has_batch()) return InvalidField("kind", "is not set; messages after the header must be batches");
  return TakeBatch();
}

absl::Status IngestUpload::TakeHeader(UploadCall& call) {
  const bool no_wait = request_.header().no_wait();
  LOCI_ASSIGN_OR_RETURN(IngestOptions options, ValidateIngestHeader(request_.header(), call.LimitsOf(no_wait)));
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<JobHandle> job, call.StartJob(JobKind::kIngest, options.store, no_wait));
  options.progress = ProgressOf(job, kUploadSwitch);
  LOCI_ASSIGN_OR_RETURN(ingester_, Ingester::Start(*services_.manager, std::move(options)));
  return absl::OkStatus();
}

absl::Status IngestUpload::TakeBatch() {
  loci::v1::PassageBatch& batch = *request_.mutable_batch();
  LOCI_ASSIGN_OR_RETURN(DecodedMatrix vectors, ValidateBatch(batch));
  std::vector<loci::v1::Passage> passages;
  passages.reserve(batch.passages_size());
  for (loci::v1::Passage& passage : *batch.mutable_passages()) passages.push_back(std::move(passage));
  request_.Clear();
  if (passages.empty()) return absl::OkStatus();
  return ingester_->Add(std::move(passages), vectors.values, vectors.cols);
}

absl::StatusOr<std::string> IngestUpload::FinishReceiving(const JobHandle& job) {
  LOCI_ASSIGN_OR_RETURN(const IngestResult received, ingester_->FinishReceiving());
  loci::v1::IngestResponse response;
  FillIngestResponse(received, &response);
  response.set_job(job.id());
  response.set_done(false);
  return response.SerializeAsString();
}

absl::StatusOr<std::string> IngestUpload::Finish(JobHandle& job) {
  LOCI_ASSIGN_OR_RETURN(const IngestResult result, ingester_->Finish());
  loci::v1::IngestResponse response;
  FillIngestResponse(result, &response);
  response.set_job(job.id());
  job.SetGeneration(result.generation);
  return response.SerializeAsString();
}

}  // namespace loci
