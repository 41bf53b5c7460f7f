// What both services work with.
#ifndef LOCI_SERVER_SERVICE_CONTEXT_H_
#define LOCI_SERVER_SERVICE_CONTEXT_H_

#include <cstdint>

#include "base/clock.h"
#include "base/thread_pool.h"
#include "proto/loci/v1/admin.pb.h"
#include "retriever/generation_manager.h"
#include "retriever/job_registry.h"
#include "retriever/pipeline.h"
#include "server/admission.h"
#include "server/request_metrics.h"

namespace loci {

// All borrowed; they outlive every call. Immutable after construction (what it points to is thread-safe).
struct ServiceContext {
  GenerationManager* manager = nullptr;
  Pipeline* pipeline = nullptr;
  ThreadPool* admin_pool = nullptr;  // Runs what blocks. Its queue has room for a task of every call that is admitted.
  JobRegistry* jobs = nullptr;
  Admission* requests = nullptr;
  Admission* ingests = nullptr;
  RequestMetrics* metrics = nullptr;
  Clock* clock = &RealClock();
  int64_t pushback_ms = 250;              // Of the trailer that comes with RESOURCE_EXHAUSTED.
  int64_t ingest_idle_timeout_ms = 120'000;  // How long an ingest may send nothing.
  loci::v1::GetServerInfoResponse info;   // All but `encoders`.
};

}  // namespace loci

#endif  // LOCI_SERVER_SERVICE_CONTEXT_H_
