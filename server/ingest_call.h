// One ingest stream. A message is read, then handled on the admin pool, and only then is the next one read: a client can't send faster
// than the store takes, and while the server waits for a client no thread is held.
//
//   WAITING -> (message) WORKING -> WAITING ... -> (end of stream) WORKING -> ENDED;   WAITING -> (stalled, cancelled) WORKING -> ENDED
#ifndef LOCI_SERVER_INGEST_CALL_H_
#define LOCI_SERVER_INGEST_CALL_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "base/cancellation.h"
#include "base/mutex.h"
#include "grpcpp/alarm.h"
#include "grpcpp/grpcpp.h"
#include "proto/loci/v1/admin.pb.h"
#include "retriever/ingester.h"
#include "retriever/job_registry.h"
#include "server/admission.h"
#include "server/request_id.h"
#include "server/service_context.h"

namespace loci {

// Messages come as bytes and are parsed here: where gRPC parses, a message that can't be parsed looks like the end of the stream, and half a
// corpus would be activated. Owned by gRPC from the handler's return on. Used by one thread at a time: whoever took the turn (see Turn).
class IngestCall final : public grpc::ServerReadReactor<grpc::ByteBuffer> {
 public:
  // All borrowed; `context` and `response` live as long as this.
  IngestCall(const ServiceContext& services, grpc::CallbackServerContext* context, grpc::ByteBuffer* response);

 private:
  // While the call waits for a message, the message and the idle timer race for it. One of them takes the turn; the other finds it
  // taken. Outlives the call where the timer does. Thread-safe.
  class Turn {
   public:
    void Offer(int64_t read);         // Read number `read` is waited for.
    void AllowCancel(int64_t read);   // From now on TakeAny may, too, have it.
    bool Take(int64_t read);          // Whether it still was.
    bool TakeAny();                   // Whether any read was waited for, all that starts it being done.

   private:
    Mutex mutex_;
    int64_t waiting_for_ ABSL_GUARDED_BY(mutex_) = 0;  // 0: nothing.
    bool cancellable_ ABSL_GUARDED_BY(mutex_) = false;
  };

  void OnReadDone(bool ok) override;
  void OnCancel() override {
    limits_.Cancel();
    if (!handed_over_) job_limits_.Cancel();
  }
  void OnDone() override { delete this; }

  void WaitForMessage();
  void Submit(void (IngestCall::*work)());
  void HandleMessage();   // On the admin pool, as the four below.
  void HandleEnd();
  void HandleStall();
  void HandleCancel();
  void End(const absl::Status& status);
  absl::Status TakeMessage();
  absl::Status StartJob();
  absl::Status TakeBatch();
  absl::Status Conclude();
  // With no_wait: the job has all it needs, and goes on without this call.
  absl::Status HandOver();
  absl::Status CheckLimits() const;  // The call's and the job's.

  const ServiceContext& services_;
  grpc::CallbackServerContext* const context_;
  grpc::ByteBuffer* const response_;
  const int64_t start_us_;
  const RequestTrace trace_;
  const RequestLimits limits_;
  const RequestLimits job_limits_;  // With no_wait the job's, which has no deadline.
  bool no_wait_ = false;
  std::atomic<bool> handed_over_{false};  // From then on the call's end is nothing to the job.
  const std::shared_ptr<Turn> turn_ = std::make_shared<Turn>();
  int64_t read_count_ = 0;
  Admission::Permit permit_;
  std::unique_ptr<grpc::Alarm> idle_timer_;
  grpc::ByteBuffer message_;
  loci::v1::IngestRequest request_;  // What `message_` says.
  std::shared_ptr<JobHandle> job_;      // Null before the header, as the ingester.
  std::unique_ptr<Ingester> ingester_;
};

}  // namespace loci

#endif  // LOCI_SERVER_INGEST_CALL_H_
