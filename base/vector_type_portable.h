// The conversions in integer arithmetic: what machines without F16C and the ends of rows use. Here for the test, which holds the
// instructions to it.
#ifndef LOCI_BASE_VECTOR_TYPE_PORTABLE_H_
#define LOCI_BASE_VECTOR_TYPE_PORTABLE_H_

#include <cstdint>

namespace loci::internal {

float Float16ToFloat32Portable(uint16_t half);
uint16_t Float32ToFloat16Portable(float value);

}  // namespace loci::internal

#endif  // LOCI_BASE_VECTOR_TYPE_PORTABLE_H_
