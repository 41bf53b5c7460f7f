#include "server/publish_call.h"

#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/log_context.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "retriever/encoder_refresh.h"
#include "server/request_errors.h"

namespace loci {
namespace {

constexpr size_t kKeptEncoders = 32;  // That were published, whether anything uses them or not.

}  // namespace

absl::Status PublishUpload::Take(UploadCall& call, grpc::ByteBuffer* message, int64_t number) {
  loci::v1::PublishRequest request;
  if (!grpc::SerializationTraits<loci::v1::PublishRequest>::Deserialize(message, &request).ok()) {
    return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("message ", number, " of the stream is not a PublishRequest")), "MALFORMED_MESSAGE",
                           {{"message", absl::StrCat(number)}});
  }
  if (job_ == nullptr) {
    if (!request.has_header()) return InvalidField("kind", "of the first message must be the header");
    return TakeHeader(call, request.header());
  }
  if (request.has_header()) return InvalidField("header", "came a second time; it must be the first message only");
  if (request.kind_case() != loci::v1::PublishRequest::kWeights) {
    return InvalidField("kind", "is not set; messages after the header must be weights");
  }
  if (publisher_ == nullptr) return InvalidField("weights", "came, but header.fingerprint names an encoder that is there");
  LOCI_RETURN_IF_ERROR(publisher_->Add(request.weights()));
  job_->SetDone(publisher_->received_bytes());
  return absl::OkStatus();
}

absl::Status PublishUpload::TakeHeader(UploadCall& call, const loci::v1::PublishHeader& header) {
  LOCI_ASSIGN_OR_RETURN(request_, ValidatePublishHeader(header));
  // The job first: what is refused leaves nothing.
  LOCI_ASSIGN_OR_RETURN(job_, call.StartJob(JobKind::kPublish, /*store=*/"", /*no_wait=*/false));
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<const ServingSet> serving, CheckStore());
  EncoderRegistry& encoders = services_.manager->encoders();
  if (!request_.fingerprint.empty()) {
    LOCI_ASSIGN_OR_RETURN(there_, encoders.Get(request_.fingerprint));
    return absl::OkStatus();
  }
  LOCI_ASSIGN_OR_RETURN(request_.publication.parent, FindParent(serving));
  if (serving != nullptr && request_.publication.halves == EncoderHalves::kQuery) {
    LOCI_RETURN_IF_ERROR(CheckVectors(request_.publication.parent->spec().fingerprint, *serving));
  }
  job_->SetPhase("receiving", request_.publication.size_bytes, "bytes");
  LOCI_ASSIGN_OR_RETURN(publisher_, EncoderPublisher::Start(encoders, services_.manager->fs(), request_.publication));
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const ServingSet>> PublishUpload::CheckStore() const {
  if (request_.store.empty()) return std::shared_ptr<const ServingSet>();
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const ServingSet> serving, services_.manager->TryCapture(request_.store, ""));
  // Before the weights come.
  if (has_passage_weights()) LOCI_RETURN_IF_ERROR(services_.jobs->CheckStart({.kind = JobKind::kReembed, .store = request_.store, .refreshes = true}));
  return serving;
}

absl::StatusOr<std::shared_ptr<TextEncoder>> PublishUpload::FindParent(std::shared_ptr<const ServingSet> serving) const {
  EncoderRegistry& encoders = services_.manager->encoders();
  const std::string& parent = request_.parent_fingerprint;
  if (serving == nullptr) return encoders.Get(parent);
  const absl::StatusOr<std::shared_ptr<const ServingSet>> with_encoder = services_.manager->WithEncoder(std::move(serving));
  if (parent.empty()) {
    LOCI_RETURN_IF_ERROR(with_encoder.status());
    return encoders.ComputedAs((*with_encoder)->encoder, /*int8=*/false);  // What is published shares its weights.
  }
  if (with_encoder.ok()) {
    const Fingerprint& serves = (*with_encoder)->encoder->spec().fingerprint;
    if (parent == serves.ToString() || parent == serves.query || parent == serves.passage) {
      return encoders.ComputedAs((*with_encoder)->encoder, /*int8=*/false);
    }
  }
  return encoders.Get(parent);
}

absl::Status PublishUpload::CheckVectors(const Fingerprint& encoder, const ServingSet& serving) const {
  const std::string& half = serving.view->generation().manifest().passage_fingerprint();
  if (half == encoder.passage) return absl::OkStatus();
  return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("the vectors of store \"", request_.store, "\" are of the passage half ", half,
                                                                    "; the query half is for those of ", encoder.passage)),
                         "ENCODER_MISMATCH", {{"store", request_.store}, {"passage_fingerprint", half}, {"encoder", encoder.ToString()}});
}

