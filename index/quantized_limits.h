// What is rounded to 8 bits and how far it is scaled, for all that make such codes. No function here: int8_kernels_vnni.cc is compiled with its own flags.
#ifndef LOCI_INDEX_QUANTIZED_LIMITS_H_
#define LOCI_INDEX_QUANTIZED_LIMITS_H_

namespace loci {

// Of longer vectors nothing is known (quantized_vectors.h): kMaxSquaredLength (passage_index.h) and some more, for what was rounded after it was checked.
inline constexpr double kMaxQuantizedSquaredLength = 1.01e30;

// Products of such a scale with any score stay what they are.
inline constexpr float kMaxInverseScale = 0x1p100f;

}  // namespace loci

#endif  // LOCI_INDEX_QUANTIZED_LIMITS_H_
