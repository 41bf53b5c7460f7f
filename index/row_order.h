// The order of hits: every search gives them best first in this order, whatever index finds them.
#ifndef LOCI_INDEX_ROW_ORDER_H_
#define LOCI_INDEX_ROW_ORDER_H_

#include "index/passage_index.h"

namespace loci {

// Whether `a` comes before `b`: the larger score first, of equal ones the smaller row. An order where no score is NaN.
inline bool IsBetter(const RowHit& a, const RowHit& b) { return a.score != b.score ? a.score > b.score : a.row < b.row; }

}  // namespace loci

#endif  // LOCI_INDEX_ROW_ORDER_H_
