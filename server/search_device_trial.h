// Whether a device can search, found out before anything is opened that it would search.
#ifndef LOCI_SERVER_SEARCH_DEVICE_TRIAL_H_
#define LOCI_SERVER_SEARCH_DEVICE_TRIAL_H_

#include "absl/status/status.h"
#include "index/placed_exact_index.h"

namespace loci {

// Places made-up vectors of each type that vectors are stored in, searches them on the device, and compares hits and scores, bit for bit, with the CPU's
// exact index. Frees what it took. OK where they are the same, and, with a warning in the log, where the device has no room for them now: that says nothing
// of it, and each index checks itself once it is placed. FAILED_PRECONDITION where they differ or the device answers nothing; UNAVAILABLE where it failed,
// for good; else as ExactPlacer::Place. Blocks for as long as the fewest rows that the device is for (65,536 by default) take, of three types.
absl::Status TrySearchDevice(ExactPlacer& placer);

}  // namespace loci

#endif  // LOCI_SERVER_SEARCH_DEVICE_TRIAL_H_
