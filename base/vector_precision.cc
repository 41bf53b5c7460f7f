#include "base/vector_precision.h"

namespace loci {
namespace {

constexpr VectorPrecision kAll[] = {VectorPrecision::kUnknown, VectorPrecision::kFloat32, VectorPrecision::kBfloat16,
                                    VectorPrecision::kFloat16, VectorPrecision::kInt8};

}  // namespace

std::string_view VectorPrecisionName(VectorPrecision precision) {
  switch (precision) {
    case VectorPrecision::kUnknown:
      return "unknown";
    case VectorPrecision::kFloat32:
      return "float32";
    case VectorPrecision::kBfloat16:
      return "bfloat16";
    case VectorPrecision::kFloat16:
      return "float16";
    case VectorPrecision::kInt8:
      return "int8";
  }
  return "unknown";
}

VectorPrecision ParseVectorPrecision(std::string_view name) {
  for (const VectorPrecision precision : kAll) {
    if (VectorPrecisionName(precision) == name) return precision;
  }
  return VectorPrecision::kUnknown;
}

VectorPrecision PrecisionSet::First() const {
  for (const VectorPrecision precision : kAll) {
    if (Contains(precision)) return precision;
  }
  return VectorPrecision::kUnknown;
}

std::vector<std::string> PrecisionSet::Names() const {
  std::vector<std::string> names;
  for (const VectorPrecision precision : kAll) {
    if (Contains(precision)) names.emplace_back(VectorPrecisionName(precision));
  }
  return names;
}

}  // namespace loci
