// SearchKernels on a FakeCudaRuntime: the device's kernel bodies on a simulated grid.
#ifndef LOCI_INDEX_CUDA_TESTING_SIMULATED_KERNELS_H_
#define LOCI_INDEX_CUDA_TESTING_SIMULATED_KERNELS_H_

#include <memory>

#include "base/cuda/testing/fake_runtime.h"
#include "base/cuda/testing/simulated_grid.h"
#include "index/cuda/kernels.h"

namespace loci::cuda {

struct SimulatedSearchOptions {
  ThreadOrder order = ThreadOrder::kForward;
  int multiprocessor_count = 2;
  int max_shared_bytes = 227 << 10;
};

// `runtime` is borrowed.
std::unique_ptr<SearchKernels> MakeSimulatedSearchKernels(FakeCudaRuntime& runtime, const SimulatedSearchOptions& options);

}  // namespace loci::cuda

#endif  // LOCI_INDEX_CUDA_TESTING_SIMULATED_KERNELS_H_
