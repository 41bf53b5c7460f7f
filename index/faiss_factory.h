// The factory strings of FAISS that Loci builds and serves.
#ifndef LOCI_INDEX_FAISS_FACTORY_H_
#define LOCI_INDEX_FAISS_FACTORY_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace loci {

// What a factory string asks for:
//
//   factory := codec | "IVF" lists [ "_HNSW" links ] "," codec | "HNSW" links [ "," ( "Flat" | scalar ) ]
//   codec   := "Flat" | scalar | "PQ" parts [ "x" bits ]        ; parts divides the dimension, bits in [4, 8], default 8
//   scalar  := "SQ4" | "SQ6" | "SQ8" | "SQfp16"
struct FaissFactory {
  enum class Codec { kFlat, kScalar, kProduct };
  int64_t list_count = 0;     // 0: no inverted lists.
  bool hnsw = false;          // The index itself is a graph.
  bool hnsw_coarse = false;   // The lists are found by one.
  Codec codec = Codec::kFlat;
  int bits = 8;               // Of a product quantiser's parts.
};

// INVALID_ARGUMENT (its reason with `field` "index.factory") naming what is wrong: not a form above, or one that does not fit `dim` or `row_count`.
absl::StatusOr<FaissFactory> ParseFaissFactory(const std::string& factory, int dim, int64_t row_count);

}  // namespace loci

#endif  // LOCI_INDEX_FAISS_FACTORY_H_
