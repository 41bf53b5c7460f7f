#include "index/certified_bound.h"

#include <cmath>
#include <limits>

namespace loci {
namespace {

float RoundedUp(double value) {
  const float rounded = static_cast<float>(value);
  return static_cast<double>(rounded) >= value ? rounded : std::nextafter(rounded, std::numeric_limits<float>::infinity());
}

}  // namespace

CertifiedBound CertifiedBoundOf(const float* query, int dim, const QuantizedVector& figures) {
  double squared_length = 0;
  for (int d = 0; d < dim; ++d) squared_length += static_cast<double>(query[d]) * query[d];
  const double length = std::sqrt(squared_length) * figures.inverse_scale * (1 + 1e-9);
  const double roundings = (dim / 16 + 8) * 0x1p-24;
  const double rounding = roundings / (1 - roundings);
  // Of what float32 does with the largest numbers of the comparison, which is made on both sides.
  const double largest = 127.0 * 127.0 * dim;
  return {.length_factor = RoundedUp(figures.error + rounding * length),
          .error_factor = RoundedUp(length * (1 + rounding)),
          .slack = RoundedUp(largest * 0x1p-18)};
}

}  // namespace loci
