#include "encoder/batcher.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "encoder/batcher_metrics.h"
#include "encoder/work_metrics.h"

namespace loci {
namespace {

// One Submit. Shared by the queue and by the batches that hold sequences of it.
struct Request {
  // Constant after Submit.
  PackedBatch sequences;
  RequestLimits limits;
  Batcher::Done done;
  int64_t submit_us = 0;
  bool patient = false;
  EncodeBacklog::Share share;  // Until it is answered.

  // Guarded by the batcher's mutex.
  int64_t turn = 0;           // Lower goes first among equal deadlines.
  int64_t turn_tokens = 0;    // Taken in this turn.
  int64_t next_sequence = 0;  // Those before it are in batches.
  int running_pieces = 0;     // Pieces of it in batches that are being encoded.
  int64_t encoded_tokens = 0;
  int64_t first_start_us = -1;
  absl::Status error;  // Not OK: it is out of the queue, and is answered once no batch holds a piece of it.

  // Made by the first batch; afterwards each batch writes its own rows.
  Mutex vectors_mutex;
  std::vector<float> vectors;

  int64_t sequence_tokens(int64_t i) const {
    return sequences.offsets[static_cast<size_t>(i) + 1] - sequences.offsets[static_cast<size_t>(i)];
  }
  int64_t untaken_tokens() const { return sequences.token_count() - sequences.offsets[static_cast<size_t>(next_sequence)]; }
  bool all_taken() const { return next_sequence == sequences.sequence_count(); }
};
using RequestPtr = std::shared_ptr<Request>;

// Sequences [begin, end) of a request, lying together in a batch.
struct Piece {
  RequestPtr request;
  int64_t begin = 0;
  int64_t end = 0;
};

struct Batch {
  std::vector<Piece> pieces;
  int64_t token_count = 0;
  int64_t patient_tokens = 0;
};

struct ByDeadline {
  bool operator()(const RequestPtr& a, const RequestPtr& b) const {
    return std::pair(a->limits.deadline_us(), a->turn) < std::pair(b->limits.deadline_us(), b->turn);
  }
};
struct ByTurn {
  bool operator()(const RequestPtr& a, const RequestPtr& b) const { return a->turn < b->turn; }
};

// A request that leaves, with what it is told.
struct Answer {
  RequestPtr request;
  absl::StatusOr<BatchedVectors> result;
};

absl::Status CheckSequences(const PackedBatch& batch, int max_length, int vocabulary_size) {
  if (batch.offsets.empty() || batch.offsets.front() != 0 || batch.offsets.back() != batch.token_count()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the offsets of ", batch.sequence_count(), " sequences do not span their ", batch.token_count(), " tokens"));
  }
  for (int64_t i = 0; i < batch.sequence_count(); ++i) {
    const int64_t length = int64_t{batch.offsets[static_cast<size_t>(i) + 1]} - batch.offsets[static_cast<size_t>(i)];
    if (length < 1 || length > max_length) {
      return absl::InvalidArgumentError(
          absl::StrCat("sequence ", i, " has ", length, " tokens; the encoder takes 1 to ", max_length));
    }
  }
  for (const int32_t id : batch.token_ids) {
    if (id < 0 || id >= vocabulary_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " is outside the vocabulary of ", vocabulary_size, " pieces"));
    }
  }
  return absl::OkStatus();
}

// What waits for the end of the answers that this thread is giving; null where it gives none.
thread_local std::vector<std::function<void()>>* after_answers = nullptr;

class BatcherImpl : public Batcher {
 public:
  BatcherImpl(const Encoder& encoder, const BatcherOptions& options, Clock& clock, MetricsSink& metrics)
      : encoder_(encoder), options_(options), clock_(clock), metrics_(metrics, encoder.spec()), work_metrics_(metrics) {
    LOCI_CHECK(options.max_batch_tokens > 0 && options.worker_count > 0 && options.max_wait_us >= 0);
    for (int i = 0; i < options_.worker_count; ++i) workers_.emplace_back([this] { RunWorker(); });
  }

  ~BatcherImpl() override {
    {
      MutexLock lock(&mutex_);
      stopping_ = true;
    }
    work_.NotifyAll();
    for (std::thread& worker : workers_) {
      LOCI_CHECK(worker.get_id() != std::this_thread::get_id());  // A `done` destroyed the batcher.
      worker.join();
    }
  }

  void Submit(PackedBatch sequences, const RequestLimits& limits, Done done) override;

