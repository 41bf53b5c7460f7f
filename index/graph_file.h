// The graph alone of a file that FAISS 1.7.3 wrote for an index "HNSW<m>" or "HNSW<m>,SQ<n>": the vectors that lie behind it are not read.
//
//   LOCI_ASSIGN_OR_RETURN(faiss::HNSW graph, ReadGraph(file->data(), vectors.rows(), vectors.dim()));
//
// Format, little-endian (faiss/impl/index_write.cpp):
//   file   := magic i32(dim) i64(rows) i64 i64 u8(is_trained) i32(metric_type: 0 is the inner product) graph storage
//   magic  := "IHNf" | "IHNs"                                                           ; vectors in `storage` are float32 | codes
//   graph  := vector<f64>(assign_probas) vector<i32>(cum_nneighbor_per_level) vector<i32>(levels) vector<u64>(offsets) vector<i32>(neighbors)
//             i32(entry_point) i32(max_level) i32(efConstruction) i32(efSearch) i32(upper_beam)
//   vector := u64(size) element*
#ifndef LOCI_INDEX_GRAPH_FILE_H_
#define LOCI_INDEX_GRAPH_FILE_H_

#include <faiss/impl/HNSW.h>

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"

namespace loci {

// DATA_LOSS where `data` does not begin so, or is another index than one of so many rows of that dimension with inner products. Where the links lead
// is not looked at. Throws std::bad_alloc.
absl::StatusOr<faiss::HNSW> ReadGraph(std::string_view data, int64_t rows, int dim);

}  // namespace loci

#endif  // LOCI_INDEX_GRAPH_FILE_H_
