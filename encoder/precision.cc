#include "encoder/precision.h"

#include "absl/strings/str_cat.h"
#include "base/strings.h"

namespace loci {
namespace {

constexpr Precision kAll[] = {Precision::kAuto, Precision::kFloat32, Precision::kBfloat16, Precision::kFloat16, Precision::kInt8};

}  // namespace

std::string_view PrecisionName(Precision precision) {
  switch (precision) {
    case Precision::kAuto:
      return "auto";
    case Precision::kFloat32:
      return "float32";
    case Precision::kBfloat16:
      return "bfloat16";
    case Precision::kFloat16:
      return "float16";
    case Precision::kInt8:
      return "int8";
  }
  return "";
}

absl::StatusOr<Precision> ParsePrecision(std::string_view name) {
  for (const Precision precision : kAll) {
    if (PrecisionName(precision) == name) return precision;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("precision is \"", AbslView(name.substr(0, 64)), "\"; it must be auto, float32, bfloat16, float16 or int8"));
}

absl::StatusOr<PrecisionChoice> ChoosePrecision(Precision request, CpuIsa isa, CpuExtensions extensions) {
  if (isa != CpuIsa::kAvx512) extensions = {};
  if (request == Precision::kAuto) {
    // Where a CPU has arithmetic in float16, it is twice that in float32. Its dot products in bfloat16 are then for the matrix unit:
    // as vectors, Sapphire Rapids runs them at half the speed of float32. CPUs with bfloat16 alone (Zen 4) run them at twice.
    if (extensions.float16) return PrecisionChoice{Precision::kFloat16, "auto takes float16: the CPU has AVX-512 fp16"};
    if (extensions.bfloat16) return PrecisionChoice{Precision::kBfloat16, "auto takes bfloat16: the CPU has AVX-512 bf16"};
    return PrecisionChoice{Precision::kFloat32, absl::StrCat("auto takes float32: the CPU, as ", AbslView(CpuIsaName(isa)),
                                                             ", has neither AVX-512 fp16 nor bf16")};
  }
  const std::string asked = absl::StrCat(AbslView(PrecisionName(request)), " was asked for");
  const bool met = request == Precision::kFloat32 || request == Precision::kInt8 ||
                   (request == Precision::kBfloat16 && extensions.bfloat16) ||
                   (request == Precision::kFloat16 && extensions.float16);
  if (met) return PrecisionChoice{request, asked};
  return absl::FailedPreconditionError(absl::StrCat(asked, ", but the CPU, as ", AbslView(CpuIsaName(isa)), ", has no AVX-512 ",
                                                    request == Precision::kBfloat16 ? "bf16" : "fp16",
                                                    "; float32 runs everywhere"));
}

}  // namespace loci