absl::StatusOr<std::string> PublishUpload::FinishReceiving(const JobHandle&) {
  return absl::InternalError("a publication is waited for");  // There is no no_wait.
}

absl::StatusOr<std::string> PublishUpload::Finish(JobHandle& job) {
  loci::v1::PublishResponse response;
  LOCI_RETURN_IF_ERROR(job.limits().Check(services_.clock->NowMicros()));
  if (there_ != nullptr) {
    response.set_was_there(true);
  } else {
    job.SetPhase("loading", 0, "bytes");
    LOCI_ASSIGN_OR_RETURN(ImportedEncoder published, publisher_->Finish());
    there_ = std::move(published.encoder);
    response.set_was_there(published.was_there);
    LogInfo("publish", absl::StrCat("stored encoder=", there_->spec().fingerprint.ToString(), " model=", there_->spec().model_name,
                                    " parent=", request_.publication.parent->spec().fingerprint.ToString(), " job_name=", Quoted(request_.publication.job),
                                    published.was_there ? " was there" : ""));
  }
  response.set_fingerprint(there_->spec().fingerprint.ToString());
  if (!response.was_there()) DeleteUnused();
  if (!request_.store.empty()) {
    if (const absl::Status status = GoLive(job, there_, &response); !status.ok()) {
      return Annotate(status, absl::StrCat("encoder ", response.fingerprint(), " is stored, but store \"", request_.store, "\" does not take it"));
    }
  }
  return response.SerializeAsString();
}

void PublishUpload::DeleteUnused() const {
  const absl::StatusOr<std::set<std::string>> used = services_.manager->UsedEncoders();
  const absl::Status deleted = used.ok() ? services_.manager->encoders().DeletePublished(kKeptEncoders, *used).status() : used.status();
  if (!deleted.ok()) LogWarning("publish", absl::StrCat("published encoders that nothing uses stay: ", deleted.message()));
}

absl::StatusOr<bool> PublishUpload::IsQueryHalfAlone(const Fingerprint& encoder, std::shared_ptr<const ServingSet> serving) const {
  if (request_.fingerprint.empty()) return request_.publication.halves == EncoderHalves::kQuery;
  if (encoder.passage != serving->view->generation().manifest().passage_fingerprint()) return false;
  const absl::StatusOr<std::shared_ptr<const ServingSet>> with_encoder = services_.manager->WithEncoder(std::move(serving));
  return with_encoder.ok() && (*with_encoder)->encoder->spec().fingerprint.ToString() != encoder.ToString();
}

absl::Status PublishUpload::GoLive(const JobHandle& job, const std::shared_ptr<TextEncoder>& encoder, loci::v1::PublishResponse* response) const {
  GenerationManager& manager = *services_.manager;
  const Fingerprint& fingerprint = encoder->spec().fingerprint;
  const auto takes = [&](const ServingSet& serving) {
    response->set_generation(serving.view->generation().id());
    response->set_revision(serving.view->revision());
    response->set_live(serving.encoder != nullptr && serving.encoder->spec().fingerprint == encoder->spec().fingerprint);
    return absl::OkStatus();
  };
  while (true) {
    LOCI_RETURN_IF_ERROR(job.limits().Check(services_.clock->NowMicros()));
    LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const ServingSet> serving, manager.TryCapture(request_.store, ""));
    LOCI_ASSIGN_OR_RETURN(const bool query_alone, IsQueryHalfAlone(fingerprint, serving));
    if (query_alone) {
      LOCI_RETURN_IF_ERROR(CheckVectors(fingerprint, *serving));
    } else {
      const absl::StatusOr<RefreshStart> refresh = services_.refresher->Start(
          request_.store, encoder, {.activate = request_.activate, .max_encoder_share = request_.max_encoder_share, .request_id = CurrentRequestId()});
      if (refresh.ok()) {
        response->set_job(refresh->job);
        return takes(*refresh->serving);
      }
      // Else the store has these vectors, and none of another half are being made for it.
      if (const auto reason = GetErrorReason(refresh.status()); !reason.has_value() || reason->reason != "SAME_ENCODER") return refresh.status();
    }
    LOCI_ASSIGN_OR_RETURN(serving, manager.SetEncoder(request_.store, encoder));
    if (serving->view->generation().manifest().passage_fingerprint() == fingerprint.passage) return takes(*serving);
    // Vectors of another half became active meanwhile.
  }
}

}  // namespace loci
