#include "retriever/retention.h"

#include <algorithm>

namespace loci {

std::vector<std::string> ChooseExpired(const std::vector<storage::Manifest>& generations, const RetentionRules& rules) {
  std::vector<std::string> expired;
  const auto counts = [&](const std::string& id) {
    return id != rules.active && rules.pinned.count(id) == 0 && rules.failed.count(id) == 0 && rules.folded.count(id) == 0;
  };
  const bool has_previous =
      counts(rules.previous) && std::any_of(generations.begin(), generations.end(), [&](const storage::Manifest& manifest) {
        return manifest.generation() == rules.previous;
      });
  bool newer_than_active = true;
  int32_t kept = has_previous ? 1 : 0;
  for (auto manifest = generations.rbegin(); manifest != generations.rend(); ++manifest) {
    const std::string& id = manifest->generation();
    if (id == rules.active) {
      newer_than_active = false;
      continue;
    }
    if (rules.pinned.count(id) > 0 || id == rules.previous) continue;
    if (rules.folded.count(id) > 0) {
      if (rules.keep > 0 || !manifest->folded_from().empty()) expired.push_back(id);
    } else if (rules.keep <= 0) {
      continue;
    } else if (kept < rules.keep) {
      if (counts(id)) ++kept;
    } else if (!(rules.build_under_way && newer_than_active)) {
      expired.push_back(id);
    }
  }
  std::reverse(expired.begin(), expired.end());
  return expired;
}

}  // namespace loci
