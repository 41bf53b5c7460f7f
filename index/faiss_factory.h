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
  int64_t links = 0;          // Of a row in the graph, above its lowest level; 0: no graph.
  Codec codec = Codec::kFlat;
  int64_t parts = 0;  // Of a product quantiser.
  int bits = 8;       // Of a product quantiser's parts, or of a scalar's elements.

  int64_t CodeBytes(int dim) const;  // Of a row's code.
  // That it is trained with, of `row_count`; 0: it needs no training.
  int64_t TrainingRowCount(int dim, int64_t row_count) const;
  // Of a row's place in the graph, in the mean: few rows are on more than one level. 0 where the index is none.
  int64_t LinkBytes() const;
};

// INVALID_ARGUMENT (its reason with `field` "index.factory") naming what is wrong: not a form above, or one that does not fit `dim` or `row_count`.
absl::StatusOr<FaissFactory> ParseFaissFactory(const std::string& factory, int dim, int64_t row_count);

}  // namespace loci

#endif  // LOCI_INDEX_FAISS_FACTORY_H_
