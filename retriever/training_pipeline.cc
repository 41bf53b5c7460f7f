#include "retriever/training_pipeline.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/field_error.h"
#include "base/status_macros.h"
#include "encoder/text_encoder.h"
#include "index/softmax_scan.h"
#include "retriever/hit_fetcher.h"

namespace loci {
namespace {

// Of a reply, at most, beside what HitFetcher counts.
constexpr int64_t kReplyHeaderBytes = 512;  // Handle, generation, revision, fingerprint, staleness, timings.
constexpr int64_t kTokenUsageBytes = 32;
constexpr int64_t kResultFramingBytes = 16;

std::string FingerprintOf(const ServingSet& set) { return set.encoder == nullptr ? "" : set.encoder->spec().fingerprint.ToString(); }

TrainingSessionInfo InfoOf(const TrainingLease& lease) {
  const View& view = *lease.serving_set->view;
  return {lease.session_id, lease.lease_ms, view.generation().id(), view.revision(), FingerprintOf(*lease.serving_set), view.passage_count(),
          view.dim()};
}

absl::Status CheckElements(int64_t query_count, int64_t dim, const char* field) {
  if (query_count <= kMaxTrainingQueryElements / std::max<int64_t>(dim, 1)) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("have ", query_count, " rows of ", dim, " numbers; the limit is ", kMaxTrainingQueryElements, " numbers at once"));
}

// `query_count` queries of a Retrieve, as it is done now; `filtered`: null before the filter was evaluated. Scanning all passages for log Z, and for the
// mean vector too, takes about so many times what finding the head does; where it is otherwise, that is measured with the rest.
LargeWorkLine::Amount AmountOf(const TrainingRetrieveCall& call, int64_t query_count, const View& view, const FilteredRows* filtered) {
  constexpr int64_t kScan = 2, kMean = 2;
  const bool mean = call.options.estimator != Estimator::kTopK;
  const int64_t passes = 1 + (mean || call.options.measure_head_mass ? kScan : 0) + (mean ? kMean : 0);
  const bool on_device = view.generation().exact_index().device() != nullptr && call.options.estimator != Estimator::kExactZTail;
  const LargeWorkKind kind = std::holds_alternative<std::vector<double>>(call.queries) ? LargeWorkKind::kDoubleTraining
                             : call.filter != nullptr                                  ? LargeWorkKind::kFilteredTraining
                             : on_device                                               ? LargeWorkKind::kDeviceTraining
                                                                                       : LargeWorkKind::kTraining;
  const int64_t rows = filtered == nullptr ? view.generation().row_count() + view.overlay_row_count() : filtered->match_count;
  return {.kind = kind, .queries = query_count, .query_elements = std::max<int64_t>(rows * view.dim(), 1) * passes};
}

}  // namespace

// One Retrieve on its way through the phases. Used by one thread at a time: each phase hands it to the next.
struct TrainingPipeline::RetrieveState {
  TrainingRetrieveCall call;
  std::function<void(absl::StatusOr<TrainingRetrieveReply>)> done;
  TrainingSessions::Use use;
  TrainingRetrieveReply reply;
  int64_t start_us = 0;
  int64_t phase_start_us = 0;  // When what is waited for was queued.
  LargeWorkLine::Amount amount;
  LargeWorkLine::Place place;  // Until it is answered.
  // What was retrieved so far.
  bool begun = false;
  std::optional<FilteredRows> filtered;
  std::shared_ptr<TrainingRetrieval> retrieval = std::make_shared<TrainingRetrieval>();

  void Finish(absl::Status status) {
    place.Release();
    use.Release();  // Before the answer: who has it finds its lease renewed.
    if (!status.ok()) return done(std::move(status));
    done(std::move(reply));
  }
};

TrainingPipeline::TrainingPipeline(Options options)
    : options_(options),
      large_line_(options.large_line != nullptr ? options.large_line : std::make_shared<LargeWorkLine>(options.pool, options.clock)) {}

absl::StatusOr<TrainingSessionInfo> TrainingPipeline::Open(const std::string& store, const std::string& generation, int32_t lease_ms,
                                                           const RequestLimits& limits) {
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const ServingSet> set, options_.manager->Capture(store, generation));
  LOCI_RETURN_IF_ERROR(limits.Check(options_.clock->NowMicros()));
  absl::StatusOr<std::shared_ptr<const ServingSet>> with_encoder = options_.manager->WithEncoder(set);
  if (with_encoder.ok()) set = *with_encoder;
  // Both may take minutes, and a lease that nobody knows of lasts an hour.
  LOCI_RETURN_IF_ERROR(limits.Check(options_.clock->NowMicros()));
  LOCI_ASSIGN_OR_RETURN(const TrainingLease lease, options_.sessions->Open(std::move(set), lease_ms));
  return InfoOf(lease);
}

