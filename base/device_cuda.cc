// ProbeCuda with the CUDA runtime, linked statically: the process starts without a driver.
#include <cuda_runtime_api.h>

#include "absl/strings/str_cat.h"
#include "base/cuda/error.h"
#include "base/device.h"

namespace loci {
namespace {

std::string Describe(cudaError_t error) {
  return absl::StrCat(cudaGetErrorString(error), " (CUDA error ", static_cast<int>(error), ")");
}

}  // namespace

CudaProbe ProbeCuda() {
  CudaProbe probe;
  probe.built_in = true;
  int count = 0;
  const cudaError_t counted = cudaGetDeviceCount(&count);
  if (counted != cudaSuccess || count == 0) {
    (void)cudaGetLastError();
    int driver_version = 0, runtime_version = 0;
    (void)cudaDriverGetVersion(&driver_version);
    (void)cudaRuntimeGetVersion(&runtime_version);
    const std::string too_old = WhyDriverIsTooOld(driver_version, runtime_version);
    probe.detail = absl::StrCat("no CUDA device: ", !too_old.empty()            ? too_old
                                                    : counted == cudaSuccess ? "the driver lists none"
                                                                             : Describe(counted));
    return probe;
  }
  int current = 0;
  (void)cudaGetDevice(&current);
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, i);
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    // Makes a context on the device, which shows that it can be used at all.
    if (error == cudaSuccess) error = cudaSetDevice(i);
    if (error == cudaSuccess) error = cudaMemGetInfo(&free_bytes, &total_bytes);
    if (error != cudaSuccess) {
      (void)cudaGetLastError();
      absl::StrAppend(&probe.detail, probe.detail.empty() ? "" : "; ", "CUDA device ", i, " can't be used: ", Describe(error));
      continue;
    }
    probe.devices.push_back({.ordinal = i,
                             .name = properties.name,
                             .compute_major = properties.major,
                             .compute_minor = properties.minor,
                             .total_memory_bytes = static_cast<int64_t>(total_bytes),
                             .free_memory_bytes = static_cast<int64_t>(free_bytes)});
  }
  (void)cudaSetDevice(current);
  return probe;
}

}  // namespace loci
