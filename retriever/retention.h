// Which generations of a store its retention has no room for.
#ifndef LOCI_RETRIEVER_RETENTION_H_
#define LOCI_RETRIEVER_RETENTION_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "proto/loci/storage/storage.pb.h"

namespace loci {

// Ids, oldest first, of those beyond the `keep` newest that are neither active nor pinned; these two don't count. `generations` are
// ordered oldest first. None where `keep` is 0. With `build_under_way` those newer than the active one stay: the build's may be among
// them, complete and about to be activated.
std::vector<std::string> ChooseExpired(const std::vector<storage::Manifest>& generations, const std::string& active,
                                       const std::set<std::string>& pinned, int32_t keep, bool build_under_way);

}  // namespace loci

#endif  // LOCI_RETRIEVER_RETENTION_H_
