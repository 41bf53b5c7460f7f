// Inverted lists of 8-bit codes (FAISS's SQ8), scanned by products of integers.
//
// FAISS 1.7.3 turns each code back into float32 before it multiplies. Here the query is rounded instead. With w[d] = q[d] * range[d] / 255, what one step
// of code d is worth, and s[d] = round(w[d] / step) in [-63, 63], a code c scores
//
//   q . decode(c) = q . decode(127.5) + sum w[d] (c[d] - 127.5)  ~  q . decode(127.5) + step (sum s[d] c[d] - 127.5 sum s[d])
//
// which is off by at most step / 2 * sum |c[d] - 127.5|: about 1.5 % of what scores within a list differ by. Seven bits, so that two products fit 16 bits.
// Candidates are rescored from the vectors in any case.
#ifndef LOCI_INDEX_INTEGER_LISTS_H_
#define LOCI_INDEX_INTEGER_LISTS_H_

#include <faiss/Index.h>

#include <memory>

namespace loci {

// `index`, searched so where it has inverted lists of 8-bit codes and inner products; another as it is. Soon after the thread's FaissLimitsEnded
// (faiss_limits.h), whatever nprobe and the lists' sizes are, its search ends as FAISS's does: with a faiss::FaissException.
std::unique_ptr<faiss::Index> WithIntegerLists(std::unique_ptr<faiss::Index> index);

}  // namespace loci

#endif  // LOCI_INDEX_INTEGER_LISTS_H_