absl::StatusOr<TrainingSessionInfo> TrainingPipeline::Renew(const std::string& session_id, int32_t lease_ms) {
  LOCI_ASSIGN_OR_RETURN(const TrainingLease lease, options_.sessions->Renew(session_id, lease_ms));
  return InfoOf(lease);
}

absl::Status TrainingPipeline::Close(const std::string& session_id) { return options_.sessions->Close(session_id); }

absl::Status TrainingPipeline::CheckNotLeased(const std::string& store, const std::string& target) const {
  const absl::StatusOr<std::shared_ptr<const ServingSet>> active = options_.manager->TryCapture(store, "");
  if (!active.ok() || *active == nullptr) return absl::OkStatus();
  const std::string& generation = (*active)->view->generation().id();
  if (!target.empty()) {
    const absl::StatusOr<std::shared_ptr<const ServingSet>> open = options_.manager->TryCapture(store, target);
    if (open.ok() && *open != nullptr) return absl::OkStatus();
  }
  const int64_t count = options_.sessions->LeaseCount(store, generation);
  if (count == 0) return absl::OkStatus();
  return ErrorWithReason(absl::ResourceExhaustedError(absl::StrCat("generation ", generation, " is leased by ", count,
                                                                   " training sessions and could not be freed; close them, wait until their leases are "
                                                                   "over, or do not activate in place")),
                         "HELD", {{"generation", generation}, {"sessions", absl::StrCat(count)}});
}

void TrainingPipeline::Submit(std::function<void()> task, const std::function<void(absl::Status)>& refuse) {
  if (options_.pool->TrySubmit(std::move(task))) return;
  refuse(ErrorWithReason(absl::ResourceExhaustedError("the server's work queue is full"), "OVERLOADED"));
}

// --- Retrieve: the session, tokenize and encode, filter, retrieve, fetch ---

void TrainingPipeline::Retrieve(TrainingRetrieveCall call, std::function<void(absl::StatusOr<TrainingRetrieveReply>)> done) {
  absl::StatusOr<TrainingSessions::Use> use = options_.sessions->Begin(call.session_id);
  if (!use.ok()) return done(use.status());
  auto state = std::make_shared<RetrieveState>();
  state->call = std::move(call);
  state->done = std::move(done);
  state->use = *std::move(use);
  state->start_us = state->phase_start_us = options_.clock->NowMicros();
  state->call.options.pool = options_.pool;

  const TrainingRetrieveCall& taken = state->call;
  const View& view = *state->use.serving_set().view;
  const bool has_texts = std::holds_alternative<std::vector<std::string>>(taken.queries);
  absl::Status fits;
  if (!has_texts && taken.query_dim != view.dim()) {
    fits = InvalidField("query_vectors", absl::StrCat("have dimension ", taken.query_dim, "; the vectors of store \"", state->use.serving_set().store,
                                                  "\" have ", view.dim()));
  } else {
    fits = CheckElements(taken.query_count, view.dim(), has_texts ? "query_texts" : "query_vectors");
  }
  if (fits.ok() && !taken.excluded.empty() && static_cast<int64_t>(taken.excluded.size()) != taken.query_count) {
    fits = InvalidField("exclusions", absl::StrCat("has ", taken.excluded.size(), " lists for ", taken.query_count,
                                                   " queries; there must be one a query, or none"));
  }
  if (fits.ok() && taken.filter != nullptr) fits = view.CheckFilter();
  if (!fits.ok()) return state->Finish(std::move(fits));
  const int64_t deadline_us = taken.options.search.limits.deadline_us();
  state->amount = AmountOf(taken, taken.query_count, view, nullptr);
  absl::Status reached = taken.options.search.limits.Check(state->start_us);
  if (reached.ok()) reached = large_line_->Check(state->amount, deadline_us, 0);
  if (!reached.ok()) return state->Finish(std::move(reached));
  state->place = large_line_->Take(state->amount, deadline_us);
  if (!has_texts) return Queue(std::move(state));
  Submit([this, state] { Encode(state); }, [state](absl::Status status) { state->Finish(std::move(status)); });
}

