// Which index would serve a store best: measures them on what it serves, and changes nothing.
#ifndef LOCI_RETRIEVER_STORE_TUNER_H_
#define LOCI_RETRIEVER_STORE_TUNER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "index/index_tuner.h"
#include "proto/loci/v1/common.pb.h"
#include "retriever/generation_manager.h"

namespace loci {

struct TuneOptions {
  double recall_target = 0;
  int64_t memory_budget_bytes = 0;   // 0: any.
  std::vector<std::string> queries;  // Texts; none: they are made of sampled passages, or of vectors where no encoder serves the store.
  int64_t sample_rows = kTuningSampleRows;
  int64_t exact_rows = kAutoExactRows;  // Fewer for tests.
};

struct TuneResult {
  std::string generation;  // Whose vectors were measured.
  int64_t revision = 0;
  loci::v1::IndexTuning tuning;
};

// Of the active generation, writes made since left out. Phases "encode" (of queries) and "tune" (of candidates). FAILED_PRECONDITION: reason
// NO_ACTIVE_GENERATION; EMPTY_STORE where the generation has no passages; ENCODER_MISMATCH where texts come and no encoder serves it. Else
// errors as TuneIndex. What it writes meanwhile lies in the store's folder, and a start sweeps it away if this process does not. Blocks for long.
absl::StatusOr<TuneResult> TuneStore(GenerationManager& manager, std::string_view store, const TuneOptions& options, const OperationControl& control);

}  // namespace loci

#endif  // LOCI_RETRIEVER_STORE_TUNER_H_
