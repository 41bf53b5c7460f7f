#include "retriever/pipeline.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/field_error.h"
#include "base/status_macros.h"
#include "encoder/batcher.h"
#include "encoder/encode_backlog.h"
#include "encoder/text_encoder.h"
#include "index/passage_index.h"
#include "retriever/hit_fetcher.h"

namespace loci {
namespace {

// Texts of so many bytes together are tokenized within some 50 us: less than it takes to hand them to another thread and wait for it.
constexpr int64_t kQuickBytes = 1024;
constexpr size_t kQuickQueries = 16;

// Queries that are searched together at most. More are hardly cheaper, and none of them is answered, or given up, before all are searched.
constexpr int64_t kMaxQueriesTogether = 64;
// Of a large search at once, where that many are over in LargeWorkLine::kStepUs. Where vectors have no 8-bit codes on disk, they are coded once for all of
// these: 256 take about twice the time of 64.
constexpr int64_t kPieceQueries = 256;
// So many at least of one that is searched query by query.
constexpr int64_t kFewQueries = 8;

absl::Status BadQuery(size_t index, std::string_view field, const std::string& problem) {
  return InvalidField(absl::StrCat("queries[", index, "].", absl::string_view(field.data(), field.size())), problem);
}

// That a pass over all vectors goes through.
int64_t ElementCount(const View& view) { return (view.generation().row_count() + view.overlay_row_count()) * view.dim(); }

// `query_count` queries of a large search, as it is searched now. `filtered`: null before the filter was evaluated.
LargeWorkLine::Amount LargeAmount(const SearchCall& call, int64_t query_count, const View& view, const FilteredRows* filtered) {
  const Generation& generation = view.generation();
  const LargeWorkKind kind = call.filter != nullptr                                   ? LargeWorkKind::kFilteredSearch
                             : !generation.index().IsExact(call.options, RowMask())   ? LargeWorkKind::kApproximateSearch
                             : generation.exact_index().device() != nullptr           ? LargeWorkKind::kDeviceSearch
                                                                                      : LargeWorkKind::kExactSearch;
  const int64_t elements = filtered == nullptr ? ElementCount(view) : filtered->match_count * view.dim();
  return {.kind = kind, .queries = query_count, .query_elements = std::max<int64_t>(elements, 1)};
}
LargeWorkLine::Amount LargeAmount(const SearchCall& call, const View& view) {
  return LargeAmount(call, static_cast<int64_t>(call.queries.size()), view, nullptr);
}
bool IsLarge(const SearchCall& call) { return static_cast<int64_t>(call.queries.size()) > kMaxQueriesTogether; }

// INVALID_ARGUMENT as PassageIndex::Search, for vectors [queries, dim].
absl::Status CheckQueryVectors(const std::vector<float>& vectors, int dim) {
  for (size_t q = 0; (q + 1) * static_cast<size_t>(dim) <= vectors.size(); ++q) {
    if (absl::Status valid = CheckVector(vectors.data() + q * static_cast<size_t>(dim), dim); !valid.ok()) {
      return FieldError(absl::StrCat("queries[", q, "].vector"), absl::StrCat("queries[", q, "].", valid.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace

// One search on its way through the phases. Used by one thread at a time: each phase hands it to the next.
struct Pipeline::SearchState {
  SearchCall call;
  std::function<void(absl::Status)> finish;  // Called once, with `reply` filled where OK.
  SearchReply reply;
  std::vector<float> query_vectors;  // [queries, dim]
  int64_t start_us = 0;
  int64_t phase_start_us = 0;  // When what is waited for was queued.
  bool encoded = false;
  // Its place among what waits, each given up when its phase begins.
  EncodeBacklog::Share tokens;
  WorkForecast::Waiting text;
  WorkForecast::Waiting search;
  LargeWorkLine::Amount amount;  // Of a large one.
  LargeWorkLine::Place large;    // Until it is answered.
  // What was searched so far.
  std::optional<FilteredRows> filtered;
  ViewSearchResult found;
  SearchTimes spent;

  // Before it is answered: whoever waited for that may take down the pipeline and the encoder, which must not be left to a thread of the encoder's own.
  void LetGo(const absl::Status& status) {
    tokens.Release();
    text.End();
    search.End();
    large.Release();
    if (!status.ok()) reply = SearchReply();
  }
};

Pipeline::Pipeline(Options options)
    : options_(std::move(options)),
      work_(*options_.metrics),
      forecast_(options_.pool->thread_count()),
      large_line_(options_.large_line != nullptr ? options_.large_line : std::make_shared<LargeWorkLine>(options_.pool, options_.clock)) {
  for (const std::shared_ptr<const Reader>& reader : options_.readers) readers_[reader->name()] = reader;
}

std::vector<std::string> Pipeline::reader_names() const {
  std::vector<std::string> names;
  for (const auto& [name, reader] : readers_) names.push_back(name);
  return names;
}

void Pipeline::Submit(ThreadPool* pool, std::function<void()> task, const std::function<void(absl::Status)>& refuse) {
  if (pool->TrySubmit(std::move(task))) return;
  refuse(ErrorWithReason(absl::ResourceExhaustedError("the server's work queue is full"), "OVERLOADED"));
}

std::shared_ptr<TextEncoder> Pipeline::KnownDefaultEncoder() {
  MutexLock lock(&default_mutex_);
  return default_encoder_.lock();
}

// --- Encode ---

void Pipeline::Encode(EncodeCall call, std::function<void(absl::StatusOr<EncodeReply>)> done) {
  const int64_t start_us = options_.clock->NowMicros();
  auto shared_call = std::make_shared<EncodeCall>(std::move(call));
  auto share = std::make_shared<EncodeBacklog::Share>();
  if (absl::Status live = shared_call->options.limits.Check(start_us); !live.ok()) {
    work_.Avoided(WorkPhase::kTokenize);
    return done(std::move(live));
  }
  if (const std::shared_ptr<TextEncoder> encoder = shared_call->encoder.empty() ? KnownDefaultEncoder() : nullptr; encoder != nullptr) {
    int64_t bytes = 0;
    for (const std::string& text : shared_call->texts) bytes += static_cast<int64_t>(text.size());
    // Of the default encoder alone: finding another may have to load it.
    absl::StatusOr<EncodeBacklog::Share> reserved =
        encoder->Reserve(static_cast<int64_t>(shared_call->texts.size()), bytes, shared_call->options, forecast_.DelayMicros());
    if (!reserved.ok()) return done(reserved.status());
    *share = *std::move(reserved);
  }
  Submit(
      options_.pool,
      [this, shared_call, share, start_us, done] {
        const int64_t dequeued_us = options_.clock->NowMicros();
        if (absl::Status live = shared_call->options.limits.Check(dequeued_us); !live.ok()) {
          work_.Avoided(WorkPhase::kTokenize);
          return done(live);
        }
        // Held here too, while Encode runs: the callback may be gone before it returns.
        const absl::StatusOr<std::shared_ptr<TextEncoder>> encoder = options_.manager->encoders().Get(shared_call->encoder);
        if (!encoder.ok()) return done(encoder.status());
        if (shared_call->encoder.empty()) {
          MutexLock lock(&default_mutex_);
          default_encoder_ = *encoder;
        }
        TextEncoder& text_encoder = **encoder;
        text_encoder.Encode(shared_call->texts, shared_call->options,
                            [this, held = *encoder, start_us, dequeued_us, done](absl::StatusOr<EncodedTexts> encoded) mutable {
                              const EncoderSpec spec = std::exchange(held, nullptr)->spec();  // As SearchState::LetGo.
                              if (!encoded.ok()) return done(encoded.status());
                              EncodeReply reply{.vectors = std::move(encoded->vectors),
                                                .dim = spec.dim,
                                                .usage = std::move(encoded->usage),
                                                .encoder_fingerprint = spec.fingerprint.ToString()};
                              reply.times.queue_us = dequeued_us - start_us + encoded->queue_us;
                              reply.times.tokenize_us = encoded->tokenize_us;
                              reply.times.encode_us = encoded->encode_us;
                              reply.times.total_us = options_.clock->NowMicros() - start_us;
                              done(std::move(reply));
                            });
        share->Release();
      },
      done);
}

// --- Search: capture a view, tokenize and encode, filter, search, fetch ---

void Pipeline::Search(SearchCall call, std::function<void(absl::StatusOr<SearchReply>)> done) {
  auto state = std::make_shared<SearchState>();
  state->call = std::move(call);
  state->finish = [state = state.get(), done = std::move(done)](absl::Status status) {
    state->LetGo(status);
    if (!status.ok()) return done(std::move(status));
    done(std::move(state->reply));
  };
  StartSearch(std::move(state));
}

void Pipeline::StartSearch(std::shared_ptr<SearchState> state) {
  state->start_us = state->phase_start_us = options_.clock->NowMicros();
  const auto refuse = [state](absl::Status status) { state->finish(std::move(status)); };
  // The view is the one that serves now, not the one that serves when a thread is free.
  absl::StatusOr<std::shared_ptr<const ServingSet>> captured = options_.manager->TryCapture(state->call.store, state->call.generation);
  if (!captured.ok()) return refuse(captured.status());
  state->reply.serving_set = *std::move(captured);
  if (state->reply.serving_set != nullptr) {
    if (absl::Status reserved = Reserve(state.get()); !reserved.ok()) return refuse(std::move(reserved));
    if (IsQuick(*state)) return EncodeQueries(std::move(state));
    return Submit(options_.pool, [this, state] { EncodeQueries(state); }, refuse);
  }

  // An inactive generation that nobody has asked for lately: every byte of it is verified, which must not hold up other searches.
  Submit(
      options_.load_pool != nullptr ? options_.load_pool : options_.pool,
      [this, state, refuse] {
        if (absl::Status live = state->call.options.limits.Check(options_.clock->NowMicros()); !live.ok()) {
          work_.Avoided(WorkPhase::kTokenize);
          return refuse(live);
        }
        absl::StatusOr<std::shared_ptr<const ServingSet>> loaded = options_.manager->Capture(state->call.store, state->call.generation);
        if (!loaded.ok()) return refuse(loaded.status());
        state->reply.serving_set = *std::move(loaded);
        Submit(options_.pool, [this, state] { EncodeQueries(state); }, refuse);
      },
      refuse);
}

bool Pipeline::IsQuick(const SearchState& state) {
  if (state.call.queries.size() > kQuickQueries) return false;
  int64_t bytes = 0;
  for (const auto& query : state.call.queries) {
    if (const std::string* const text = std::get_if<std::string>(&query)) {
      if (state.reply.serving_set->encoder == nullptr) return false;  // It is loaded first.
      bytes += static_cast<int64_t>(text->size());
    }
  }
  return bytes <= kQuickBytes;
}

absl::Status Pipeline::Reserve(SearchState* state) {
  const SearchCall& call = state->call;
  if (absl::Status live = call.options.limits.Check(options_.clock->NowMicros()); !live.ok()) {
    work_.Avoided(WorkPhase::kTokenize);
    return live;
  }
  int64_t text_count = 0;
  int64_t text_bytes = 0;
  for (const auto& query : call.queries) {
    if (const std::string* const text = std::get_if<std::string>(&query)) {
      ++text_count;
      text_bytes += static_cast<int64_t>(text->size());
    }
  }
  int64_t pool_us = forecast_.DelayMicros();
  TextEncoder* const encoder = state->reply.serving_set->encoder.get();
  backlog_us_.store(pool_us + (encoder == nullptr ? 0 : encoder->BacklogMicros()), std::memory_order_relaxed);
  const int64_t now_us = options_.clock->NowMicros();
  const int64_t deadline_us = call.options.limits.deadline_us();
  if (IsLarge(call)) {
    state->amount = LargeAmount(call, *state->reply.serving_set->view);
    LOCI_RETURN_IF_ERROR(large_line_->Check(state->amount, deadline_us, pool_us));
    pool_us += large_line_->DelayMicros(deadline_us);
  } else if (deadline_us - now_us > Batcher::kPatientUs) {
    pool_us = 0;  // More than it takes, where many are searched together.
  }
  if (text_count > 0 && encoder != nullptr) {
    LOCI_ASSIGN_OR_RETURN(state->tokens, encoder->Reserve(text_count, text_bytes, {.role = TextRole::kQuery, .limits = call.options.limits}, pool_us));
    state->text = forecast_.AddText();
  } else if (!IsLarge(call) && pool_us > 0) {
    LOCI_RETURN_IF_ERROR(Batcher::CheckDeadline(pool_us, 0, deadline_us - now_us));
  }
  if (IsLarge(call)) {
    state->large = large_line_->Take(state->amount, deadline_us);
  } else {
    state->search = forecast_.AddSearch();
  }
  return absl::OkStatus();
}

void Pipeline::EncodeQueries(std::shared_ptr<SearchState> state) {
  state->text.End();
  SearchCall& call = state->call;
  SearchReply& reply = state->reply;
  const int64_t now_us = options_.clock->NowMicros();
  reply.times.queue_us += now_us - state->phase_start_us;
  if (absl::Status live = call.options.limits.Check(now_us); !live.ok()) {
    work_.Avoided(WorkPhase::kTokenize);
    return state->finish(live);
  }
  const View& view = *reply.serving_set->view;
  const size_t dim = static_cast<size_t>(view.dim());
  if (call.filter != nullptr) {
    if (absl::Status can_filter = view.CheckFilter(); !can_filter.ok()) return state->finish(std::move(can_filter));
  }

  std::vector<std::string> texts;
  std::vector<size_t> text_queries;  // Which query texts[i] is.
  reply.usage.resize(call.queries.size());
  for (size_t i = 0; i < call.queries.size(); ++i) {
    if (std::string* text = std::get_if<std::string>(&call.queries[i])) {
      if (text->empty()) return state->finish(BadQuery(i, "text", "is empty"));
      texts.push_back(std::move(*text));
      text_queries.push_back(i);
    } else {
      std::vector<float>& vector = std::get<std::vector<float>>(call.queries[i]);
      if (vector.size() != dim) {
        return state->finish(
            BadQuery(i, "vector", absl::StrCat("has dimension ", vector.size(), "; the vectors of store \"", reply.serving_set->store,
                                               "\" have ", dim)));
      }
      if (call.queries.size() == 1) {
        state->query_vectors = std::move(vector);
        break;
      }
      state->query_vectors.resize(call.queries.size() * dim);
      std::copy(vector.begin(), vector.end(), state->query_vectors.begin() + static_cast<std::ptrdiff_t>(i * dim));
    }
  }
  if (texts.empty()) return QueueSearch(std::move(state));

  absl::StatusOr<std::shared_ptr<const ServingSet>> with_encoder = options_.manager->WithEncoder(reply.serving_set);
  if (!with_encoder.ok()) return state->finish(with_encoder.status());
  reply.serving_set = *std::move(with_encoder);
  // Held here too, while Encode runs: the callback may have given the reply, and what it holds, away before that returns.
  const std::shared_ptr<TextEncoder> encoder = reply.serving_set->encoder;
  // Counted until the batcher counts them itself. Not in `state`, which may be another thread's by then.
  const EncodeBacklog::Share tokens = std::move(state->tokens);
  encoder->Encode(texts, {.role = TextRole::kQuery, .limits = call.options.limits},
                  [this, state, text_queries = std::move(text_queries), dim](absl::StatusOr<EncodedTexts> encoded) {
                    if (!encoded.ok()) return state->finish(encoded.status());
                    PhaseTimes& times = state->reply.times;
                    times.tokenize_us += encoded->tokenize_us;
                    times.queue_us += encoded->queue_us;
                    times.encode_us += encoded->encode_us;
                    state->encoded = true;
                    if (!IsLarge(state->call)) forecast_.TokenizeTook(encoded->tokenize_us);
                    const bool all_texts = text_queries.size() == state->call.queries.size();
                    if (all_texts) state->query_vectors = std::move(encoded->vectors);  // In the queries' order.
                    for (size_t i = 0; i < text_queries.size(); ++i) {
                      state->reply.usage[text_queries[i]] = encoded->usage[i];
                      if (all_texts) continue;
                      std::copy_n(encoded->vectors.begin() + static_cast<std::ptrdiff_t>(i * dim), dim,
                                  state->query_vectors.begin() + static_cast<std::ptrdiff_t>(text_queries[i] * dim));
                    }
                    QueueSearch(state);  // The encoder's thread goes back to encoding.
                  });
}

void Pipeline::QueueSearch(std::shared_ptr<SearchState> state) {
  state->phase_start_us = options_.clock->NowMicros();
  const IndexSearchOptions& options = state->call.options;
  const View* const view = state->reply.serving_set->view.get();
  // Else it would be found in the midst of others'.
  if (absl::Status valid = CheckQueryVectors(state->query_vectors, view->dim()); !valid.ok()) return state->finish(std::move(valid));
  if (IsLarge(state->call)) return QueueLarge(std::move(state));
  // A pass over all vectors scores many queries for little more than one; an approximate index, or a filter's rows, are searched query by query.
  if (state->call.filter != nullptr || !view->generation().index().IsExact(options, RowMask())) {
    return Submit(options_.pool, [this, state] { RunSearch(state); }, [state](absl::Status status) { state->finish(std::move(status)); });
  }
  const SearchKind kind{.view = view,
                        .top_k = options.top_k,
                        .exact = options.exact,
                        .nprobe = options.nprobe,
                        .ef_search = options.ef_search,
                        .rescore_factor = options.rescore_factor,
                        .recall_target = options.recall_target};
  const int64_t query_count = static_cast<int64_t>(state->call.queries.size());
  if (!waiting_searches_.Add(kind, std::move(state), query_count)) return;
  // Once all that were encoded together wait.
  Batcher::AfterAnswers([this, kind] {
    Submit(options_.pool, [this, kind] { RunWaitingSearches(kind); }, [this, kind](absl::Status status) {
      while (true) {
        const auto refused = waiting_searches_.Take(kind, kMaxQueriesTogether);
        for (const std::shared_ptr<SearchState>& state : refused.items) state->finish(status);
        if (!refused.more) return;
      }
    });
  });
}

void Pipeline::QueueLarge(std::shared_ptr<SearchState> state) {
  const int64_t deadline_us = state->call.options.limits.deadline_us();
  if (state->amount.queries == 0) {  // That of a generation which was loaded for it has no place yet.
    state->amount = LargeAmount(state->call, *state->reply.serving_set->view);
    state->large = large_line_->Take(state->amount, deadline_us);
  }
  large_line_->Add({.amount = state->amount,
                    .deadline_us = deadline_us,
                    .step = [this, state] { return RunSearch(state); },
                    .refuse = [this, state](absl::Status status) { GiveUp(state.get(), std::move(status)); }});
}

void Pipeline::RunWaitingSearches(const SearchKind& kind) {
  while (true) {
    // A device takes one pass after another: a thread that came with the next would wait for it, and searches that come meanwhile share it. (Those that
    // wait hold the view.)
    const bool on_device = kind.view->generation().exact_index().device() != nullptr;
    auto taken = waiting_searches_.Take(kind, kMaxQueriesTogether, /*stay=*/on_device);
    bool stays = on_device, more = taken.more, handed_over = false;
    const auto hand_over = [&] {
      if (std::exchange(stays, false)) more = waiting_searches_.Leave(kind);
      if (more && !handed_over) handed_over = options_.pool->TrySubmit([this, kind] { RunWaitingSearches(kind); });
    };
    if (!on_device) hand_over();  // Other threads may take the others.
    while (!taken.items.empty()) {
      std::vector<std::shared_ptr<SearchState>> next = TakeNext(&taken.items);
      const std::function<void()> searched = on_device && taken.items.empty() ? hand_over : std::function<void()>();
      if (next.size() == 1) {
        RunSearch(next[0], searched);
      } else {
        RunTogether(std::move(next), searched);
      }
    }
    hand_over();
    if (!more || handed_over) return;
  }
}

std::vector<std::shared_ptr<Pipeline::SearchState>> Pipeline::TakeNext(std::vector<std::shared_ptr<SearchState>>* states) {
  const View& view = *states->front()->reply.serving_set->view;
  const int64_t now_us = options_.clock->NowMicros();
  const auto deadline_us = [](const std::shared_ptr<SearchState>& state) { return state->call.options.limits.deadline_us(); };
  auto end = states->end();
  while (end - states->begin() > 1) {
    int64_t query_count = 0;
    for (auto state = states->begin(); state != end; ++state) query_count += static_cast<int64_t>((*state)->call.queries.size());
    const int64_t together_us = passes_.Micros(query_count, ElementCount(view));
    // Those that are late in any case make no other wait.
    const auto middle = std::stable_partition(states->begin(), end, [&](const std::shared_ptr<SearchState>& state) {
      const int64_t left_us = deadline_us(state) - now_us;
      return left_us < together_us && left_us > passes_.Micros(static_cast<int64_t>(state->call.queries.size()), ElementCount(view));
    });
    if (middle == states->begin()) break;
    passes_.Avoided(query_count);
    if (middle != end) {
      end = middle;
      continue;
    }
    std::stable_sort(states->begin(), end, [&](const auto& a, const auto& b) { return deadline_us(a) < deadline_us(b); });
    end = states->begin() + (end - states->begin()) / 2;
  }
  std::vector<std::shared_ptr<SearchState>> next(std::move_iterator(states->begin()), std::move_iterator(end));
  states->erase(states->begin(), end);
  return next;
}

absl::Status Pipeline::BeginSearch(SearchState* state, int64_t now_us) {
  state->reply.times.queue_us += now_us - state->phase_start_us;
  state->search.End();
  return state->call.options.limits.Check(now_us);
}

void Pipeline::GiveUp(SearchState* state, absl::Status why) {
  if (state->encoded) work_.Wasted(WorkPhase::kEncode);
  work_.Avoided(WorkPhase::kSearch);
  state->finish(std::move(why));
}

void Pipeline::RunTogether(std::vector<std::shared_ptr<SearchState>> states, const std::function<void()>& searched) {
  const int64_t start_us = options_.clock->NowMicros();
  std::vector<std::pair<std::shared_ptr<SearchState>, absl::Status>> late;
  std::erase_if(states, [&](const std::shared_ptr<SearchState>& state) {
    absl::Status live = BeginSearch(state.get(), start_us);
    if (live.ok()) return false;
    late.emplace_back(state, std::move(live));
    return true;
  });
  if (states.empty() && searched) searched();
  for (auto& [state, why] : late) GiveUp(state.get(), std::move(why));
  if (states.empty()) return;

  const View& view = *states[0]->reply.serving_set->view;
  IndexSearchOptions options = states[0]->call.options;
  if (states.size() > 1) {
    // Until the last of them is late. What is cancelled meanwhile is noticed at the end.
    int64_t deadline_us = 0;
    for (const std::shared_ptr<SearchState>& state : states) deadline_us = std::max(deadline_us, state->call.options.limits.deadline_us());
    options.limits = RequestLimits(deadline_us);
  }
  std::vector<float> vectors;
  for (const std::shared_ptr<SearchState>& state : states) vectors.insert(vectors.end(), state->query_vectors.begin(), state->query_vectors.end());
  const int64_t query_count = static_cast<int64_t>(vectors.size()) / view.dim();
  absl::StatusOr<ViewSearchResult> found = view.Search({vectors.data(), query_count, view.dim()}, options);
  const int64_t end_us = options_.clock->NowMicros();
  if (searched) searched();
  std::vector<absl::StatusOr<ViewSearchResult>> results;
  size_t first_query = 0;
  for (const std::shared_ptr<SearchState>& state : states) {
    if (!found.ok()) {  // None of them is at fault: vectors were looked at before, and options are the same for all.
      results.push_back(found.status());
      continue;
    }
    ViewSearchResult& own = *results.emplace_back(ViewSearchResult{.exact = found->exact});
    const auto begin = found->hits.begin() + static_cast<std::ptrdiff_t>(first_query);
    first_query += state->call.queries.size();
    own.hits.assign(std::move_iterator(begin), std::move_iterator(found->hits.begin() + static_cast<std::ptrdiff_t>(first_query)));
  }
  if (found.ok()) passes_.Took(query_count, ElementCount(view), end_us - start_us);
  const int64_t count = static_cast<int64_t>(states.size());
  const SearchTimes times{.search_us = end_us - start_us, .work_us = (end_us - start_us) / count};
  // A reader reads, and large replies are made, on as many threads as there are.
  const int64_t parts = std::min<int64_t>(count, options_.pool->thread_count());
  options_.pool->ParallelFor(parts, [&](int64_t part) {
    for (int64_t i = part * count / parts; i < (part + 1) * count / parts; ++i) {
      Conclude(std::move(states[static_cast<size_t>(i)]), std::move(results[static_cast<size_t>(i)]), times);
    }
  });
}

bool Pipeline::RunSearch(const std::shared_ptr<SearchState>& state, const std::function<void()>& searched) {
  const int64_t start_us = options_.clock->NowMicros();
  const SearchCall& call = state->call;
  SearchReply& reply = state->reply;
  ViewSearchResult& found = state->found;
  const int64_t query_count = static_cast<int64_t>(call.queries.size()), first = static_cast<int64_t>(found.hits.size());
  if (first > 0) {
    reply.times.queue_us += start_us - state->phase_start_us;
  } else if (absl::Status live = BeginSearch(state.get(), start_us); !live.ok()) {
    if (searched) searched();
    GiveUp(state.get(), std::move(live));
    return false;
  }
  const View& view = *reply.serving_set->view;
  int64_t filter_end_us = start_us;
  if (first == 0 && call.filter != nullptr) {
    absl::StatusOr<FilteredRows> rows = view.Filter(*call.filter, call.options.limits);
    if (!rows.ok()) {
      if (IsAbandoned(rows.status())) work_.Wasted(WorkPhase::kSearch);
      state->finish(rows.status());
      return false;
    }
    state->filtered = *std::move(rows);
    filter_end_us = options_.clock->NowMicros();
    reply.times.filter_us = filter_end_us - start_us;
    reply.match_count = state->filtered->match_count;
  }
  const FilteredRows* const filtered = state->filtered.has_value() ? &*state->filtered : nullptr;
  LargeWorkLine::Amount step = LargeAmount(call, query_count - first, view, filtered);
  if (IsLarge(call)) {
    const bool in_passes = step.kind == LargeWorkKind::kExactSearch || step.kind == LargeWorkKind::kDeviceSearch;
    const int64_t most = std::clamp(large_line_->StepQueries(step), in_passes ? kMaxQueriesTogether : kFewQueries, kPieceQueries);
    step.queries = std::min(step.queries, most);
  }
  const int64_t count = step.queries;
  const MatrixView<const float> queries{state->query_vectors.data() + first * view.dim(), count, view.dim()};
  absl::StatusOr<ViewSearchResult> piece = view.Search(queries, call.options, filtered);
  const int64_t end_us = options_.clock->NowMicros();
  if (searched) searched();
  state->spent.search_us += end_us - filter_end_us;
  state->spent.work_us += end_us - start_us;
  if (!piece.ok()) {
    if (IsLarge(call) && absl::IsDeadlineExceeded(piece.status())) large_line_->MeasuredAtLeast(step, end_us - filter_end_us);
    Conclude(state, piece.status(), state->spent);
    return false;
  }
  if (IsLarge(call)) large_line_->Measured(step, end_us - filter_end_us);
  if (piece->exact && call.filter == nullptr) passes_.Took(count, ElementCount(view), end_us - start_us);
  found.exact = piece->exact && (first == 0 || found.exact);
  std::move(piece->hits.begin(), piece->hits.end(), std::back_inserter(found.hits));
  if (const int64_t left = query_count - first - count; left > 0) {
    state->large.Leaves(left);
    state->phase_start_us = end_us;
    return true;
  }
  const auto conclude = [this, state] { Conclude(state, std::move(state->found), state->spent); };
  // The next large one need not wait for the passages of this one.
  if (!IsLarge(call) || !options_.pool->TrySubmit(conclude)) conclude();
  return false;
}

void Pipeline::Conclude(std::shared_ptr<SearchState> state, absl::StatusOr<ViewSearchResult> found, const SearchTimes& times) {
  const SearchCall& call = state->call;
  SearchReply& reply = state->reply;
  if (!found.ok()) {
    if (IsAbandoned(found.status())) work_.Wasted(WorkPhase::kSearch);
    return state->finish(found.status());
  }
  reply.times.search_us = times.search_us;
  reply.exact = found->exact;
  const int64_t fetch_start_us = options_.clock->NowMicros();
  if (absl::Status fetched = Fetch(*found, call, &reply); !fetched.ok()) {
    if (IsAbandoned(fetched)) work_.Wasted(WorkPhase::kSearch);
    return state->finish(fetched);
  }
  const int64_t end_us = options_.clock->NowMicros();
  const int64_t took_us = times.work_us + end_us - fetch_start_us;
  if (!IsLarge(call)) forecast_.SearchTook(took_us);
  reply.times.fetch_us = end_us - fetch_start_us;
  reply.times.total_us = end_us - state->start_us;
  LiveRecall* const live_recall = options_.live_recall;  // This may be gone after the answer.
  const bool measurable = !found->exact && call.filter == nullptr;
  const std::shared_ptr<const ServingSet> searched = measurable ? reply.serving_set : nullptr;
  state->finish(absl::OkStatus());
  if (live_recall == nullptr || searched == nullptr) return;
  const MatrixView<const float> queries{state->query_vectors.data(), static_cast<int64_t>(call.queries.size()), searched->view->dim()};
  live_recall->Offer(searched, queries, call.options);
}

absl::Status Pipeline::Fetch(ViewSearchResult& found, const SearchCall& call, SearchReply* reply) const {
  HitFetcher fetcher(*reply->serving_set->view, {.include_text = call.include_text,
                                                 .include_vectors = call.include_vectors,
                                                 .max_reply_bytes = call.max_reply_bytes,
                                                 .limits = call.options.limits,
                                                 .clock = options_.clock});
  reply->results.resize(found.hits.size());
  for (size_t q = 0; q < found.hits.size(); ++q) {
    std::vector<SearchHit>& hits = reply->results[q];
    hits.reserve(found.hits[q].size());
    LOCI_RETURN_IF_ERROR(fetcher.Fetch(found.hits[q], [&hits](ViewHit& hit, loci::v1::Passage&& passage, std::vector<float>&& vector) {
      hits.push_back({std::move(hit.id), hit.score, std::move(passage), std::move(vector)});
    }));
  }
  return absl::OkStatus();
}

// --- Answer: search, then read ---

void Pipeline::Answer(AnswerCall call, std::function<void(absl::StatusOr<AnswerReply>)> done) {
  const auto found = readers_.find(call.reader);
  if (found == readers_.end()) {
    return done(ErrorWithReason(absl::NotFoundError(absl::StrCat("there is no reader \"", call.reader.substr(0, 80), "\"")),
                                "READER_NOT_FOUND", {{"reader", call.reader.substr(0, 80)}}));
  }
  const std::shared_ptr<const Reader> reader = found->second;
  auto state = std::make_shared<SearchState>();
  state->call.store = std::move(call.store);
  state->call.generation = std::move(call.generation);
  state->call.queries.emplace_back(call.question);
  state->call.options.top_k = call.top_k;
  state->call.options.limits = call.limits;
  state->call.filter = call.filter;
  state->call.include_text = true;

  state->finish = [this, state = state.get(), reader, call, done = std::move(done)](absl::Status status) {
    state->LetGo(status);
    if (!status.ok()) return done(std::move(status));
    ReadRequest request{.question = call.question,
                        .question_vector = state->query_vectors,  // Copied: RunSearch looks at it after it has answered.
                        .max_answers = call.max_answers,
                        .limits = call.limits};
    auto reply = std::make_shared<AnswerReply>();
    reply->passages = std::move(state->reply.results[0]);
    reply->serving_set = std::move(state->reply.serving_set);
    reply->times = state->reply.times;
    for (const SearchHit& hit : reply->passages) {
      request.passages.push_back(hit.passage);
      request.passage_scores.push_back(hit.score);
    }
    const int64_t start_us = state->start_us;
    const int64_t read_start_us = options_.clock->NowMicros();
    if (absl::Status live = call.limits.Check(read_start_us); !live.ok()) {
      work_.Wasted(WorkPhase::kSearch);
      work_.Avoided(WorkPhase::kRead);
      return done(std::move(live));
    }
    TextEncoder& encoder = *reply->serving_set->encoder;  // There: the question was encoded with it.
    reader->Read(std::move(request), encoder, [this, reader, reply, start_us, read_start_us, done](absl::StatusOr<ReadResult> read) {
      if (!read.ok()) return done(read.status());
      const int64_t end_us = options_.clock->NowMicros();
      reply->read = *std::move(read);
      reply->times.read_us = end_us - read_start_us;
      reply->times.total_us = end_us - start_us;
      done(std::move(*reply));
    });
  };
  StartSearch(std::move(state));
}

}  // namespace loci
