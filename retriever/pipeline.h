// The life of a query: tokenize, encode, search, fetch, read. This is the file where the whole flow can be read (pipeline.cc).
#ifndef LOCI_RETRIEVER_PIPELINE_H_
#define LOCI_RETRIEVER_PIPELINE_H_

#include <atomic>
#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/mutex.h"
#include "base/thread_pool.h"
#include "encoder/work_metrics.h"
#include "index/filter_expression.h"
#include "index/view.h"
#include "retriever/generation_manager.h"
#include "retriever/large_work_line.h"
#include "retriever/live_recall.h"
#include "retriever/pass_forecast.h"
#include "retriever/reader.h"
#include "retriever/serving_set.h"
#include "retriever/waiting_groups.h"
#include "retriever/work_forecast.h"

namespace loci {

// Microseconds.
struct PhaseTimes {
  int64_t queue_us = 0;
  int64_t tokenize_us = 0;
  int64_t encode_us = 0;
  int64_t filter_us = 0;
  int64_t search_us = 0;
  int64_t fetch_us = 0;
  int64_t read_us = 0;
  int64_t total_us = 0;
};

struct EncodeCall {
  std::string encoder;  // Fingerprint, or empty.
  std::vector<std::string> texts;
  EncodeTextOptions options;
};
struct EncodeReply {
  std::vector<float> vectors;  // [texts, dim]
  int dim = 0;
  std::vector<TokenUsage> usage;
  std::string encoder_fingerprint;
  PhaseTimes times;
};

struct SearchCall {
  std::string store;
  std::string generation;
  std::vector<std::variant<std::string, std::vector<float>>> queries;  // A text, or a vector of finite numbers.
  IndexSearchOptions options;
  std::shared_ptr<const FilterExpression> filter;  // Null: every passage.
  bool include_text = false;
  bool include_vectors = false;
  int64_t max_reply_bytes = 64 << 20;  // Of ids, texts and vectors; more is INVALID_ARGUMENT, reason REPLY_TOO_LARGE.
};
struct SearchHit {
  std::string id;
  float score = 0;
  loci::v1::Passage passage;  // With include_text.
  std::vector<float> vector;  // With include_vectors.
};
struct SearchReply {
  std::vector<std::vector<SearchHit>> results;      // One list a query.
  std::vector<std::optional<TokenUsage>> usage;     // For text queries.
  std::shared_ptr<const ServingSet> serving_set;    // What answered.
  bool exact = false;
  int64_t match_count = 0;  // With a filter: passages that it lets through.
  PhaseTimes times;
};

struct AnswerCall {
  std::string store;
  std::string generation;
  std::string question;
  int top_k = 5;
  int max_answers = 1;
  std::string reader = "sentence";
  std::shared_ptr<const FilterExpression> filter;  // Null: every passage.
  RequestLimits limits;
};
struct AnswerReply {
  ReadResult read;
  std::vector<SearchHit> passages;  // With text.
  std::shared_ptr<const ServingSet> serving_set;
  PhaseTimes times;
};

// Each call may be made on a gRPC thread, and never waits: it tokenizes a few short queries itself and leaves all else to the pool. `done` is called
// exactly once: with a reply on a pool's or a batcher's thread; with an error there, or within a call: the one that is refused, or a later one
// whose text takes the place of what nobody waits for any more (Batcher::Submit). Errors: RESOURCE_EXHAUSTED where the pool's queue is full,
// NOT_FOUND, FAILED_PRECONDITION, INVALID_ARGUMENT as api.proto says (a query vector of another dimension, an empty query).
//
// Searches that score every vector, of one view and with the same options, have one place in the pool's queue and are searched in one pass, up to 64
// queries at once; where a device searches them, one pass at a time, so that who waits for the device holds no thread. How many wait in that place is
// bounded by who admits requests, and by nothing here. A *large* search, of more queries than that, is searched in pieces of 64 to 256, in the line of
// large work (retriever/large_work_line.h). Deadlines and cancellation are looked at before tokenizing, before encoding and before searching; a request
// that can't make its deadline, with the work that was admitted before it, is refused before any is done for it (see Batcher::Reserve). Free of gRPC.
// Thread-safe.
class Pipeline {
 public:
  struct Options {
    GenerationManager* manager = nullptr;  // Borrowed, like all below.
    ThreadPool* pool = nullptr;            // Tokenizes but for a few short queries, searches, fetches.
    std::shared_ptr<LargeWorkLine> large_line;  // Of `pool`; null: one of its own.
    ThreadPool* load_pool = nullptr;       // Opens inactive generations that requests name; null: `pool` does.
    Clock* clock = &RealClock();
    MetricsSink* metrics = &NullMetrics();
    LiveRecall* live_recall = nullptr;     // Null: nothing is measured.
    std::vector<std::shared_ptr<const Reader>> readers;
  };
  explicit Pipeline(Options options);

