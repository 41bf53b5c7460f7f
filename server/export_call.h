// One archive on its way to a client. The next chunk is made on the admin pool once the last one was taken: a client that reads slowly holds
// its view, and neither a thread nor more memory than a block.
#ifndef LOCI_SERVER_EXPORT_CALL_H_
#define LOCI_SERVER_EXPORT_CALL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "base/cancellation.h"
#include "base/mutex.h"
#include "grpcpp/alarm.h"
#include "grpcpp/grpcpp.h"
#include "proto/loci/v1/admin.pb.h"
#include "retriever/archive_exporter.h"
#include "server/admission.h"
#include "server/request_id.h"
#include "server/service_context.h"

namespace loci {

// Either a write or a piece of work is under way, so that one thread at a time is in here, but for OnCancel and the timer, which touch limits_
// and context_ only. Owned by gRPC from the handler's return on.
class ExportCall final : public grpc::ServerWriteReactor<loci::v1::ExportChunk> {
 public:
  // Borrowed, as `context`, which lives as long as this; `request` is copied.
  ExportCall(const ServiceContext& services, grpc::CallbackServerContext* context, const loci::v1::ExportRequest& request);

 private:
  // Watches that a write is taken within the idle timeout. Outlives the call where the timer does. Thread-safe.
  class WriteWatch;

  void OnWriteDone(bool ok) override;
  void OnCancel() override { limits_.Cancel(); }
  void OnDone() override { delete this; }

  void Submit();
  void Work();  // On the admin pool: writes the next chunk, or ends the call.
  absl::Status Open();
  absl::Status FillChunk();  // chunk_ is empty at the end.
  void End(const absl::Status& status);

  const ServiceContext& services_;
  grpc::CallbackServerContext* const context_;
  const loci::v1::ExportRequest request_;
  const int64_t start_us_;
  const RequestTrace trace_;
  const RequestLimits limits_;
  Admission::Permit permit_;
  std::unique_ptr<ArchiveExporter> exporter_;  // Null before the first chunk.
  std::string bytes_;      // Made by exporter_.
  size_t sent_bytes_ = 0;  // Of bytes_.
  bool made_all_ = false;
  int64_t sent_count_ = 0;  // Passages whose bytes were sent whole.
  loci::v1::ExportChunk chunk_;
  std::shared_ptr<WriteWatch> watch_;
  std::unique_ptr<grpc::Alarm> timer_;
};

}  // namespace loci

#endif  // LOCI_SERVER_EXPORT_CALL_H_
