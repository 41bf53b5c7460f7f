// What an operation tells of its phases, told to the job that it runs as.
#ifndef LOCI_RETRIEVER_JOB_PROGRESS_H_
#define LOCI_RETRIEVER_JOB_PROGRESS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "retriever/generation_manager.h"
#include "retriever/job_registry.h"

namespace loci {

// The phases with which an operation that builds comes to its own activation.
inline constexpr std::string_view kUploadSwitch = "activating";  // Of ingests and imports.
inline constexpr std::string_view kFoldSwitch = "loading";

// With the first word of the phase `switching` (empty: of none) the job becomes an activation, and waits for the one that runs
// (JobHandle::BeginActivation; the operation looks at the limits itself). For one thread at a time.
std::function<void(std::string_view phase, int64_t done, int64_t total)> ProgressOf(std::shared_ptr<JobHandle> job, std::string_view switching = {});

// The job's limits, its progress and the generation that was chosen.
OperationControl ControlOf(const std::shared_ptr<JobHandle>& job, std::string_view switching = {});

}  // namespace loci

#endif  // LOCI_RETRIEVER_JOB_PROGRESS_H_
