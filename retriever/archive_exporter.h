// The archive of a view, made as it is asked for.
//
//   ArchiveExporter exporter(serving_set->view, clock.UnixMicros());
//   while (true) {
//     LOCI_ASSIGN_OR_RETURN(const std::string bytes, exporter.Next(limits));
//     if (bytes.empty()) break;
//     ...
//   }
#ifndef LOCI_RETRIEVER_ARCHIVE_EXPORTER_H_
#define LOCI_RETRIEVER_ARCHIVE_EXPORTER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "index/archive.h"
#include "index/verified_vectors.h"
#include "index/view.h"

namespace loci {

// Holds the view, so that what is written, activated or deleted meanwhile is nothing to the archive. Memory: a block, and a number for each
// passage of the overlay. Used by one thread at a time. Blocks (files).
class ArchiveExporter {
 public:
  ArchiveExporter(std::shared_ptr<const View> view, int64_t now_unix_us);

  // The next bytes of the archive, about 1 MiB; empty at its end. DATA_LOSS where a passage of the view is damaged; what was given before is
  // not an archive then. CANCELLED or DEADLINE_EXCEEDED by `limits`.
  absl::StatusOr<std::string> Next(const RequestLimits& limits);

  const View& view() const { return *view_; }
  int64_t done_count() const { return done_count_; }  // Passages of the bytes given.

 private:
  enum class Part { kBegin, kBlocks, kEnded };

  // Reads on until a passage of the body is in body_, or there is none.
  absl::Status FillBody(const RequestLimits& limits);
  absl::StatusOr<std::string> NextBlock(const RequestLimits& limits);

  struct BodyPassage {
    int64_t row;
    loci::v1::Passage passage;
  };

  const std::shared_ptr<const View> view_;
  VerifiedVectors vectors_;
  ArchiveWriter writer_;
  Part part_ = Part::kBegin;
  std::deque<BodyPassage> body_;        // Read, not written.
  int64_t next_body_row_ = 0;           // To be read.
  std::vector<int64_t> overlay_;        // Rows that are there, in the order of their ids.
  size_t next_overlay_ = 0;
  int64_t done_count_ = 0;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_ARCHIVE_EXPORTER_H_
