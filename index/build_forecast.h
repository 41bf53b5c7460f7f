// How much disk and memory a build takes, told before it has written anything.
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
  // In memory, besides mapped files and what a build of any index takes (some 100 MiB): FAISS holds the index until it is written. 0 for an automatic one,
  // which is chosen of those that find memory.
  int64_t memory_bytes = 0;
  // In memory once it is open: of a graph 8-bit codes in the place of the vectors. Of an automatic one the largest.
  int64_t opened_bytes = 0;
  int64_t peak_bytes() const;
};
BuildForecast ForecastBuild(const BuildSize& size);

// RESOURCE_EXHAUSTED, reason DISK with `needed_bytes` and `available_bytes`, where that is less. `available_bytes` -1: not known, OK.
absl::Status CheckDisk(const std::string& what, int64_t needed_bytes, int64_t available_bytes);
// The same of memory: reason MEMORY.
absl::Status CheckMemory(const std::string& what, int64_t needed_bytes, int64_t available_bytes);
// Whether there is memory for its build; true where `available_memory_bytes` is null.
bool FitsMemory(const BuildSize& size, const std::function<int64_t()>& available_memory_bytes);

}  // namespace loci

#endif  // LOCI_INDEX_BUILD_FORECAST_H_