  absl::StatusOr<EncodeBacklog::Share> Reserve(int64_t tokens, const RequestLimits& limits, int64_t other_work_us) override;

  int64_t BacklogMicros() const override { return backlog_->DelayMicros(0, kNoDeadlineMicros); }

  int64_t queued_tokens() const override { return held_tokens_.load(std::memory_order_relaxed); }

 private:
  void RunWorker();
  void EncodeBatch(const Batch& batch, int64_t start_us, std::vector<Answer>* answers);

  // Waits for work and, within max_wait_us, for company. False: the queue is empty and the batcher is ending.
  bool WaitForWork() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // RESOURCE_EXHAUSTED for a request that would not make its deadline if it had all workers, or of which nothing was taken yet, whose deadline the
  // next batch will not make. Never of the last one in the queue: what it takes is measured.
  absl::Status CheckReachable(const Request& request, int64_t now_us) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Batch FormBatch(int64_t now_us, std::vector<Answer>* answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What may be held with a request of so many tokens, where so many are held without it.
  int64_t QueueLimit(int64_t tokens, bool patient, int64_t held_tokens) const {
    const int64_t left_to_others = options_.max_queued_tokens / 4;
    const bool leaves_some = patient && tokens > options_.max_batch_tokens && held_tokens >= left_to_others;
    return options_.max_queued_tokens - (leaves_some ? left_to_others : 0);
  }
  // At the rate measured of late, of a request with so many tokens to encode. Its first batch ends for all that is in it at once, and is filled up with
  // what comes after it.
  int64_t EncodeMicros(int64_t tokens, int64_t first_batch_tokens) const {
    const int64_t a_worker = std::max({std::min(tokens, options_.max_batch_tokens), tokens / options_.worker_count, first_batch_tokens});
    // Many small batches of late say nothing of how fast full ones go.
    const double rate = tokens > options_.max_batch_tokens ? full_micros_per_token_.load(std::memory_order_relaxed) : backlog_->micros_per_token();
    return std::llround(static_cast<double>(a_worker) * rate);
  }
  absl::Status QueueFull(int64_t held_tokens, absl::string_view request_has, int64_t tokens, int64_t limit);
  // Takes what fits and the request's turn allows. False where not even the next sequence fits.
  bool TakeSequences(const RequestPtr& request, Batch* batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Enqueue(const RequestPtr& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Dequeue(const RequestPtr& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes `request` out of the queue for good, to be answered with `error`. AnswerIfDone must follow.
  void Drop(const RequestPtr& request, absl::Status error) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropDead(int64_t now_us, std::vector<Answer>* answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Adds the request to `answers` if nothing of it is left to do. To be called once after each thing that may have ended it.
  void AnswerIfDone(const RequestPtr& request, int64_t now_us, std::vector<Answer>* answers)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendAnswers(std::vector<Answer> answers) ABSL_LOCKS_EXCLUDED(mutex_);
  // By each change, so that the last one is what stays. A gauge is an atomic number.
  void Hold(int64_t tokens, int64_t requests) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    held_requests_ += requests;
    metrics_.queued_tokens.Set(static_cast<double>(held_tokens_ += tokens));
    metrics_.queued_requests.Set(static_cast<double>(held_requests_));
  }

  // Constant after construction.
  const Encoder& encoder_;
  const BatcherOptions options_;
  Clock& clock_;
  std::vector<std::thread> workers_;

  // Own synchronisation. `held_tokens_` changes under `mutex_` and is read anywhere.
  BatcherMetrics metrics_;
  WorkMetrics work_metrics_;
  const std::shared_ptr<EncodeBacklog> backlog_ = std::make_shared<EncodeBacklog>(options_.worker_count);
  std::atomic<int64_t> held_tokens_{0};
  std::atomic<double> full_micros_per_token_{0};  // Of the last batch that was at least half full; 0: there was none.

  // Guarded by `mutex_`.
  Mutex mutex_;
  CondVar work_;
  std::set<RequestPtr, ByDeadline> queue_ ABSL_GUARDED_BY(mutex_);  // Requests with sequences to take.
  std::set<RequestPtr, ByTurn> patient_ ABSL_GUARDED_BY(mutex_);    // The patient ones of them.
  int64_t held_requests_ ABSL_GUARDED_BY(mutex_) = 0;               // Not answered yet.
  int64_t untaken_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t next_turn_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t waiting_since_us_ ABSL_GUARDED_BY(mutex_) = 0;  // When the queue last stopped being empty.
  int64_t patient_credit_ ABSL_GUARDED_BY(mutex_) = 0;    // kPatientShare x the tokens that patient work is owed.
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

void BatcherImpl::Submit(PackedBatch sequences, const RequestLimits& limits, Done done) {
  if (sequences.sequence_count() <= 0 && sequences.token_ids.empty()) return done(BatchedVectors());
  const int64_t token_count = sequences.token_count();
  const int64_t now_us = clock_.NowMicros();
  absl::Status status = CheckSequences(sequences, encoder_.spec().max_length, encoder_.tokenizer().vocabulary_size());
  if (status.ok() && token_count > options_.max_queued_tokens) {
    status = absl::InvalidArgumentError(
        absl::StrCat("the request has ", token_count, " tokens, the limit is ", options_.max_queued_tokens));
  }
  if (status.ok()) {
    status = limits.Check(now_us);
    if (!status.ok()) {
      work_metrics_.Wasted(WorkPhase::kTokenize);
      work_metrics_.Avoided(WorkPhase::kEncode);
    }
  }
  if (!status.ok()) return done(std::move(status));

  auto request = std::make_shared<Request>();
  request->sequences = std::move(sequences);
  request->limits = limits;
  request->submit_us = now_us;
  request->patient = limits.deadline_us() - now_us > kPatientUs;
  request->share = EncodeBacklog::Take(backlog_, now_us, limits.deadline_us(), token_count);
  std::vector<Answer> dropped;
  int64_t held_tokens;
  int64_t limit;
  bool accepted = false;
  {
    MutexLock lock(&mutex_);
    LOCI_CHECK(!stopping_);
    // What was cancelled in the middle of the queue is found here at the latest.
    if (held_tokens_ + token_count > QueueLimit(token_count, request->patient, held_tokens_)) DropDead(now_us, &dropped);
    held_tokens = held_tokens_;
    limit = QueueLimit(token_count, request->patient, held_tokens);
    if (held_tokens + token_count <= limit) {
      request->done = std::move(done);
      if (queue_.empty()) waiting_since_us_ = now_us;
      request->turn = next_turn_++;
      untaken_tokens_ += token_count;
      Hold(token_count, 1);
      Enqueue(request);
      accepted = true;
    }
  }
  if (accepted) work_.NotifyOne();
  SendAnswers(std::move(dropped));
  if (!accepted) done(QueueFull(held_tokens, "has ", token_count, limit));
}

absl::Status BatcherImpl::QueueFull(int64_t held_tokens, absl::string_view request_has, int64_t tokens, int64_t limit) {
  metrics_.refused.Add(1);
  return ErrorWithReason(absl::ResourceExhaustedError(absl::StrCat("the encoder's queue holds ", held_tokens, " tokens and the request ", request_has,
                                                                   tokens, ", the limit is ", limit,
                                                                   limit < options_.max_queued_tokens ? " for a large request that can wait" : "")),
                         "ENCODER_QUEUE_FULL",
                         {{"queued_tokens", absl::StrCat(held_tokens)},
                          {"limit", absl::StrCat(limit)},
                          {"retry_after_ms", absl::StrCat(BacklogMicros() / 1000)}});
}

absl::StatusOr<EncodeBacklog::Share> BatcherImpl::Reserve(int64_t tokens, const RequestLimits& limits, int64_t other_work_us) {
  const int64_t now_us = clock_.NowMicros();
  const int64_t deadline_us = limits.deadline_us();
  const int64_t held_tokens = backlog_->tokens();
  // What no wait can make room for is told so once its tokens are known.
  const int64_t limit = QueueLimit(tokens, deadline_us - now_us > kPatientUs, held_tokens);
  if (tokens <= options_.max_queued_tokens && held_tokens + tokens > limit) return QueueFull(held_tokens, "has about ", tokens, limit);
  const int64_t before_us = deadline_us == kNoDeadlineMicros ? 0 : backlog_->DelayMicros(now_us, deadline_us) + other_work_us;
  if (before_us > 0 || (held_tokens > 0 && tokens > options_.max_batch_tokens)) {
    const int64_t own_us = EncodeMicros(tokens, std::min(held_tokens + tokens, options_.max_batch_tokens));
    if (absl::Status late = CheckDeadline(before_us, own_us, deadline_us - now_us); !late.ok()) {
      metrics_.refused_late.Add(1);
      return late;
    }
  }
  return EncodeBacklog::Take(backlog_, now_us, deadline_us, tokens);
}

void BatcherImpl::RunWorker() {
  while (true) {
    std::vector<Answer> answers;
    Batch batch;
    int64_t start_us;
    bool more;
    {
      MutexLock lock(&mutex_);
      if (!WaitForWork()) return;
      start_us = clock_.NowMicros();
      batch = FormBatch(start_us, &answers);
      more = !queue_.empty();
    }
    if (more) work_.NotifyOne();  // One notification may stand for several requests.
    if (!batch.pieces.empty()) EncodeBatch(batch, start_us, &answers);
    batch = Batch();  // Before the callbacks, so that they find memory given back.
    SendAnswers(std::move(answers));
  }
}

bool BatcherImpl::WaitForWork() {
  while (true) {
    if (queue_.empty()) {
      if (stopping_) return false;
      work_.Wait(&mutex_);
      continue;
    }
    if (stopping_ || options_.max_wait_us == 0 || untaken_tokens_ >= options_.max_batch_tokens) return true;
    const int64_t end_us = waiting_since_us_ + options_.max_wait_us;
    const int64_t now_us = clock_.NowMicros();
    // Company is not worth a missed deadline.
    if (now_us >= end_us || (*queue_.begin())->limits.deadline_us() <= end_us) return true;
    work_.WaitFor(&mutex_, std::chrono::microseconds(end_us - now_us));
  }
}

absl::Status BatcherImpl::CheckReachable(const Request& request, int64_t now_us) const {
  if (queue_.size() < 2) return absl::OkStatus();
  const int64_t first_batch = request.next_sequence == 0 ? std::min(untaken_tokens_, options_.max_batch_tokens) : 0;
  const int64_t rest_us = EncodeMicros(request.untaken_tokens(), first_batch);
  const int64_t left_us = request.limits.deadline_us() - now_us;
  if (left_us >= rest_us) return absl::OkStatus();
  return ErrorWithReason(absl::ResourceExhaustedError(absl::StrCat("the request waited ", (now_us - request.submit_us) / 1000,
                                                                   " ms, what is to be encoded takes about ", rest_us / 1000,
                                                                   " ms, and its deadline is in ", left_us / 1000, " ms")),
                         "OVERLOADED", {{"retry_after_ms", absl::StrCat(BacklogMicros() / 1000)}});
}

Batch BatcherImpl::FormBatch(int64_t now_us, std::vector<Answer>* answers) {
  Batch batch;
  const bool patient_waited = !patient_.empty();
  bool patient_first = patient_credit_ >= kPatientShare * options_.max_batch_tokens;
  while (!queue_.empty()) {
    const RequestPtr request = patient_first && !patient_.empty() ? *patient_.begin() : *queue_.begin();
    if (absl::Status status = request->limits.Check(now_us); !status.ok()) {
      Drop(request, std::move(status));
      AnswerIfDone(request, now_us, answers);
      continue;
    }
    if (absl::Status late = CheckReachable(*request, now_us); !late.ok()) {
      Drop(request, std::move(late));
      AnswerIfDone(request, now_us, answers);
      continue;
    }
    if (!TakeSequences(request, &batch)) break;
    if (request->first_start_us < 0) request->first_start_us = now_us;
    patient_first = false;
  }
  LOCI_CHECK(!queue_.empty() || untaken_tokens_ == 0);
  // Patient work is owed its share of what goes by while it waits, up to two batches.
  patient_credit_ += batch.token_count - kPatientShare * batch.patient_tokens;
  patient_credit_ = std::clamp<int64_t>(patient_credit_, 0, 2 * kPatientShare * options_.max_batch_tokens);
  if (!patient_waited || patient_.empty()) patient_credit_ = 0;
  return batch;
}

bool BatcherImpl::TakeSequences(const RequestPtr& request, Batch* batch) {
  const int64_t begin = request->next_sequence;
  int64_t end = begin;
  int64_t tokens = 0;
  while (end < request->sequences.sequence_count() && request->turn_tokens + tokens < options_.max_batch_tokens) {
    const int64_t next = request->sequence_tokens(end);
    const int64_t total = batch->token_count + tokens + next;
    if (total > options_.max_batch_tokens && total > next) break;  // A first sequence is taken whatever its length.
    tokens += next;
    ++end;
  }
  if (end == begin) return false;
  Dequeue(request);
  request->next_sequence = end;
  request->turn_tokens += tokens;
  untaken_tokens_ -= tokens;
  batch->token_count += tokens;
  if (request->patient) batch->patient_tokens += tokens;
  if (!batch->pieces.empty() && batch->pieces.back().request == request) {
    batch->pieces.back().end = end;
  } else {
    batch->pieces.push_back({request, begin, end});
    ++request->running_pieces;
  }
  if (request->turn_tokens >= options_.max_batch_tokens) {
    request->turn = next_turn_++;
    request->turn_tokens = 0;
  }
  if (!request->all_taken()) Enqueue(request);
  return true;
}

// The sequences of all pieces, one after the other.
PackedBatch Pack(const Batch& batch) {
  PackedBatch packed;
  packed.token_ids.reserve(static_cast<size_t>(batch.token_count));
  for (const Piece& piece : batch.pieces) {
    const PackedBatch& from = piece.request->sequences;
    const size_t begin = static_cast<size_t>(piece.begin);
    const size_t end = static_cast<size_t>(piece.end);
    const int32_t shift = static_cast<int32_t>(packed.token_count()) - from.offsets[begin];
    packed.token_ids.insert(packed.token_ids.end(), from.token_ids.begin() + from.offsets[begin],
                            from.token_ids.begin() + from.offsets[end]);
    for (size_t i = begin + 1; i <= end; ++i) packed.offsets.push_back(from.offsets[i] + shift);
  }
  return packed;
}

void BatcherImpl::EncodeBatch(const Batch& batch, int64_t start_us, std::vector<Answer>* answers) {
  const size_t dim = static_cast<size_t>(encoder_.spec().dim);
  // A request alone in its batch, as those of an idle server and those of many texts, is neither packed nor are its vectors copied.
  Request& first = *batch.pieces.front().request;
  const bool alone = batch.pieces.size() == 1 && batch.pieces[0].begin == 0 && batch.pieces[0].end == first.sequences.sequence_count();
  const PackedBatch packed = alone ? PackedBatch() : Pack(batch);
  const PackedBatch& sequences = alone ? first.sequences : packed;
  std::vector<float> vectors(static_cast<size_t>(sequences.sequence_count()) * dim);
  const absl::Status status = encoder_.Encode(sequences, vectors.data());
  const int64_t end_us = clock_.NowMicros();

  if (status.ok() && alone) {
    MutexLock lock(&first.vectors_mutex);
    first.vectors = std::move(vectors);
  } else if (status.ok()) {
    const float* row = vectors.data();
    for (const Piece& piece : batch.pieces) {
      Request& request = *piece.request;
      {
        MutexLock lock(&request.vectors_mutex);
        request.vectors.resize(static_cast<size_t>(request.sequences.sequence_count()) * dim);
      }
      const size_t count = static_cast<size_t>(piece.end - piece.begin) * dim;
      std::copy(row, row + count, request.vectors.data() + static_cast<size_t>(piece.begin) * dim);
      row += count;
    }
  } else {
    metrics_.failed_batches.Add(1);
  }
  metrics_.batch_tokens.Observe(static_cast<double>(batch.token_count));
  metrics_.batch_sequences.Observe(static_cast<double>(sequences.sequence_count()));
  if (status.ok()) backlog_->Measured(batch.token_count, end_us - start_us);
  if (status.ok() && batch.token_count >= options_.max_batch_tokens / 2) {
    full_micros_per_token_.store(static_cast<double>(end_us - start_us) / static_cast<double>(batch.token_count), std::memory_order_relaxed);
  }
  metrics_.encode_seconds.Observe(static_cast<double>(end_us - start_us) * 1e-6);

  MutexLock lock(&mutex_);
  for (const Piece& piece : batch.pieces) {
    Request& request = *piece.request;
    for (int64_t i = piece.begin; i < piece.end; ++i) request.encoded_tokens += request.sequence_tokens(i);
    --request.running_pieces;
    if (!status.ok() && request.error.ok()) Drop(piece.request, status);
    AnswerIfDone(piece.request, end_us, answers);
  }
}

void BatcherImpl::Enqueue(const RequestPtr& request) {
  queue_.insert(request);
  if (request->patient) patient_.insert(request);
}

void BatcherImpl::Dequeue(const RequestPtr& request) {
  queue_.erase(request);
  if (request->patient) patient_.erase(request);
}

void BatcherImpl::Drop(const RequestPtr& request, absl::Status error) {
  if (!request->all_taken()) {
    Dequeue(request);
    untaken_tokens_ -= request->untaken_tokens();
  }
  request->error = std::move(error);
}

void BatcherImpl::DropDead(int64_t now_us, std::vector<Answer>* answers) {
  std::vector<std::pair<RequestPtr, absl::Status>> dead;
  for (const RequestPtr& request : queue_) {
    absl::Status status = request->limits.Check(now_us);
    if (status.ok() && dead.size() + 1 < queue_.size()) status = CheckReachable(*request, now_us);
    if (!status.ok()) dead.emplace_back(request, std::move(status));
  }
  for (auto& [request, status] : dead) {
    Drop(request, std::move(status));
    AnswerIfDone(request, now_us, answers);
  }
}

void BatcherImpl::AnswerIfDone(const RequestPtr& request, int64_t now_us, std::vector<Answer>* answers) {
  if (request->running_pieces > 0) return;
  if (!request->error.ok()) {
    answers->push_back({request, request->error});
  } else if (request->all_taken()) {
    BatchedVectors result;
    result.vectors = std::move(request->vectors);
    result.queue_us = request->first_start_us - request->submit_us;
    result.encode_us = now_us - request->first_start_us;
    answers->push_back({request, std::move(result)});
  } else {
    return;
  }
  Hold(-request->sequences.token_count(), -1);
  request->share.Release();
}

void BatcherImpl::SendAnswers(std::vector<Answer> answers) {
  if (answers.empty()) return;
  // A `done` may submit, and so answer others that are dropped.
  std::vector<std::function<void()>> after;
  const bool outermost = after_answers == nullptr;
  if (outermost) after_answers = &after;
  for (Answer& answer : answers) {
    const Request& request = *answer.request;
    if (answer.result.ok()) {
      metrics_.queue_seconds.Observe(static_cast<double>(answer.result->queue_us) * 1e-6);
    } else {
      if (answer.result.status().code() == absl::StatusCode::kCancelled) metrics_.dropped_cancelled.Add(1);
      if (answer.result.status().code() == absl::StatusCode::kDeadlineExceeded) metrics_.dropped_deadline.Add(1);
      const bool out_of_reach = answer.result.status().code() == absl::StatusCode::kResourceExhausted;
      if (out_of_reach) metrics_.dropped_out_of_reach.Add(1);
      if (out_of_reach || IsAbandoned(answer.result.status())) {
        work_metrics_.Wasted(request.encoded_tokens > 0 ? WorkPhase::kEncode : WorkPhase::kTokenize);
        if (request.encoded_tokens < request.sequences.token_count()) work_metrics_.Avoided(WorkPhase::kEncode);
      }
      metrics_.dropped_tokens.Add(static_cast<double>(request.sequences.token_count() - request.encoded_tokens));
      metrics_.wasted_tokens.Add(static_cast<double>(request.encoded_tokens));
    }
    request.done(std::move(answer.result));
  }
  if (!outermost) return;
  after_answers = nullptr;
  for (const std::function<void()>& work : after) work();
}

}  // namespace

absl::Status Batcher::CheckDeadline(int64_t before_us, int64_t own_us, int64_t left_us) {
  const int64_t headroom = left_us > kPatientUs ? 1 : kHeadroom;
  left_us = std::max<int64_t>(left_us, 0);
  if (headroom * before_us + own_us <= left_us) return absl::OkStatus();
  const std::string delay_ms = absl::StrCat((before_us + own_us) / 1000);
  return ErrorWithReason(
      absl::ResourceExhaustedError(absl::StrCat("the work before this request is estimated at ", before_us / 1000, " ms",
                                                headroom > 1 ? ", which counts twice to be safe," : "", " and its own at ", own_us / 1000,
                                                " ms; its deadline is in ", left_us / 1000, " ms")),
      "OVERLOADED", {{"delay_ms", delay_ms}, {"retry_after_ms", delay_ms}});
}

void Batcher::AfterAnswers(std::function<void()> work) {
  if (after_answers == nullptr) return work();
  after_answers->push_back(std::move(work));
}

std::unique_ptr<Batcher> Batcher::Create(const Encoder& encoder, BatcherOptions options, Clock& clock, MetricsSink& metrics) {
  return std::make_unique<BatcherImpl>(encoder, options, clock, metrics);
}

}  // namespace loci
