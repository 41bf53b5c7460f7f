// Inverted lists of float32 vectors (FAISS's IVF,Flat), scanned by the kernels of the exact index, which ask for rows ahead. A score is ExactScore's.
#ifndef LOCI_INDEX_FLAT_LISTS_H_
#define LOCI_INDEX_FLAT_LISTS_H_

#include <faiss/Index.h>

#include <memory>

#include "base/device.h"

namespace loci {

// `index`, searched so where it has inverted lists of float32 vectors and inner products; another as it is. Soon after the thread's FaissLimitsEnded
// (faiss_limits.h) a search ends with what it has found.
std::unique_ptr<faiss::Index> WithFlatLists(std::unique_ptr<faiss::Index> index, CpuIsa isa = DetectCpuIsa());

}  // namespace loci

#endif  // LOCI_INDEX_FLAT_LISTS_H_