void TrainingPipeline::Encode(std::shared_ptr<RetrieveState> state) {
  const int64_t now_us = options_.clock->NowMicros();
  const RequestLimits& limits = state->call.options.search.limits;
  state->reply.times.queue_us += now_us - state->phase_start_us;
  if (absl::Status live = limits.Check(now_us); !live.ok()) return state->Finish(std::move(live));
  const std::vector<std::string> texts = std::get<std::vector<std::string>>(std::move(state->call.queries));
  // Held here too, while Encode runs: the session may be gone before it returns.
  std::shared_ptr<const ServingSet> set = state->use.encoding_set();
  if (set->encoder == nullptr) {  // It may have been imported since, or could not be read at that moment.
    absl::StatusOr<std::shared_ptr<const ServingSet>> with_encoder = options_.manager->WithEncoder(std::move(set));
    if (!with_encoder.ok()) return state->Finish(with_encoder.status());
    set = *std::move(with_encoder);
    state->use.FoundEncoder(set);
  }
  set->encoder->Encode(texts, {.role = TextRole::kQuery, .limits = limits}, [this, state](absl::StatusOr<EncodedTexts> encoded) {
    if (!encoded.ok()) return state->Finish(encoded.status());
    PhaseTimes& times = state->reply.times;
    times.tokenize_us += encoded->tokenize_us;
    times.queue_us += encoded->queue_us;
    times.encode_us += encoded->encode_us;
    state->call.queries = std::move(encoded->vectors);
    state->reply.usage = std::move(encoded->usage);
    state->phase_start_us = options_.clock->NowMicros();
    Queue(state);  // The encoder's thread goes back to encoding.
  });
}

void TrainingPipeline::Queue(std::shared_ptr<RetrieveState> state) {
  large_line_->Add({.amount = state->amount,
                    .deadline_us = state->call.options.search.limits.deadline_us(),
                    .step = [this, state] { return RunPiece(state); },
                    .refuse = [state](absl::Status status) { state->Finish(std::move(status)); }});
}

bool TrainingPipeline::RunPiece(const std::shared_ptr<RetrieveState>& state) {
  TrainingRetrieveCall& call = state->call;
  TrainingRetrieveReply& reply = state->reply;
  const int64_t start_us = options_.clock->NowMicros();
  absl::Status status = call.options.search.limits.Check(start_us);
  reply.times.queue_us += start_us - state->phase_start_us;
  if (status.ok() && !std::exchange(state->begun, true)) status = Filter(*state);
  if (status.ok()) status = RetrievePiece(*state);
  const int64_t left = call.query_count - static_cast<int64_t>(state->retrieval->results.size());
  const int64_t end_us = options_.clock->NowMicros();
  if (status.ok() && left > 0) {
    state->place.Leaves(left);
    state->phase_start_us = end_us;
    return true;
  }
  const auto conclude = [this, state, status] {
    absl::Status concluded = status.ok() ? Conclude(*state) : status;
    state->reply.times.total_us = options_.clock->NowMicros() - state->start_us;
    state->Finish(std::move(concluded));
  };
  // The next large one need not wait for the passages of this one.
  if (!status.ok() || !options_.pool->TrySubmit(conclude)) conclude();
  return false;
}

absl::Status TrainingPipeline::Filter(RetrieveState& state) const {
  const TrainingRetrieveCall& call = state.call;
  if (call.filter == nullptr) return absl::OkStatus();
  const int64_t start_us = options_.clock->NowMicros();
  LOCI_ASSIGN_OR_RETURN(state.filtered, state.use.serving_set().view->Filter(*call.filter, call.options.search.limits));
  state.reply.times.filter_us = options_.clock->NowMicros() - start_us;
  return absl::OkStatus();
}

