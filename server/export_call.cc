#include "server/export_call.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/log_context.h"
#include "base/status_macros.h"
#include "server/conclude_call.h"
#include "server/request_errors.h"
#include "server/unary_call.h"
#include "server/validation.h"

namespace loci {
namespace {

constexpr size_t kChunkBytes = 1 << 20;

}  // namespace

class ExportCall::WriteWatch {
 public:
  explicit WriteWatch(grpc::CallbackServerContext* context) : context_(context) {}
  // The client took nothing for long: without an end of the call its view would be held as long as its connection.
  void Expire() {
    MutexLock lock(&mutex_);
    if (context_ == nullptr) return;
    expired_ = true;
    context_->TryCancel();
  }
  // The write is done. Whether the time was over before.
  bool Close() {
    MutexLock lock(&mutex_);
    context_ = nullptr;
    return expired_;
  }

 private:
  Mutex mutex_;
  grpc::CallbackServerContext* context_ ABSL_GUARDED_BY(mutex_);  // Null: over.
  bool expired_ ABSL_GUARDED_BY(mutex_) = false;
};

ExportCall::ExportCall(const ServiceContext& services, grpc::CallbackServerContext* context, const loci::v1::ExportRequest& request)
    : services_(services),
      context_(context),
      request_(request),
      start_us_(services.clock->NowMicros()),
      trace_(TakeRequestTrace(*context)),
      limits_(DeadlineMicros(*context, *services.clock)) {
  absl::StatusOr<Admission::Permit> permit = services_.exports->Acquire(0);
  if (!permit.ok()) {
    End(permit.status());
    return;
  }
  permit_ = *std::move(permit);
  Submit();
}

void ExportCall::Submit() {
  if (services_.admin_pool->TrySubmit([this] {
        const ScopedLogContext context(trace_.request_id, trace_.trace_id);
        Work();
      })) {
    return;
  }
  End(ErrorWithReason(absl::ResourceExhaustedError("the queue of the admin pool is full"), "OVERLOADED"));
}

void ExportCall::Work() {
  absl::Status status = limits_.Check(services_.clock->NowMicros());
  if (status.ok() && exporter_ == nullptr) status = Open();
  if (status.ok()) status = FillChunk();
  if (!status.ok() || chunk_.data().empty()) return End(status);
  watch_ = std::make_shared<WriteWatch>(context_);
  timer_ = std::make_unique<grpc::Alarm>();
  timer_->Set(std::chrono::system_clock::now() + std::chrono::milliseconds(services_.ingest_idle_timeout_ms), [watch = watch_](bool fired) {
    if (fired) watch->Expire();
  });
  StartWrite(&chunk_);
}

absl::Status ExportCall::Open() {
  LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request_.store()));
  LOCI_RETURN_IF_ERROR(ValidateGeneration(store, request_.generation()));
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<const ServingSet> serving_set, services_.manager->Capture(store, request_.generation()));
  std::shared_ptr<const View> view = serving_set->view;
  if (request_.without_writes()) view = View::Bare(view->shared_generation());
  exporter_ = std::make_unique<ArchiveExporter>(std::move(view), services_.clock->UnixMicros());
  chunk_.set_generation(exporter_->view().generation().id());
  chunk_.set_revision(exporter_->view().revision());
  chunk_.set_passage_count(exporter_->view().passage_count());
  return absl::OkStatus();
}

absl::Status ExportCall::FillChunk() {
  if (sent_bytes_ == bytes_.size() && !made_all_) {
    sent_count_ = exporter_->done_count();
    LOCI_ASSIGN_OR_RETURN(bytes_, exporter_->Next(limits_));
    sent_bytes_ = 0;
    made_all_ = bytes_.empty();
  }
  const size_t size = std::min(kChunkBytes, bytes_.size() - sent_bytes_);
  chunk_.set_data(bytes_.substr(sent_bytes_, size));
  sent_bytes_ += size;
  chunk_.set_done_count(sent_bytes_ == bytes_.size() ? exporter_->done_count() : sent_count_);
  return absl::OkStatus();
}

void ExportCall::OnWriteDone(bool ok) {
  const bool expired = watch_->Close();
  timer_.reset();
  chunk_.Clear();
  if (expired) {
    return End(ErrorWithReason(absl::DeadlineExceededError(absl::StrCat("the export's client took nothing for ", services_.ingest_idle_timeout_ms, " ms")),
                               "EXPORT_STALLED"));
  }
  if (!ok) return End(absl::CancelledError("the client cancelled the request"));
  Submit();
}

void ExportCall::End(const absl::Status& status) {
  exporter_.reset();
  CallConclusion conclusion = ConcludeCall(services_, context_, Method::kExportStore, trace_, start_us_, PhaseTimes(), status);
  permit_.Release();
  Finish(std::move(conclusion.status));
}

}  // namespace loci
