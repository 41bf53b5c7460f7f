// Vector files for tests, whose names are gone when a function returns.
#ifndef LOCI_INDEX_VECTOR_FILE_TESTING_H_
#define LOCI_INDEX_VECTOR_FILE_TESTING_H_

#include <memory>
#include <vector>

#include "base/vector_type.h"
#include "index/quantized_vectors.h"
#include "index/vector_file.h"

namespace loci {

// `rows` [n, dim], stored in `type`.
std::shared_ptr<const VectorFile> MakeVectorFile(const std::vector<float>& rows, int dim, ElementType type = ElementType::kFloat32);

struct VectorsWithCodes {
  std::shared_ptr<const VectorFile> vectors;
  std::shared_ptr<const QuantizedVectors> codes;  // Of `vectors`.
};

VectorsWithCodes MakeVectorsWithCodes(const std::vector<float>& rows, int dim, ElementType type = ElementType::kFloat32);

}  // namespace loci

#endif  // LOCI_INDEX_VECTOR_FILE_TESTING_H_
