// How much disk a build takes, told before it has written anything.
#ifndef LOCI_INDEX_BUILD_FORECAST_H_
#define LOCI_INDEX_BUILD_FORECAST_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "base/vector_type.h"

namespace loci {

// What is known of a build.
struct BuildSize {
  int64_t passage_count = 0;
  int64_t passage_bytes = 0;  // Serialised; 0: not known, and left out.
  int dim = 0;
  ElementType element_type = ElementType::kFloat32;
  std::string index = "exact";
};

// Bytes in the build's folder. What is added is staged (`staging`), then written in its order, then the staging goes, then the index is built.
// Passages are taken to be packed to what they have, at worst.
struct BuildForecast {
  int64_t staging_bytes = 0;
  int64_t files_bytes = 0;  // Vectors, passages and columns.
  int64_t index_bytes = 0;  // Or of 8-bit codes.
  int64_t peak_bytes() const;
};
BuildForecast ForecastBuild(const BuildSize& size);

// RESOURCE_EXHAUSTED, reason DISK with `needed_bytes` and `available_bytes`, where that is less. `available_bytes` -1: not known, OK.
absl::Status CheckDisk(const std::string& what, int64_t needed_bytes, int64_t available_bytes);

}  // namespace loci

#endif  // LOCI_INDEX_BUILD_FORECAST_H_
