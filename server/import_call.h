// What the messages of an import become.
#ifndef LOCI_SERVER_IMPORT_CALL_H_
#define LOCI_SERVER_IMPORT_CALL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/grpcpp.h"
#include "proto/loci/v1/admin.pb.h"
#include "retriever/archive_importer.h"
#include "server/service_context.h"
#include "server/upload_call.h"

namespace loci {

// Used by one thread at a time.
class ImportUpload final : public Upload {
 public:
  explicit ImportUpload(const ServiceContext& services) : services_(services) {}  // Borrowed.

  Method method() const override { return Method::kImportStore; }
  std::string_view noun() const override { return "import"; }
  absl::Status Take(UploadCall& call, grpc::ByteBuffer* message, int64_t number) override;
  absl::StatusOr<std::string> FinishReceiving(const JobHandle& job) override;
  absl::StatusOr<std::string> Finish(JobHandle& job) override;

 private:
  absl::Status TakeHeader(UploadCall& call, const loci::v1::ImportHeader& header);

  const ServiceContext& services_;
  std::unique_ptr<ArchiveImporter> importer_;  // Null before the header.
};

}  // namespace loci

#endif  // LOCI_SERVER_IMPORT_CALL_H_
