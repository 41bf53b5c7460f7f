// Options with which tests search a few hundred rows on a simulated device.
#ifndef LOCI_INDEX_CUDA_TESTING_SMALL_SEARCH_H_
#define LOCI_INDEX_CUDA_TESTING_SMALL_SEARCH_H_

#include "index/cuda/cuda_exact_index.h"
#include "index/cuda/cuda_softmax.h"

namespace loci {

// Lists so short that such rows take several launches, no self check, of which there would be many, and no log Z.
inline CudaSearchOptions SmallSearch() {
  CudaSearchOptions options;
  options.limits.upload_bytes = 40'000;
  options.limits.reserved_bytes = 0;
  options.min_capacity = 512;
  options.capacity_factor = 8;
  options.pass_candidates = 512 * 300;
  options.growth = 2;
  options.min_visible_rows = 0;
  options.self_check = false;
  options.softmax.reset();
  return options;
}

// For log Z too.
inline CudaSoftmaxOptions SmallSoftmax() {
  CudaSoftmaxOptions options;
  options.max_queries = 16;
  options.part_bytes = 1 << 20;
  options.reserved_bytes = 0;
  options.self_check = false;
  return options;
}

}  // namespace loci

#endif  // LOCI_INDEX_CUDA_TESTING_SMALL_SEARCH_H_
