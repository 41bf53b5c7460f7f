// Chooses, builds and checks the index of a generation that was asked for as "auto".
#ifndef LOCI_INDEX_INDEX_CHOOSER_H_
#define LOCI_INDEX_INDEX_CHOOSER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/file.h"
#include "base/matrix.h"
#include "index/index_specification.h"
#include "index/index_tuner.h"
#include "index/vector_file.h"
#include "proto/loci/v1/common.pb.h"

namespace loci {

struct ChosenIndex {
  std::string factory;  // "exact", and there is no file then; "exact:int8", of the file of codes; or that of the other file.
  loci::v1::IndexTuning tuning;
  std::vector<loci::v1::TuningPoint> ladder;  // Measured on all vectors; one is chosen. Empty for exact.
  double recall_at_10 = 1;                    // Of the chosen step, on queries that nothing was chosen by.
  int64_t recall_query_count = 0;             // Of these; 0 for exact ones.
};

struct ChooserOptions {
  AutoIndex wanted;
  TunerOptions tuner;  // Target, budget and limits are set here.
  std::string codes_path;  // Where 8-bit codes are written to (quantized_vectors.h).
  // Of the generation that is rebuilt: taken over, and nothing is measured on a sample, where the number of vectors is within half and twice
  // that for the same target and budget. Null: none.
  const loci::v1::IndexTuning* earlier = nullptr;
  // "tune" (of candidates), "index" (of vectors), "recall" (of queries).
  std::function<void(std::string_view phase, int64_t done, int64_t total)> progress;
};

// `queries` [n, dim] are no rows of `vectors`. Every second one is held back: by the others a tuner chooses an index (index_tuner.h), which is
// built over all vectors and searched more and more widely until both reach the target, those by the bound of their interval, these by their
// mean. Where none does, or more memory than the budget is held, the same is done with the index next best of the front, of at most two, and
// then there is no approximate one; those whose build would take more memory than there is are passed over. Where exact search is what is left, 8-bit
// codes of all vectors are kept if the front promises that they make it faster, and they do. The file is written to `path`, synced. Errors as
// TuneIndex; nothing but the file stays.
absl::StatusOr<ChosenIndex> BuildChosenIndex(std::shared_ptr<const VectorFile> vectors, MatrixView<const float> queries,
                                             const std::string& path, const ChooserOptions& options, const RequestLimits& limits);

}  // namespace loci

#endif  // LOCI_INDEX_INDEX_CHOOSER_H_
