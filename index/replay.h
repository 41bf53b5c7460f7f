// Lays logged writes over a generation.
#ifndef LOCI_INDEX_REPLAY_H_
#define LOCI_INDEX_REPLAY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "index/generation.h"
#include "index/overlay.h"
#include "index/row_mask.h"
#include "index/write_log.h"

namespace loci {

// What a view needs beside its generation. ReplayWrites hides no rows of the overlay: of several writes to an id only the last is laid.
struct ReplayedWrites {
  std::shared_ptr<Overlay> overlay;
  RowMask hidden_body;
  RowMask hidden_overlay;
};

// FAILED_PRECONDITION, reason WRITES_NEED_ENCODING with `count`, `generation` and `passage_fingerprint`; `rest` ends the message.
absl::Status WritesNeedEncoding(int64_t count, const storage::Manifest& manifest, std::string_view rest);

// Reads the writes of revisions in (after, upto] and lays the last one to each id over `generation`. FAILED_PRECONDITION, reason
// WRITES_NEED_ENCODING with `count` and `passage_fingerprint`, where one of them has no vector of the generation's passage half; DATA_LOSS
// from the log.
absl::StatusOr<ReplayedWrites> ReplayWrites(const WriteLog& log, int64_t after, int64_t upto, const Generation& generation);

// Where the upserts of revisions in (after, upto] lie that have no vector of the generation's passage half, in the log's order: those that
// ReplayWrites would lay, or, with `all`, each of them. Errors as ReplayWrites, but for WRITES_NEED_ENCODING.
absl::StatusOr<std::vector<WritePlace>> FindUnencoded(const WriteLog& log, int64_t after, int64_t upto, const Generation& generation, bool all);

// Lays the writes of revisions in (after, upto] over `generation` and the `writes` of revisions up to `after`, one after the other. `writes`
// is not to be used after an error. Errors as ReplayWrites. Of the overlay this is the writer.
absl::Status ReplayFurther(const WriteLog& log, int64_t after, int64_t upto, const Generation& generation, ReplayedWrites* writes);

// What ReplayWrites would lay over a generation of `dim` and `passage_half`, without one at hand.
struct PlannedReplay {
  int64_t write_count = 0;          // Requests.
  int64_t change_count = 0;         // Distinct ids.
  int64_t need_encoding_count = 0;  // Of these, that must get a vector of the passage half first.
  int64_t memory_bytes = 0;         // Of the overlay.
  std::vector<std::string> ids;     // Some of them, spread over all.
};
absl::StatusOr<PlannedReplay> PlanReplay(const WriteLog& log, int64_t after, int64_t upto, int dim, std::string_view passage_half);

}  // namespace loci

#endif  // LOCI_INDEX_REPLAY_H_
