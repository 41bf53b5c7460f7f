// Which generations of a store its retention has no room for.
#ifndef LOCI_RETRIEVER_RETENTION_H_
#define LOCI_RETRIEVER_RETENTION_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "proto/loci/storage/storage.pb.h"

namespace loci {

struct RetentionRules {
  int32_t keep = 0;              // Generations besides the active one. 0: all, but for what was folded.
  std::string active;
  std::string previous;          // The one that a roll-back would activate; empty: none.
  std::set<std::string> pinned;  // Stay, and are not counted.
  std::set<std::string> failed;  // Not counted either: the place of one that can't serve is another's. Deleted as the others of their age.
  // A fold replaced them: not counted. They go, whatever is kept, but with keep = 0 those that were not made by a fold stay.
  std::set<std::string> folded;
  bool build_under_way = false;  // Those newer than the active one stay: the build's may be among them, about to be activated.
};

// Ids, oldest first, of the generations that are beyond the `keep` newest. The previous one stays and is counted first. `generations` are
// ordered oldest first.
std::vector<std::string> ChooseExpired(const std::vector<storage::Manifest>& generations, const RetentionRules& rules);

}  // namespace loci

#endif  // LOCI_RETRIEVER_RETENTION_H_
