// A borrowed, row-major matrix.
#ifndef LOCI_BASE_MATRIX_H_
#define LOCI_BASE_MATRIX_H_

#include <cstdint>

namespace loci {

// [rows, cols], row i at data + i * cols. Borrowed: valid as long as what it points into. Immutable after construction.
template <typename T>
struct MatrixView {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;

  T* row(int64_t i) const { return data + i * cols; }
};

}  // namespace loci

#endif  // LOCI_BASE_MATRIX_H_
