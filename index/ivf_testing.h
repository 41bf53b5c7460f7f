// FAISS's inverted files of random rows, for tests of our own scans of them.
#ifndef LOCI_INDEX_IVF_TESTING_H_
#define LOCI_INDEX_IVF_TESTING_H_

#include <faiss/IndexIVF.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace loci {

// [count, dim] in [-0.4, 0.6): not centred.
std::vector<float> RandomRows(int64_t count, int dim, unsigned seed);

// For inner products, trained on `rows` [n, dim], which are added. `factory` begins with IVF. `by_residual` matters to scalar quantisers alone.
std::unique_ptr<faiss::Index> BuildIvf(const std::string& factory, const std::vector<float>& rows, int dim, bool by_residual = true);

// Expects that an index made by `wrap` of one of `factory` finds the rows that a selector names, and no others.
void ExpectSelectedRowsOnly(const std::string& factory,
                            const std::function<std::unique_ptr<faiss::Index>(std::unique_ptr<faiss::Index>)>& wrap);

}  // namespace loci

#endif  // LOCI_INDEX_IVF_TESTING_H_
