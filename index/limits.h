// What everything that takes passages holds to.
#ifndef LOCI_INDEX_LIMITS_H_
#define LOCI_INDEX_LIMITS_H_

#include <cstddef>

namespace loci {

inline constexpr size_t kMaxStoredIdBytes = 512;  // Of a passage; 1 at least.

}  // namespace loci

#endif  // LOCI_INDEX_LIMITS_H_
