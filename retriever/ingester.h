// A stream of passages into a store: a new generation, or upserts.
//
//   LOCI_ASSIGN_OR_RETURN(auto ingester, Ingester::Start(manager, options));
//   while (...) LOCI_RETURN_IF_ERROR(ingester->Add(std::move(passages), {}));    // blocks while too much is on its way
//   LOCI_ASSIGN_OR_RETURN(IngestResult result, ingester->Finish());
#ifndef LOCI_RETRIEVER_INGESTER_H_
#define LOCI_RETRIEVER_INGESTER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "retriever/generation_manager.h"

namespace loci {

enum class IngestMode { kNewGeneration, kUpsert };

// What becomes of a passage that can't be taken as it is.
enum class LinePolicy { kDefault, kSkip, kFail };

// As loci.v1.Chunking.
struct ChunkingOptions {
  int max_tokens = 0;  // 0: the encoder's length.
  int overlap_tokens = 0;
};

struct IngestOptions {
  std::string store;  // Created if absent.
  IngestMode mode = IngestMode::kNewGeneration;
  std::string index = "exact";
  ElementType element_type = ElementType::kFloat32;
  bool activate = true;
  WritesPolicy writes_since = WritesPolicy::kRefuse;
  // "QUERY:PASSAGE", a passage half, or empty: the default encoder's (for kUpsert: that of the active generation). Vectors that come
  // along must be of its passage half; it must be known to the registry, else nothing could ask the store.
  std::string encoder_fingerprint;
  // kFail: the first passage that is invalid ends the ingest with INVALID_ARGUMENT, reason BAD_LINE, with `line` and `id`. Default: kSkip.
  LinePolicy bad_lines = LinePolicy::kDefault;
  // Of passages whose id came before in the stream. Default: the last one stays. kSkip: the first one, and the others are left out. kFail:
  // as with bad lines, reason DUPLICATE_ID. Where ids must be remembered for it, they take about 40 bytes each.
  LinePolicy duplicates = LinePolicy::kDefault;
  // Set: documents or their sections come, and are cut into passages: see loci.v1.IngestHeader.chunking. For upserts, passages of a
  // document that the store has more of than come now are deleted.
  std::optional<ChunkingOptions> chunking;
  // Encode also the texts that the active view has a vector for, of the same passage half, or that an ingest encoded which did not come to
  // its end.
  bool reencode = false;
  // Set: every passage brings its vector, from outside (an archive), and of this space. Where no encoder serves it and encoder_fingerprint is
  // empty, the generation can be built but not activated. That nothing comes is no error then: it was said so. What an interrupted ingest
  // encoded stays.
  struct VectorSpace {
    int dim = 0;
    std::string query_fingerprint;
    std::string passage_fingerprint;
    PrecisionSet precisions = VectorPrecision::kUnknown;  // That the vectors were computed in.
  };
  std::optional<VectorSpace> imported;
  int64_t expected_passages =
      0;  // Of a new generation, where it is known: RESOURCE_EXHAUSTED, reason DISK or MEMORY, where they have no room. 0: it is not.
  RequestLimits limits;  // Cancelled: the ingest ends, and nothing of a new generation stays.
  // How far it is: "receiving" (passages that are encoded and written; for upserts, that were acknowledged), "write", "index" (passages),
  // "recall" (queries), "checksum" (files), "activating" (0 of 0).
  // `total` 0: not known. Called on the thread that calls this object or, for "receiving", on another, but never on two at once.
  std::function<void(std::string_view phase, int64_t done, int64_t total)> progress;
};

struct IngestLineError {
  int64_t line = 0;  // 1-based position in the stream.
  std::string id;
  std::string message;
};

struct IngestResult {
  std::string generation;
  int64_t revision = 0;
  int64_t accepted_count = 0;  // Passages of the stream that were taken. Those that LinePolicy::kSkip leaves out are not.
  int64_t rejected_count = 0;
  int64_t duplicate_count = 0;  // Passages whose id came before.
  int64_t reused_count = 0;     // Passages that were not encoded, since the vector of the same text was there.
  int64_t passage_count = 0;    // Passages of the new generation; for upserts: that were written.
  std::vector<IngestLineError> errors;  // The first 100.
};

// Without Finish, or where it fails, a new generation is thrown away (upserts that were acknowledged stay), but for what was encoded: the
// next ingest of the store takes it over. Used by one thread at a time.
class Ingester {
 public:
  static constexpr int kMaxErrors = 100;

  static absl::StatusOr<std::unique_ptr<Ingester>> Start(GenerationManager& manager, IngestOptions options);
  ~Ingester();

  // Takes a batch. `vectors` is empty (the texts are encoded), or [passages.size(), dim] float32. A passage that is invalid, or whose
  // vector is not finite, is counted as rejected; the others go on. INVALID_ARGUMENT where the shape of `vectors` does not fit,
  // or a line policy says so: upserts of what came before stay then.
  // After an error the ingest can only be dropped.
  absl::Status Add(std::vector<loci::v1::Passage> passages, const std::vector<float>& vectors, int64_t vector_dim);

  // Waits for what is on its way; nothing can be added after it. What it answers is known so far: upserts are written, a new generation is
  // not. Errors as Finish, which need not be called where this fails.
  absl::StatusOr<IngestResult> FinishReceiving();

  // Waits for what is on its way (unless FinishReceiving did), builds, activates. INVALID_ARGUMENT, reason EMPTY_INGEST, where no passage came. Where all that came were
  // rejected the store stays as it is, and the result says so by an empty `generation`.
  absl::StatusOr<IngestResult> Finish();

 private:
  struct State;
  explicit Ingester(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_INGESTER_H_