  void Encode(EncodeCall call, std::function<void(absl::StatusOr<EncodeReply>)> done);
  void Search(SearchCall call, std::function<void(absl::StatusOr<SearchReply>)> done);
  void Answer(AnswerCall call, std::function<void(absl::StatusOr<AnswerReply>)> done);

  std::vector<std::string> reader_names() const;

  // About how long a search that comes now waits for its answer; as of the last one that came.
  int64_t BacklogMicros() const { return backlog_us_.load(std::memory_order_relaxed); }
  WorkMetrics& work_metrics() { return work_; }

 private:
  struct SearchState;
  // What searches that are done together have in common. The view is held by those that wait.
  struct SearchKind {
    const View* view = nullptr;
    int top_k = 0;
    bool exact = false;
    int nprobe = 0;
    int ef_search = 0;
    int rescore_factor = 0;
    double recall_target = 0;
    auto operator<=>(const SearchKind&) const = default;
  };
  struct SearchTimes {
    int64_t search_us = 0;
    int64_t work_us = 0;  // Of a thread, for this search alone.
  };
  void Submit(ThreadPool* pool, std::function<void()> task, const std::function<void(absl::Status)>& refuse);
  void StartSearch(std::shared_ptr<SearchState> state);
  std::shared_ptr<TextEncoder> KnownDefaultEncoder();  // Null where none was used yet. Does not wait.
  // Takes the search's place among what waits, where it can make its deadline.
  absl::Status Reserve(SearchState* state);
  // Whether EncodeQueries is over before another thread would have begun with it.
  static bool IsQuick(const SearchState& state);
  void EncodeQueries(std::shared_ptr<SearchState> state);

  // Each of these ends or hands on what it gets.
  void QueueSearch(std::shared_ptr<SearchState> state);  // Its query vectors are there.
  void RunWaitingSearches(const SearchKind& kind);
  // Takes what is searched together next out of `states`, which are of one kind and not empty: all, but where some of them would be late that way and
  // would not be alone, by how long such passes took; then those go first, in as many passes as it takes.
  std::vector<std::shared_ptr<SearchState>> TakeNext(std::vector<std::shared_ptr<SearchState>>* states);
  // Of one kind. `searched` (may be null) is called once the pass is over, or there is none to make, and before anybody who shared it is answered: then
  // there may be no pipeline any more.
  void RunTogether(std::vector<std::shared_ptr<SearchState>> states, const std::function<void()>& searched = nullptr);
  // Searches its next queries, all unless it is large. True: there are more.
  bool RunSearch(const std::shared_ptr<SearchState>& state, const std::function<void()>& searched = nullptr);
  void QueueLarge(std::shared_ptr<SearchState> state);
  void Conclude(std::shared_ptr<SearchState> state, absl::StatusOr<ViewSearchResult> found, const SearchTimes& times);

  absl::Status BeginSearch(SearchState* state, int64_t now_us);  // Ends its waiting. Not OK: nobody waits for it any more.
  void GiveUp(SearchState* state, absl::Status why);             // Before it is searched.
  // Fills reply->results; takes the ids out of `found`.
  absl::Status Fetch(ViewSearchResult& found, const SearchCall& call, SearchReply* reply) const;

  const Options options_;
  WorkMetrics work_;
  WorkForecast forecast_;
  PassForecast passes_;
  const std::shared_ptr<LargeWorkLine> large_line_;
  std::atomic<int64_t> backlog_us_{0};
  WaitingGroups<SearchKind, std::shared_ptr<SearchState>> waiting_searches_;
  Mutex default_mutex_;
  std::weak_ptr<TextEncoder> default_encoder_ ABSL_GUARDED_BY(default_mutex_);  // That the last Encode without a name used.
  std::map<std::string, std::shared_ptr<const Reader>> readers_;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_PIPELINE_H_
