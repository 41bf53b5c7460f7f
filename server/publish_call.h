// What the messages of a publication become.
#ifndef LOCI_SERVER_PUBLISH_CALL_H_
#define LOCI_SERVER_PUBLISH_CALL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/grpcpp.h"
#include "proto/loci/v1/training.pb.h"
#include "retriever/encoder_publisher.h"
#include "server/service_context.h"
#include "server/training_validation.h"
#include "server/upload_call.h"

namespace loci {

// Used by one thread at a time.
class PublishUpload final : public Upload {
 public:
  explicit PublishUpload(const ServiceContext& services) : services_(services) {}  // Borrowed.

  Method method() const override { return Method::kPublishEncoder; }
  std::string_view noun() const override { return "publication"; }
  absl::Status Take(UploadCall& call, grpc::ByteBuffer* message, int64_t number) override;
  absl::StatusOr<std::string> FinishReceiving(const JobHandle& job) override;
  absl::StatusOr<std::string> Finish(JobHandle& job) override;

 private:
  absl::Status TakeHeader(UploadCall& call, const loci::v1::PublishHeader& header);
  bool has_passage_weights() const { return request_.fingerprint.empty() && request_.publication.halves != EncoderHalves::kQuery; }
  // What the store serves; null without a store. The error of what keeps the store from being re-encoded now, where that is likely to be wanted.
  absl::StatusOr<std::shared_ptr<const ServingSet>> CheckStore() const;
  absl::StatusOr<std::shared_ptr<TextEncoder>> FindParent(std::shared_ptr<const ServingSet> serving) const;
  absl::Status CheckVectors(const Fingerprint& encoder, const ServingSet& serving) const;
  // So that a job that publishes for weeks does not fill the disk.
  void DeleteUnused() const;
  // Whether the publication changes nothing but the query half of what serves: a refresh that is under way goes on.
  absl::StatusOr<bool> IsQueryHalfAlone(const Fingerprint& encoder, std::shared_ptr<const ServingSet> serving) const;
  // Has the store take the encoder, now or by a refresh. `job` is the publication's own.
  absl::Status GoLive(const JobHandle& job, const std::shared_ptr<TextEncoder>& encoder, loci::v1::PublishResponse* response) const;

  const ServiceContext& services_;
  std::shared_ptr<JobHandle> job_;  // Null before the header, as the others.
  ValidPublish request_;
  std::unique_ptr<EncoderPublisher> publisher_;  // Null too where the encoder is there.
  std::shared_ptr<TextEncoder> there_;
};

}  // namespace loci

#endif  // LOCI_SERVER_PUBLISH_CALL_H_
