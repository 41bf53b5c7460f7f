// The centroids of inverted lists, of which each query wants the nearest: 8-bit codes say which, their scores are then computed from the centroids.
#ifndef LOCI_INDEX_ROUNDED_CENTROIDS_H_
#define LOCI_INDEX_ROUNDED_CENTROIDS_H_

#include <faiss/IndexIVF.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "base/device.h"
#include "index/int8_kernels.h"

namespace loci {

// Puts such centroids in the place of `index`'s, where these are a flat index with inner products; else leaves it as it is. Returns the memory in bytes
// that this took. RESOURCE_EXHAUSTED where it is not there.
absl::StatusOr<int64_t> UseRoundedCentroids(faiss::IndexIVF& index, CpuIsa isa = DetectCpuIsa(), ScanIsa scan_isa = DetectScanIsa());

}  // namespace loci

#endif  // LOCI_INDEX_ROUNDED_CENTROIDS_H_
