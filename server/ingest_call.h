// What the messages of an ingest become.
#ifndef LOCI_SERVER_INGEST_CALL_H_
#define LOCI_SERVER_INGEST_CALL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/grpcpp.h"
#include "proto/loci/v1/admin.pb.h"
#include "retriever/ingester.h"
#include "server/service_context.h"
#include "server/upload_call.h"

namespace loci {

// Used by one thread at a time.
class IngestUpload final : public Upload {
 public:
  explicit IngestUpload(const ServiceContext& services) : services_(services) {}  // Borrowed.

  Method method() const override { return Method::kIngest; }
  std::string_view noun() const override { return "ingest"; }
  absl::Status Take(UploadCall& call, grpc::ByteBuffer* message, int64_t number) override;
  absl::StatusOr<std::string> FinishReceiving(const JobHandle& job) override;
  absl::StatusOr<std::string> Finish(JobHandle& job) override;

 private:
  absl::Status TakeHeader(UploadCall& call);
  absl::Status TakeBatch();

  const ServiceContext& services_;
  loci::v1::IngestRequest request_;     // The last message.
  std::unique_ptr<Ingester> ingester_;  // Null before the header.
};

}  // namespace loci

#endif  // LOCI_SERVER_INGEST_CALL_H_