absl::Status TrainingPipeline::RetrievePiece(RetrieveState& state) const {
  const TrainingRetrieveCall& call = state.call;
  const View& view = *state.use.serving_set().view;
  std::vector<TrainingResult>& results = state.retrieval->results;
  const int64_t start_us = options_.clock->NowMicros();
  const int64_t first = static_cast<int64_t>(results.size());
  const FilteredRows* const filtered = state.filtered.has_value() ? &*state.filtered : nullptr;
  LargeWorkLine::Amount step = AmountOf(call, call.query_count - first, view, filtered);
  // Fewer are hardly faster: finding the head reads all vectors for one as for these.
  const int64_t least = step.kind == LargeWorkKind::kDoubleTraining ? 4 : 8;
  int64_t count = std::min(step.queries, std::clamp(large_line_->StepQueries(step), least, kPieceQueries));
  if (call.options.estimator == Estimator::kExactZTail) {
    const int64_t block_count = view.passage_count() / kMassBlockRows + 1;
    count = std::min(count, std::max<int64_t>(options_.max_block_masses / block_count, 1));
  }
  TrainingOptions options = call.options;
  options.first_query = first;
  std::span<const std::vector<std::string>> excluded = call.excluded;
  if (!excluded.empty()) excluded = excluded.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
  const auto retrieve = [&](const auto& queries) {
    using Element = typename std::decay_t<decltype(queries)>::value_type;
    const MatrixView<const Element> piece{queries.data() + first * view.dim(), count, view.dim()};
    return RetrieveForTraining(view, piece, options, filtered, excluded);
  };
  const auto* const doubles = std::get_if<std::vector<double>>(&call.queries);
  absl::StatusOr<std::vector<TrainingResult>> piece =
      doubles != nullptr ? retrieve(*doubles) : retrieve(std::get<std::vector<float>>(call.queries));
  const int64_t took_us = options_.clock->NowMicros() - start_us;
  state.reply.times.search_us += took_us;
  step.queries = count;
  if (absl::IsDeadlineExceeded(piece.status())) large_line_->MeasuredAtLeast(step, took_us);
  LOCI_RETURN_IF_ERROR(piece.status());
  large_line_->Measured(step, took_us);
  std::move(piece->begin(), piece->end(), std::back_inserter(results));
  return absl::OkStatus();
}

absl::Status TrainingPipeline::Conclude(RetrieveState& state) const {
  TrainingRetrieveCall& call = state.call;
  TrainingRetrieveReply& reply = state.reply;
  const View& view = *state.use.serving_set().view;
  const RequestLimits& limits = call.options.search.limits;
  const std::shared_ptr<TrainingRetrieval> retrieval = std::move(state.retrieval);
  retrieval->options = call.options;
  if (auto* const doubles = std::get_if<std::vector<double>>(&call.queries)) {
    retrieval->queries = std::move(*doubles);
  } else {
    const std::vector<float>& floats = std::get<std::vector<float>>(call.queries);
    retrieval->queries.assign(floats.begin(), floats.end());
  }
  const int64_t fetch_start_us = options_.clock->NowMicros();

  HitFetcher fetcher(view, {.include_text = call.include_text,
                            .include_vectors = call.include_vectors,
                            .max_reply_bytes = call.max_reply_bytes,
                            .limits = limits,
                            .clock = options_.clock});
  if (call.include_mean_vectors) {
    const size_t element_bytes = std::holds_alternative<std::vector<double>>(call.queries) ? sizeof(double) : sizeof(float);
    LOCI_RETURN_IF_ERROR(fetcher.Add(kVectorFramingBytes + call.query_count * view.dim() * static_cast<int64_t>(element_bytes)));
  }
  LOCI_RETURN_IF_ERROR(fetcher.Add(kReplyHeaderBytes + kTokenUsageBytes * static_cast<int64_t>(reply.usage.size())));
  const auto fetch = [&fetcher](std::vector<ViewHit>& hits, std::vector<SearchHit>* out) {
    out->reserve(hits.size());
    return fetcher.Fetch(hits, [out](ViewHit& hit, loci::v1::Passage&& passage, std::vector<float>&& vector) {
      out->push_back({std::exchange(hit.id, {}), hit.score, std::move(passage), std::move(vector)});
    });
  };
  reply.hits.resize(retrieval->results.size());
  reply.tail_hits.resize(retrieval->results.size());
  for (size_t q = 0; q < retrieval->results.size(); ++q) {
    TrainingResult& result = retrieval->results[q];
    LOCI_RETURN_IF_ERROR(fetcher.Add(kResultFramingBytes + static_cast<int64_t>(sizeof(double) * (result.log_probs.size() + 3))));
    LOCI_RETURN_IF_ERROR(fetch(result.hits, &reply.hits[q]));
    LOCI_RETURN_IF_ERROR(fetch(result.tail_hits, &reply.tail_hits[q]));
  }
  reply.times.fetch_us = options_.clock->NowMicros() - fetch_start_us;

  state.use.monitor().Retrieved(retrieval->results);
  reply.retrieval = retrieval;
  // After all that can refuse the reply: its handle may push an older one out.
  LOCI_ASSIGN_OR_RETURN(reply.handle, state.use.Keep(reply.retrieval));
  reply.dim = view.dim();
  reply.generation = view.generation().id();
  reply.revision = view.revision();
  reply.encoder_fingerprint = FingerprintOf(*state.use.encoding_set());
  reply.age_us = std::max<int64_t>(options_.clock->UnixMicros() - view.generation().manifest().created_unix_us(), 0);
  if (options_.drifts != nullptr) {
    reply.drift = options_.drifts->Find(state.use.serving_set().store, view.generation().manifest().passage_fingerprint());
  }
  return absl::OkStatus();
}

