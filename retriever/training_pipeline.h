// The life of a training job's request: its session, tokenize, encode, filter, retrieve, fetch; and back.
#ifndef LOCI_RETRIEVER_TRAINING_PIPELINE_H_
#define LOCI_RETRIEVER_TRAINING_PIPELINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/thread_pool.h"
#include "index/filter_expression.h"
#include "retriever/encoder_drift_table.h"
#include "retriever/generation_manager.h"
#include "retriever/large_work_line.h"
#include "retriever/pipeline.h"
#include "retriever/training_estimator.h"
#include "retriever/training_sessions.h"

namespace loci {

inline constexpr int64_t kMaxTrainingQueryElements = 4'194'304;  // Queries times dimension of one Retrieve.

struct TrainingRetrieveCall {
  std::string session_id;
  int64_t query_count = 0;
  int64_t query_dim = 0;  // Of vectors.
  std::variant<std::vector<float>, std::vector<double>, std::vector<std::string>> queries;  // [query_count, query_dim], finite; or texts.
  TrainingOptions options;  // All but the pool; limits in `search`.
  std::shared_ptr<const FilterExpression> filter;  // Null: every passage.
  std::vector<std::vector<std::string>> excluded;  // Empty, or one list a query.
  bool include_text = false;
  bool include_vectors = false;
  bool include_mean_vectors = false;  // They count in the reply's size.
  int64_t max_reply_bytes = 64 << 20;  // More is INVALID_ARGUMENT, reason REPLY_TOO_LARGE.
};
struct TrainingRetrieveReply {
  std::string handle;
  std::shared_ptr<const TrainingRetrieval> retrieval;  // Without the ids of hits.
  std::vector<std::vector<SearchHit>> hits;       // One list a query, beside retrieval->results[i].log_probs.
  std::vector<std::vector<SearchHit>> tail_hits;  // The draws.
  int dim = 0;
  std::string generation;
  int64_t revision = 0;
  std::string encoder_fingerprint;
  int64_t age_us = 0;  // Of the generation.
  EncoderDrift drift;  // Of its vectors, from the newest encoder that was published.
  std::vector<TokenUsage> usage;  // One a text.
  PhaseTimes times;
};

struct TrainingBackwardCall {
  std::string session_id;
  std::string handle;
  // [rows, cols]; one of the two is empty.
  std::vector<double> log_likelihoods;
  std::vector<double> grad_log_probs;
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<int32_t> row_query;
  std::optional<double> max_log_likelihood;
  bool include_passage_gradients = false;
  int64_t element_bytes = sizeof(float);  // Of the reply's gradients.
  int64_t max_reply_bytes = 64 << 20;
  RequestLimits limits;
};
struct TrainingBackwardReply {
  TrainingGradients gradients;
  int64_t query_count = 0;
  int dim = 0;
  std::string generation;
  int64_t revision = 0;
  PhaseTimes times;
};

struct TrainingSessionInfo {
  std::string session_id;
  int32_t lease_ms = 0;
  std::string generation;
  int64_t revision = 0;
  std::string encoder_fingerprint;  // Empty: none.
  int64_t passage_count = 0;
  int dim = 0;
};

// Retrieve and Backward return at once and may be called on a gRPC thread; `done` is called exactly once, on a pool's or a batcher's thread, or on
// the calling one where the request is refused. Every Retrieve is large work (retriever/large_work_line.h): it is done in pieces of up to kPieceQueries
// queries, fewer where they take long, between which searches have their turn, and refused where it can't make its deadline. Deadlines and
// cancellation are looked at before each phase, and in the long ones. Free of gRPC. Thread-safe.
class TrainingPipeline {
 public:
  struct Options {
    GenerationManager* manager = nullptr;  // Borrowed, like all below.
    TrainingSessions* sessions = nullptr;
    const EncoderDriftTable* drifts = nullptr;  // Null: none.
    ThreadPool* pool = nullptr;  // Tokenizes, retrieves, differentiates.
    std::shared_ptr<LargeWorkLine> large_line;  // Of `pool`; null: one of its own.
    // Of the blocks that tails are drawn from, at once for one request: a query has one for each 1,024 passages. Queries are taken in pieces that
    // need no more, one at least; what is found does not depend on it.
    int64_t max_block_masses = int64_t{1} << 24;
    Clock* clock = &RealClock();
  };
  static constexpr int64_t kPieceQueries = 64;
  explicit TrainingPipeline(Options options);

  // Errors as GenerationManager::Capture and TrainingSessions::Open. Blocks where an inactive generation has to be opened, or an encoder loaded. Where
  // `limits` are passed by then there is no session: nobody would have its id. CANCELLED, DEADLINE_EXCEEDED.
  absl::StatusOr<TrainingSessionInfo> Open(const std::string& store, const std::string& generation, int32_t lease_ms, const RequestLimits& limits);
  // RESOURCE_EXHAUSTED, reason HELD with `generation` and `sessions`, where sessions have leased what the store serves, so that it could not be freed for
  // `target`. OK where `target` serves or is open: nothing would be freed for it. Empty: some other generation.
  absl::Status CheckNotLeased(const std::string& store, const std::string& target) const;
  // As TrainingSessions'. Do not block.
  absl::StatusOr<TrainingSessionInfo> Renew(const std::string& session_id, int32_t lease_ms);
  absl::Status Close(const std::string& session_id);

  // SESSION_NOT_FOUND; INVALID_ARGUMENT for vectors of another dimension; FAILED_PRECONDITION for texts where no encoder serves the generation,
  // for a filter where it has no columns; errors of RetrieveForTraining, and RESOURCE_EXHAUSTED as TrainingSessions::Use::Keep.
  void Retrieve(TrainingRetrieveCall call, std::function<void(absl::StatusOr<TrainingRetrieveReply>)> done);
  // SESSION_NOT_FOUND, HANDLE_NOT_FOUND, errors of BackwardForTraining; REPLY_TOO_LARGE.
  void Backward(TrainingBackwardCall call, std::function<void(absl::StatusOr<TrainingBackwardReply>)> done);

 private:
  struct RetrieveState;
  void Submit(std::function<void()> task, const std::function<void(absl::Status)>& refuse);
  void Encode(std::shared_ptr<RetrieveState> state);
  void Queue(std::shared_ptr<RetrieveState> state);  // Its query vectors are there.
  // The next piece of it; ends it after the last. True: there is more.
  bool RunPiece(const std::shared_ptr<RetrieveState>& state);
  absl::Status Filter(RetrieveState& state) const;
  absl::Status RetrievePiece(RetrieveState& state) const;
  absl::Status Conclude(RetrieveState& state) const;
  absl::StatusOr<TrainingBackwardReply> Differentiate(const TrainingBackwardCall& call, const TrainingSessions::Use& use) const;

  const Options options_;
  const std::shared_ptr<LargeWorkLine> large_line_;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_TRAINING_PIPELINE_H_
