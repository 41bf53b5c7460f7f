// What an activation would take, as it is known before anything is loaded.
#ifndef LOCI_RETRIEVER_ACTIVATION_PLAN_H_
#define LOCI_RETRIEVER_ACTIVATION_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "index/generation_memory.h"

namespace loci {

// The memory of a generation that is to be opened and of the writes that are laid over it, besides mapped files. One truth for the plan and for
// what refuses an activation.
struct ActivationNeed {
  GenerationMemory generation;  // All 0 where it is open already.
  int64_t overlay_bytes = 0;
  int64_t pinned_bytes = 0;  // Of the host's memory, where a device is to search it.

  int64_t resident_bytes() const { return generation.opened_bytes() + overlay_bytes + pinned_bytes; }
  int64_t most_bytes() const { return generation.most_bytes() + overlay_bytes + pinned_bytes; }
};

// An owner's share.
struct MemoryFigure {
  std::string owner;
  bool mapped = false;
  int64_t bytes = 0;
  int64_t most_bytes = 0;
};

struct ActivationPlan {
  std::string generation;
  std::string previous_generation;
  int64_t revision = 0;
  std::vector<std::string> blockers;  // "WRITES_SINCE: ...": what would refuse it, with its figures.
  int64_t mapped_bytes = 0;
  ActivationNeed need;
  std::vector<MemoryFigure> memory;
  int64_t available_bytes = -1;  // -1: not known.
  int64_t released_bytes = 0;    // What serves gives back.
  int64_t disk_bytes = 0;        // Of the generation's files.
  int64_t available_disk_bytes = -1;
  int64_t estimated_load_ms = 0;
  int64_t writes_since_count = 0;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_ACTIVATION_PLAN_H_
