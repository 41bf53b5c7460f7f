// What encoders computed vectors in, as generations, writes and archives record it.
#ifndef LOCI_BASE_VECTOR_PRECISION_H_
#define LOCI_BASE_VECTOR_PRECISION_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace loci {

// kUnknown: it came along with its passage, or an older server made it. The first four interchange.
enum class VectorPrecision : uint8_t { kUnknown, kFloat32, kBfloat16, kFloat16, kInt8 };

// "unknown", "float32", "bfloat16", "float16" or "int8".
std::string_view VectorPrecisionName(VectorPrecision precision);
// kUnknown for any other word.
VectorPrecision ParseVectorPrecision(std::string_view name);
// Whether a vector in one may stand for one in the other: both are int8, or neither is.
inline bool Interchange(VectorPrecision a, VectorPrecision b) {
  return (a == VectorPrecision::kInt8) == (b == VectorPrecision::kInt8);
}

// Which of them some vectors have. A value type.
class PrecisionSet {
 public:
  PrecisionSet() = default;
  PrecisionSet(VectorPrecision precision) : bits_(Bit(precision)) {}  // NOLINT(google-explicit-constructor): a set of one.
  // Of their names.
  template <typename Names>
  static PrecisionSet Parse(const Names& names) {
    PrecisionSet set;
    for (const auto& name : names) set.Add(ParseVectorPrecision(name));
    return set;
  }

  void Add(PrecisionSet other) { bits_ |= other.bits_; }
  bool empty() const { return bits_ == 0; }
  bool Contains(VectorPrecision precision) const { return (bits_ & Bit(precision)) != 0; }
  // Whether every one of them interchanges with `precision`; also where there is none.
  bool AllInterchangeWith(VectorPrecision precision) const {
    const uint8_t int8 = Bit(VectorPrecision::kInt8);
    return precision == VectorPrecision::kInt8 ? (bits_ & ~int8) == 0 : (bits_ & int8) == 0;
  }
  VectorPrecision First() const;           // In the order of the type; kUnknown where there is none.
  std::vector<std::string> Names() const;  // In that order.
  friend bool operator==(PrecisionSet, PrecisionSet) = default;

 private:
  static uint8_t Bit(VectorPrecision precision) { return static_cast<uint8_t>(1u << static_cast<unsigned>(precision)); }
  uint8_t bits_ = 0;
};

}  // namespace loci

#endif  // LOCI_BASE_VECTOR_PRECISION_H_
