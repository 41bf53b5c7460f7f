// What the services work with.
#ifndef LOCI_SERVER_SERVICE_CONTEXT_H_
#define LOCI_SERVER_SERVICE_CONTEXT_H_

#include <array>
#include <cstdint>

#include "base/clock.h"
#include "base/thread_pool.h"
#include "proto/loci/v1/admin.pb.h"
#include "retriever/activation_watch.h"
#include "retriever/encoder_refresh.h"
#include "retriever/generation_manager.h"
#include "retriever/job_registry.h"
#include "retriever/pipeline.h"
#include "retriever/training_pipeline.h"
#include "server/admission.h"
#include "server/refusal_queue.h"
#include "server/request_metrics.h"

namespace loci {

// All borrowed; they outlive every call. Immutable after construction (what it points to is thread-safe).
struct ServiceContext {
  // Of one unary method.
  struct OfMethod {
    Admission* requests = nullptr;  // Null: no limit of its own.
    int64_t max_deadline_us = 0;    // 0: none.
  };

  GenerationManager* manager = nullptr;
  Pipeline* pipeline = nullptr;
  TrainingPipeline* training = nullptr;
  ThreadPool* admin_pool = nullptr;    // Runs what blocks. Its queue has room for a task of every call that is admitted.
  ThreadPool* control_pool = nullptr;  // Runs what `control` admits.
  JobRegistry* jobs = nullptr;
  EncoderRefresher* refresher = nullptr;
  // Run the jobs whose clients do not wait. A build may wait for an activation, and both may be long: each sort has threads of its own.
  ThreadPool* build_pool = nullptr;   // A thread for each ingest that `ingests` admits.
  ThreadPool* switch_pool = nullptr;  // Activations and roll-backs.
  ThreadPool* verify_pool = nullptr;
  ThreadPool* fold_pool = nullptr;
  ThreadPool* reembed_pool = nullptr;
  ThreadPool* watch_pool = nullptr;   // Watches what was activated, for as long as that takes.
  ActivationWatches* activation_watches = nullptr;
  Admission* requests = nullptr;
  Admission* control = nullptr;  // Of requests that look after the server (IsControl): no flood of others takes their place.
  Admission* ingests = nullptr;
  Admission* exports = nullptr;  // A client that reads slowly keeps nobody from ingesting.
  RefusalQueue* refusals = nullptr;  // Of the unary methods.
  Admission* watches = nullptr;  // WatchJob: a watch may last for hours.
  std::array<OfMethod, kMethodCount> methods{};
  bool log_requests = false;  // A line for every request, not only for those that failed by the server's fault.
  RequestMetrics* metrics = nullptr;
  Clock* clock = &RealClock();
  int64_t pushback_ms = 250;              // Of the trailer that comes with RESOURCE_EXHAUSTED.
  int64_t ingest_idle_timeout_ms = 120'000;  // How long an ingest may send nothing.
  loci::v1::GetServerInfoResponse info;   // All but `encoders`.
};

}  // namespace loci

#endif  // LOCI_SERVER_SERVICE_CONTEXT_H_
