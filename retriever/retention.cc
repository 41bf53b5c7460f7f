#include "retriever/retention.h"

#include <algorithm>

namespace loci {

std::vector<std::string> ChooseExpired(const std::vector<storage::Manifest>& generations, const std::string& active,
                                       const std::set<std::string>& pinned, int32_t keep, bool build_under_way) {
  std::vector<std::string> expired;
  if (keep <= 0) return expired;
  bool newer_than_active = true;
  int32_t kept = 0;
  for (auto manifest = generations.rbegin(); manifest != generations.rend(); ++manifest) {
    const std::string& id = manifest->generation();
    if (id == active) {
      newer_than_active = false;
      continue;
    }
    if (pinned.count(id) > 0) continue;
    if (kept < keep) {
      ++kept;
    } else if (!(build_under_way && newer_than_active)) {
      expired.push_back(id);
    }
  }
  std::reverse(expired.begin(), expired.end());
  return expired;
}

}  // namespace loci
