// The devices that tests of search run on: the simulated grid in each order of threads, and the machine's CUDA device where it has one.
#ifndef LOCI_INDEX_CUDA_TESTING_SEARCH_DEVICES_H_
#define LOCI_INDEX_CUDA_TESTING_SEARCH_DEVICES_H_

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/cuda/testing/fake_runtime.h"
#include "index/cuda/resident_vectors.h"
#include "index/cuda/testing/simulated_kernels.h"

namespace loci {

struct SimulatedSearchDevice {
  SearchDevice device;
  FakeCudaRuntime* fake = nullptr;  // The device's.
};

inline SimulatedSearchDevice Simulated(const cuda::SimulatedSearchOptions& options = {},
                                       int64_t memory_bytes = int64_t{1} << 30) {
  auto runtime = std::make_shared<FakeCudaRuntime>(memory_bytes);
  SimulatedSearchDevice simulated;
  simulated.fake = runtime.get();
  simulated.device = {.name = "cuda:0", .runtime = runtime, .health = std::make_shared<CudaHealth>("cuda:0"), .kernels = nullptr};
  simulated.device.kernels = cuda::MakeSimulatedSearchKernels(*runtime, options);
  return simulated;
}

// Names for a parameterised test.
inline std::vector<std::string> SearchDeviceNames() { return {"forward", "backward", "shuffled", "cuda"}; }

// Without a runtime where the machine has no such device.
inline SearchDevice OpenSearchDeviceByName(const std::string& name) {
  if (name == "forward") return Simulated({.order = cuda::ThreadOrder::kForward}).device;
  if (name == "backward") return Simulated({.order = cuda::ThreadOrder::kBackward}).device;
  if (name == "shuffled") return Simulated({.order = cuda::ThreadOrder::kShuffled}).device;
  auto device = OpenSearchDevice(0);
  return device.ok() ? *std::move(device) : SearchDevice();
}

inline std::vector<float> NormalValues(int64_t count, uint64_t seed, float deviation = 0.3f) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

}  // namespace loci

#endif  // LOCI_INDEX_CUDA_TESTING_SEARCH_DEVICES_H_
