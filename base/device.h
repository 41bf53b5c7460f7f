// Which device the encoder and the exact index run on, chosen once at start.
#ifndef LOCI_BASE_DEVICE_H_
#define LOCI_BASE_DEVICE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace loci {

struct CudaDevice {
  int ordinal = 0;
  std::string name;
  int compute_major = 0;
  int compute_minor = 0;
  int64_t total_memory_bytes = 0;
  int64_t free_memory_bytes = 0;
};

// What the CUDA runtime found. `built_in` is false in a build without CUDA; `detail` says in words why `devices` is empty.
// A missing or too old driver (cudaErrorInsufficientDriver) and cudaErrorNoDevice are "no device", not errors.
struct CudaProbe {
  bool built_in = false;
  std::vector<CudaDevice> devices;
  std::string detail;
};
CudaProbe ProbeCuda();

struct DeviceChoice {
  bool cuda = false;
  int ordinal = 0;
  std::string name;    // "cpu" or "cuda:0"
  std::string reason;  // For logs and GetServerInfo.
};

// `request` is auto, cpu or cuda:N. `auto` takes the CPU with the reason where CUDA can't serve (`cuda_backend` false: this build
// has no CUDA encoder). INVALID_ARGUMENT for another word; FAILED_PRECONDITION where an explicit cuda:N can't be met.
absl::StatusOr<DeviceChoice> ChooseDevice(std::string_view request, const CudaProbe& probe, bool cuda_backend);

// The instruction set kernels use: "avx512" or "avx2", from CPUID, or what LOCI_ISA names where the machine has it.
enum class CpuIsa { kAvx2, kAvx512 };
CpuIsa DetectCpuIsa();
std::string_view CpuIsaName(CpuIsa isa);

// What kernels of lower precision use besides CpuIsa::kAvx512, from CPUID. All false where LOCI_ISA names avx2 or avx512, which have none of it.
struct CpuExtensions {
  bool bfloat16 = false;  // AVX512_BF16: vdpbf16ps and conversions.
  bool float16 = false;   // AVX512_FP16: arithmetic of IEEE halves.
  bool vnni = false;      // AVX512_VNNI: vpdpbusd.
};
CpuExtensions DetectCpuExtensions();

}  // namespace loci

#endif  // LOCI_BASE_DEVICE_H_
