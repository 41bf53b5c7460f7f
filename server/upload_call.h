// One stream from a client that becomes a generation or writes: an ingest or an import. A message is read, then handled on the admin pool,
// and only then is the next one read: a client can't send faster than the store takes, and while the server waits for a client no thread
// is held.
//
//   WAITING -> (message) WORKING -> WAITING ... -> (end of stream) WORKING -> ENDED;   WAITING -> (stalled, cancelled) WORKING -> ENDED
#ifndef LOCI_SERVER_UPLOAD_CALL_H_
#define LOCI_SERVER_UPLOAD_CALL_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/mutex.h"
#include "grpcpp/alarm.h"
#include "grpcpp/grpcpp.h"
#include "retriever/job_registry.h"
#include "server/admission.h"
#include "server/method.h"
#include "server/request_id.h"
#include "server/service_context.h"

namespace loci {

class UploadCall;

// What is done with the messages of one stream. Destroyed before Finish it throws away what it built. Used by one thread at a time.
class Upload {
 public:
  virtual ~Upload() = default;
  virtual Method method() const = 0;
  virtual std::string_view noun() const = 0;  // "ingest"
  // Parses and takes message `number`, from 1 on. The header, which is the first, starts the job of `call`; without it nothing is taken.
  virtual absl::Status Take(UploadCall& call, grpc::ByteBuffer* message, int64_t number) = 0;
  // The stream has ended, all of it came: what is known so far, as the serialised reply of a client that does not wait.
  virtual absl::StatusOr<std::string> FinishReceiving(const JobHandle& job) = 0;
  // Builds and activates: the serialised reply. Perhaps after the call's end.
  virtual absl::StatusOr<std::string> Finish(JobHandle& job) = 0;
};

// Messages come as bytes and are parsed by the Upload: where gRPC parses, a message that can't be parsed looks like the end of the stream,
// and half a corpus would be activated. Owned by gRPC from the handler's return on. Used by one thread at a time: whoever took the turn (see Turn).
class UploadCall final : public grpc::ServerReadReactor<grpc::ByteBuffer> {
 public:
  // What the pointers point to is borrowed; `context` and `response` live as long as this.
  UploadCall(const ServiceContext& services, std::unique_ptr<Upload> upload, grpc::CallbackServerContext* context, grpc::ByteBuffer* response);

  // For the Upload, while it takes its header:
  // What the operation looks at: the call's limits, or with `no_wait` the job's, which has no deadline.
  RequestLimits LimitsOf(bool no_wait) const { return no_wait ? job_limits_ : limits_; }
  // Once.
  absl::StatusOr<std::shared_ptr<JobHandle>> StartJob(JobKind kind, const std::string& store, bool no_wait);

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
  void Submit(void (UploadCall::*work)());
  void HandleMessage();   // On the admin pool, as the four below.
  void HandleEnd();
  void HandleStall();
  void HandleCancel();
  void End(const absl::Status& status);
  absl::Status Conclude();
  // With no_wait: the job has all it needs, and goes on without this call.
  absl::Status HandOver();
  absl::Status CheckLimits() const;  // The call's and the job's.

  const ServiceContext& services_;
  grpc::CallbackServerContext* const context_;
  grpc::ByteBuffer* const response_;
  const Method method_;
  const std::string noun_;
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
  std::shared_ptr<JobHandle> job_;  // Null before the header.
  std::unique_ptr<Upload> upload_;
};

}  // namespace loci

#endif  // LOCI_SERVER_UPLOAD_CALL_H_
