// How far a product of 8-bit codes is from the score that it stands for: what makes a search by codes exact.
//
// With q and z in steps of their codes (q' = q * inverse_scale, codes c_q; so z', c_z) and Cauchy-Schwarz,
//   |q'.z' - c_q.c_z| <= |q' - c_q| |c_z| + |q'| |z' - c_z|
// and exact_index.h's float32 sum differs from q.z by at most n 2^-24 / (1 - n 2^-24) |q| |z|, n = dim / 16 + 8, and the least normal number for each
// rounding.
#ifndef LOCI_INDEX_CERTIFIED_BOUND_H_
#define LOCI_INDEX_CERTIFIED_BOUND_H_

#include "index/quantized_vectors.h"

namespace loci {

// Of a query. In steps of its codes and of a row's, a row's score lies within
//   length * length_factor + error * error_factor + slack
// of the product, `length` and `error` being the row's; the slack is for comparisons in float32. Outside of steps ScoreUnderflow comes on top.
struct CertifiedBound {
  float length_factor = 0;
  float error_factor = 0;
  float slack = 0;
};

// `query` has `dim` finite elements, of which `figures` are.
CertifiedBound CertifiedBoundOf(const float* query, int dim, const QuantizedVector& figures);

// What roundings below the normal numbers may change a score by, whether they flush to zero or not.
inline double ScoreUnderflow(int dim) { return (dim + 32) * 0x1p-126; }

}  // namespace loci

#endif  // LOCI_INDEX_CERTIFIED_BOUND_H_
