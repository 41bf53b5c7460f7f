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
  const std::string cpu = absl::StrCat("the CPU, as ", AbslView(CpuIsaName(isa)), ",");
  // Not yet: the layers of both.
  if (request == Precision::kAuto) return PrecisionChoice{Precision::kFloat32, "auto takes float32"};
  const std::string asked = absl::StrCat(AbslView(PrecisionName(request)), " was asked for");
  if (request == Precision::kFloat32) return PrecisionChoice{request, asked};
  return absl::FailedPreconditionError(absl::StrCat(asked, ", but ", cpu, " has no encoder in it; float32 runs everywhere"));
}

}  // namespace loci