// --- Backward ---

void TrainingPipeline::Backward(TrainingBackwardCall call, std::function<void(absl::StatusOr<TrainingBackwardReply>)> done) {
  absl::StatusOr<TrainingSessions::Use> begun = options_.sessions->Begin(call.session_id);
  if (!begun.ok()) return done(begun.status());
  const auto use = std::make_shared<TrainingSessions::Use>(*std::move(begun));
  const int64_t start_us = options_.clock->NowMicros();
  auto shared_call = std::make_shared<const TrainingBackwardCall>(std::move(call));
  const auto finish = [use, done = std::move(done)](absl::StatusOr<TrainingBackwardReply> reply) {
    use->Release();
    done(std::move(reply));
  };
  Submit(
      [this, shared_call, use, start_us, finish] {
        const int64_t begin_us = options_.clock->NowMicros();
        if (absl::Status live = shared_call->limits.Check(begin_us); !live.ok()) return finish(std::move(live));
        absl::StatusOr<TrainingBackwardReply> reply = Differentiate(*shared_call, *use);
        if (reply.ok()) {
          const int64_t end_us = options_.clock->NowMicros();
          reply->times.queue_us = begin_us - start_us;
          reply->times.search_us = end_us - begin_us;
          reply->times.total_us = end_us - start_us;
        }
        finish(std::move(reply));
      },
      finish);
}

absl::StatusOr<TrainingBackwardReply> TrainingPipeline::Differentiate(const TrainingBackwardCall& call, const TrainingSessions::Use& use) const {
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<const TrainingRetrieval> retrieval, use.Find(call.handle));
  const View& view = *use.serving_set().view;
  TrainingBackwardReply reply;
  reply.query_count = static_cast<int64_t>(retrieval->results.size());
  reply.dim = view.dim();
  TrainingOptions options = retrieval->options;
  options.search.limits = call.limits;
  const int64_t vectors = reply.query_count * (call.include_passage_gradients ? 1 + int64_t{options.search.top_k} : 1);
  const int64_t vector_bytes = vectors * reply.dim * call.element_bytes;
  const int64_t marginal_bytes = call.log_likelihoods.empty() ? 0 : call.rows * static_cast<int64_t>(sizeof(double));
  const int64_t certificate_bytes = reply.query_count * static_cast<int64_t>(sizeof(double));
  if (vector_bytes + marginal_bytes + certificate_bytes > call.max_reply_bytes) {
    const char* const field = marginal_bytes > vector_bytes          ? "log_likelihoods"
                              : call.include_passage_gradients ? "include_passage_gradients"
                                                               : "vector_type";
    return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("the reply would have ", vectors, " vectors of ", reply.dim, " numbers of ",
                                                                   call.element_bytes, " bytes, and marginals of ", marginal_bytes,
                                                                   " bytes; its limit is ", call.max_reply_bytes, " bytes; ask for less at once")),
                           "REPLY_TOO_LARGE", {{"field", field}, {"limit_bytes", absl::StrCat(call.max_reply_bytes)}});
  }
  TrainingFeedback feedback;
  if (!call.log_likelihoods.empty()) feedback.log_likelihoods = {call.log_likelihoods.data(), call.rows, call.cols};
  if (!call.grad_log_probs.empty()) feedback.grad_log_probs = {call.grad_log_probs.data(), call.rows, call.cols};
  feedback.row_query = call.row_query;
  feedback.max_log_likelihood = call.max_log_likelihood;
  feedback.include_passage_gradients = call.include_passage_gradients;
  const MatrixView<const double> queries{retrieval->queries.data(), reply.query_count, reply.dim};
  LOCI_ASSIGN_OR_RETURN(reply.gradients, BackwardForTraining(view, queries, options, retrieval->results, feedback));
  use.monitor().Differentiated(reply.gradients);
  reply.generation = view.generation().id();
  reply.revision = view.revision();
  return reply;
}

}  // namespace loci
