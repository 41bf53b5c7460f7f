#include "index/int8_kernels.h"

#include <cstdlib>
#include <string_view>

#include "base/device.h"

namespace loci {

Int8Isa DetectInt8Isa() {
  const char* const wanted = std::getenv("LOCI_ISA");
  const bool lowered = wanted != nullptr && std::string_view(wanted) == CpuIsaName(CpuIsa::kAvx512);
  if (lowered || DetectCpuIsa() != CpuIsa::kAvx512 || !__builtin_cpu_supports("avx512vnni")) return Int8Isa::kAvx2;
  return Int8Isa::kVnni;
}

const Int8Kernels& GetInt8Kernels(Int8Isa isa) { return isa == Int8Isa::kVnni ? kInt8KernelsVnni : kInt8KernelsAvx2; }

}  // namespace loci
