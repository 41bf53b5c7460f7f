// What a store serves, encoded anew by another encoder, as a generation that takes its place.
//
//   LOCI_ASSIGN_OR_RETURN(ReembedResult result, Reembed(manager, {.store = "movies", .encoder = encoder}, control));
#ifndef LOCI_RETRIEVER_REEMBEDDER_H_
#define LOCI_RETRIEVER_REEMBEDDER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "encoder/text_encoder.h"
#include "retriever/generation_manager.h"

namespace loci {

struct ReembedOptions {
  std::string store;
  std::shared_ptr<TextEncoder> encoder;  // GenerationManager::ForStore's.
  std::string index;     // Specification; empty: the generation's.
  bool activate = true;  // Else the generation waits for an activation, with REPLAY.
  // Of the time in which passages wait to be encoded, how much is spent on them: (0, 1]. Whatever it is, texts that wait for other encoders go
  // first, for a while.
  double max_encoder_share = 1;
};

struct ReembedResult {
  std::string generation;
  std::string previous_generation;           // That was built from.
  std::string encoder_fingerprint;           // "QUERY:PASSAGE"
  std::string previous_encoder_fingerprint;  // Of previous_generation.
  int64_t base_revision = 0;  // The last write that the generation contains.
  int64_t revision = 0;       // Of the activation; without one, base_revision.
  int64_t passage_count = 0;  // Of the generation.
  int64_t encoded_count = 0;  // Of those, by the encoder,
  int64_t reused_count = 0;   // and taken over from a re-embedding that was interrupted.
  int64_t written_count = 0;  // Passages written meanwhile that were encoded for the switch.
  int64_t size_bytes = 0;     // Of the generation's files.
};

// Encodes `title + " " + text` of each passage as an ingest does, in bounded memory, and keeps what was encoded in the store's EncodingJournal: of
// one that was interrupted, or cancelled, nothing else stays, and nothing of it is encoded again; but a generation that was whole when the server
// was killed, before the switch, is READY at the next start. Then switches to it: see
// Store::SwitchToReembedded. What is written meanwhile is there throughout, and after.
//
// Phases "encoding", those of GenerationBuilder::Finish, and those of an activation, "loading" first: from then on, which is told before any lock is
// taken, no activation may run beside it that would not wait for it.
// FAILED_PRECONDITION: NO_ACTIVE_GENERATION; SAME_ENCODER where the store's vectors are of the encoder's passage half, and interchange with its
// own (base/vector_precision.h). INVALID_ARGUMENT for an index
// that can't be. ABORTED, GENERATION_CHANGED: another generation became active meanwhile, or writes were discarded; a generation that is whole by
// then stays, as where an activation is refused. Blocks.
absl::StatusOr<ReembedResult> Reembed(GenerationManager& manager, const ReembedOptions& options, const OperationControl& control = {});

// Whether Reembed would begin: its FAILED_PRECONDITIONs.
absl::Status CheckReembedding(GenerationManager& manager, const ReembedOptions& options);

// ABORTED, reason GENERATION_CHANGED, where another generation than that, which is being re-embedded, is active in the store. Does not block.
absl::Status CheckStillServes(GenerationManager& manager, const std::string& store, const std::string& generation);

// What it would take.
struct ReembedEstimate {
  std::string generation;  // That serves.
  std::string encoder_fingerprint, previous_encoder_fingerprint;
  int64_t revision = 0;
  int64_t passage_count = 0;
  int64_t token_count = 0;         // About: from a sample.
  double tokens_per_second = 0;    // Of the encoder, for a part of that sample, just now.
  int64_t duration_ms = 0;         // About, rounded up: of the encoding, at max_encoder_share.
  int64_t size_bytes = 0;          // About: of the generation's files.
  int64_t peak_disk_bytes = 0;     // The same, and what is there beside them until they are written.
  int64_t memory_bytes = 0;        // Of the encoder, and about of the generation besides mapped files.
};

// Reads and encodes a sample of the passages; changes nothing. Errors as Reembed. Blocks, for a second or so.
absl::StatusOr<ReembedEstimate> EstimateReembedding(GenerationManager& manager, const ReembedOptions& options, const RequestLimits& limits);

}  // namespace loci

#endif  // LOCI_RETRIEVER_REEMBEDDER_H_
