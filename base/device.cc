#include "base/device.h"

#include <cpuid.h>

#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/cuda/error.h"
#include "base/strings.h"

namespace loci {
namespace {

std::string Describe(const CudaDevice& device) {
  return absl::StrCat(device.name, ", compute capability ", device.compute_major, ".", device.compute_minor, ", ",
                      device.free_memory_bytes >> 20, " of ", device.total_memory_bytes >> 20, " MiB free");
}

const CudaDevice* FindDevice(const CudaProbe& probe, int ordinal) {
  for (const CudaDevice& device : probe.devices) {
    if (device.ordinal == ordinal) return &device;
  }
  return nullptr;
}

// Where all are too old the first, which is refused with the reason when it is opened.
const CudaDevice& FirstThatMayServe(const CudaProbe& probe) {
  for (const CudaDevice& device : probe.devices) {
    if (device.compute_major >= kLeastComputeMajor) return device;
  }
  return probe.devices.front();
}

// Why CUDA can't serve, or the empty string.
std::string WhyNoCuda(const CudaProbe& probe, bool cuda_backend) {
  if (!probe.built_in || probe.devices.empty()) return probe.detail;
  if (!cuda_backend) {
    return absl::StrCat("this build has no CUDA encoder (found ", Describe(probe.devices.front()), ")");
  }
  return "";
}

DeviceChoice Cuda(const CudaDevice& device, std::string_view why) {
  return {.cuda = true,
          .ordinal = device.ordinal,
          .name = absl::StrCat("cuda:", device.ordinal),
          .reason = absl::StrCat(AbslView(why), ": ", Describe(device))};
}

}  // namespace

absl::StatusOr<DeviceChoice> ChooseDevice(std::string_view request, const CudaProbe& probe, bool cuda_backend) {
  if (request == "cpu") return DeviceChoice{.name = "cpu", .reason = "cpu was asked for"};
  const std::string why_no_cuda = WhyNoCuda(probe, cuda_backend);
  if (request == "auto") {
    if (why_no_cuda.empty()) return Cuda(FirstThatMayServe(probe), "auto takes the first CUDA device that is new enough");
    return DeviceChoice{.name = "cpu", .reason = absl::StrCat("auto takes the CPU: ", why_no_cuda)};
  }
  int ordinal = -1;
  const bool is_cuda = request.substr(0, 5) == "cuda:" && request.size() <= 8 &&
                       request.find_first_not_of("0123456789", 5) == std::string_view::npos &&
                       absl::SimpleAtoi(AbslView(request.substr(5)), &ordinal);
  if (!is_cuda) {
    return absl::InvalidArgumentError(
        absl::StrCat("device is \"", AbslView(request.substr(0, 64)), "\"; it must be auto, cpu or cuda:N"));
  }
  if (!why_no_cuda.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("device ", AbslView(request), " can't be used: ", why_no_cuda));
  }
  const CudaDevice* const device = FindDevice(probe, ordinal);
  if (device == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("device ", AbslView(request), " can't be used: this machine has ",
                                                      probe.devices.size(), " CUDA device(s), counted from 0"));
  }
  return Cuda(*device, absl::StrCat(AbslView(request), " was asked for"));
}

namespace {

bool HasAvx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}

// Not every compiler's __builtin_cpu_supports knows it. The state of its registers is AVX-512's.
bool HasAvx512Float16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx >> 23 & 1) != 0;
}

// What LOCI_ISA names, or the empty string.
std::string_view WantedIsa() {
  const char* const wanted = std::getenv("LOCI_ISA");
  return wanted == nullptr ? "" : wanted;
}

}  // namespace

CpuIsa DetectCpuIsa() {
  return HasAvx512() && WantedIsa() != CpuIsaName(CpuIsa::kAvx2) ? CpuIsa::kAvx512 : CpuIsa::kAvx2;
}

CpuExtensions DetectCpuExtensions() {
  const std::string_view wanted = WantedIsa();
  if (!HasAvx512() || wanted == CpuIsaName(CpuIsa::kAvx2) || wanted == CpuIsaName(CpuIsa::kAvx512)) return {};
  return {.bfloat16 = __builtin_cpu_supports("avx512bf16") != 0,
          .float16 = HasAvx512Float16(),
          .vnni = __builtin_cpu_supports("avx512vnni") != 0};
}

std::string_view CpuIsaName(CpuIsa isa) { return isa == CpuIsa::kAvx512 ? "avx512" : "avx2"; }

}  // namespace loci
