// What the messages of an import of an encoder become.
#ifndef LOCI_SERVER_ENCODER_CALL_H_
#define LOCI_SERVER_ENCODER_CALL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/grpcpp.h"
#include "proto/loci/v1/admin.pb.h"
#include "retriever/encoder_importer.h"
#include "server/service_context.h"
#include "server/upload_call.h"

namespace loci {

// Used by one thread at a time.
class EncoderUpload final : public Upload {
 public:
  explicit EncoderUpload(const ServiceContext& services) : services_(services) {}  // Borrowed.

  Method method() const override { return Method::kImportEncoder; }
  std::string_view noun() const override { return "upload"; }
  absl::Status Take(UploadCall& call, grpc::ByteBuffer* message, int64_t number) override;
  absl::StatusOr<std::string> FinishReceiving(const JobHandle& job) override;
  absl::StatusOr<std::string> Finish(JobHandle& job) override;

 private:
  const ServiceContext& services_;
  std::shared_ptr<JobHandle> job_;  // Null before the header, as the importer.
  std::unique_ptr<EncoderImporter> importer_;
};

}  // namespace loci

#endif  // LOCI_SERVER_ENCODER_CALL_H_
