// What an encoder computes in.
//
//   LOCI_ASSIGN_OR_RETURN(PrecisionChoice choice, ChoosePrecision(Precision::kAuto, DetectCpuIsa(), DetectCpuExtensions()));
#ifndef LOCI_ENCODER_PRECISION_H_
#define LOCI_ENCODER_PRECISION_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/device.h"

namespace loci {

// Vectors of float32, float16 and bfloat16 interchange.
enum class Precision {
  kAuto,      // The fastest of those that interchange and that the CPU has.
  kFloat32,   // Everywhere.
  kBfloat16,  // Weights and activations are rounded to bfloat16, sums are float32. Needs AVX512_BF16.
  kFloat16,   // The same in IEEE halves, which also hold short sums (kernels/half_layout.h). Needs AVX512_FP16.
  kInt8,      // Everywhere; fast with AVX512_VNNI. Near the others, not interchangeable: only where asked for.
};

// "auto", "float32", "bfloat16", "float16" or "int8".
std::string_view PrecisionName(Precision precision);
// INVALID_ARGUMENT for another word.
absl::StatusOr<Precision> ParsePrecision(std::string_view name);

struct PrecisionChoice {
  Precision precision = Precision::kFloat32;  // Never kAuto.
  std::string reason;                         // For logs and GetServerInfo.
};

// What `request` is on a CPU with `isa` and `extensions` (which count beside kAvx512 only). FAILED_PRECONDITION where an explicit one
// can't be met.
absl::StatusOr<PrecisionChoice> ChoosePrecision(Precision request, CpuIsa isa, CpuExtensions extensions);

}  // namespace loci

#endif  // LOCI_ENCODER_PRECISION_H_
