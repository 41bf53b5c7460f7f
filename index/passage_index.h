// Top-k inner-product search over the rows of a generation.
#ifndef LOCI_INDEX_PASSAGE_INDEX_H_
#define LOCI_INDEX_PASSAGE_INDEX_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "base/cancellation.h"
#include "base/matrix.h"
#include "index/row_mask.h"

namespace loci {

inline constexpr int kMaxTopK = 10'000;
inline constexpr int kMaxRescoreFactor = 1'000;
inline constexpr int64_t kMaxCandidates = 100'000;  // That one query may ask to be rescored.

// A row and its score. Missing hits have row -1 and score -infinity, and come last.
struct RowHit {
  int64_t row = -1;
  float score = 0;
};

// The greatest length of a vector, squared: products of two such vectors, and what k-means makes of many, stay finite in float32.
inline constexpr double kMaxSquaredLength = 1e30;

// OK for a vector [dim] of finite numbers within kMaxSquaredLength, else INVALID_ARGUMENT naming the position or the length.
absl::Status CheckVector(const float* vector, int dim);

// Unset (0, false) means the index's own default.
struct IndexSearchOptions {
  int top_k = 0;  // [1, kMaxTopK].
  bool exact = false;
  int nprobe = 0;     // INVALID_ARGUMENT, naming the index, on one without inverted lists or beyond its list count.
  int ef_search = 0;  // INVALID_ARGUMENT on one that is not HNSW; [1, 100000].
  // Candidates that are rescored exactly, as a multiple of top_k. INVALID_ARGUMENT on the exact index; [1, kMaxRescoreFactor], and times top_k
  // at most kMaxCandidates.
  int rescore_factor = 0;
  // (0, 1]: search with the cheapest parameters that were measured to reach this recall, exactly where none did; INVALID_ARGUMENT together
  // with parameters of the three kinds above.
  double recall_target = 0;
  RequestLimits limits;  // Looked at between blocks of a long scan.
};

// Search may be served by another machine one day: nothing here assumes that the rows are in this process.
// Thread-safe. Not mutated after load.
class PassageIndex {
 public:
  virtual ~PassageIndex() = default;

  virtual int64_t row_count() const = 0;
  virtual int dim() const = 0;
  virtual std::string name() const = 0;  // "exact" or the FAISS factory string.
  virtual int64_t memory_bytes() const = 0;  // Held beside mapped files.

  // Whether Search with these finds exactly the top_k by (score, row), because it scores every row.
  virtual bool IsExact(const IndexSearchOptions& options, const RowMask& hidden) const = 0;

  // Finds the rows with the largest inner product among those that `hidden` does not hide.
  // `queries` is [query_count, dim()], row-major, float32, finite. Fills `hits` [query_count, top_k], best first, ties by row.
  // Fewer than top_k hits only where fewer rows are left, also for an approximate index. Scores are the fp32 dot products with the
  // stored rows in ExactIndex's order of summation, whatever the index.
  // INVALID_ARGUMENT if shapes or options do not fit; DATA_LOSS as MappedFile::Check where vectors could not be read. Blocks; call from a search thread, never from a gRPC thread.
  virtual absl::Status Search(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden,
                              RowHit* hits) const = 0;
};

// What Search checks first, whatever the index: shapes, options, finite values. `list_count` is 0 for an index without inverted
// lists; one that `rescores` is approximate. INVALID_ARGUMENT names the value, the limit and the index; for an option its reason
// INVALID_ARGUMENT has `field` ("options.nprobe").
struct SearchAbilities {
  int64_t list_count = 0;
  bool is_hnsw = false;
  bool rescores = false;
};
absl::Status CheckSearchArguments(const PassageIndex& index, MatrixView<const float> queries, const IndexSearchOptions& options,
                                  const SearchAbilities& abilities);

}  // namespace loci

#endif  // LOCI_INDEX_PASSAGE_INDEX_H_
