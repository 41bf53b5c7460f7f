#include "retriever/job_progress.h"

#include <utility>

namespace loci {
namespace {

// Of a phase's done and total, by the phase's name.
std::string_view UnitOf(std::string_view phase) {
  if (phase == "recall" || phase == "gates") return "queries";
  if (phase == "tune") return "candidates";
  if (phase == "checksum") return "files";
  if (phase == "loading" || phase == "verifying" || phase == "warming" || phase == "publishing" || phase == "draining" || phase == "restoring") return "bytes";
  return "passages";
}

}  // namespace

std::function<void(std::string_view phase, int64_t done, int64_t total)> ProgressOf(std::shared_ptr<JobHandle> job, std::string_view switching) {
  return [job = std::move(job), switching = std::string(switching), phase = std::string()](std::string_view name, int64_t done,
                                                                                            int64_t total) mutable {
    if (name != phase) {
      phase = name;
      job->SetPhase(phase, total, UnitOf(phase));
      if (phase == switching) (void)job->BeginActivation();
    }
    job->SetDone(done);
  };
}

OperationControl ControlOf(const std::shared_ptr<JobHandle>& job, std::string_view switching) {
  return {.limits = job->limits(),
          .progress = ProgressOf(job, switching),
          .chosen = [job](const std::string& generation) { job->SetGeneration(generation); }};
}

}  // namespace loci
