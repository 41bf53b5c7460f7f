#include "retriever/training_sessions.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <limits>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "base/strings.h"

namespace loci {
namespace {

constexpr size_t kMaxEnded = 4'096;
constexpr size_t kMaxNameBytes = 64;  // Of a client's words in messages.
constexpr size_t kLabelDigits = 8;    // Of a session's id, in metrics: who reads those is not to use the session.

// 128 bits from the operating system's generator.
std::string NewSessionId() {
  unsigned char bytes[16];
  LOCI_CHECK(getentropy(bytes, sizeof(bytes)) == 0);
  std::string id;
  for (const unsigned char byte : bytes) absl::StrAppendFormat(&id, "%02x", byte);
  return id;
}

std::string Cut(std::string_view name) { return std::string(name.substr(0, kMaxNameBytes)); }

}  // namespace

int64_t TrainingRetrieval::memory_bytes() const {
  int64_t bytes = static_cast<int64_t>(sizeof(*this) + queries.capacity() * sizeof(double));
  for (const TrainingResult& result : results) bytes += result.memory_bytes();
  return bytes;
}

// The first two are constant after construction, the monitor has its own synchronisation, the others are guarded by TrainingSessions::mutex_.
struct TrainingSessions::Session {
  Session(std::string session_id, std::shared_ptr<const ServingSet> serving_set)
      : id(std::move(session_id)), set(std::move(serving_set)), encoding_set(set) {}

  const std::string id;
  const std::shared_ptr<const ServingSet> set;
  TrainingMonitor monitor;
  std::shared_ptr<const ServingSet> encoding_set;  // `set`, or the same with the encoder that was found later.
  int64_t lease_us = 0;
  int64_t expires_us = 0;
  int64_t use_count = 0;
  bool ended = false;
  struct Kept {
    std::shared_ptr<const TrainingRetrieval> retrieval;
    int64_t bytes = 0;
  };
  std::map<int64_t, Kept> handles;  // By number, from 1.
  int64_t last_handle = 0;
  int64_t handle_bytes = 0;
};

TrainingSessions::TrainingSessions(Options options)
    : options_(options),
      opened_(options.metrics->counter("loci_training_sessions_opened_total", "Training sessions that were opened.", {})),
      expired_(options.metrics->counter("loci_training_leases_expired_total", "Training sessions whose lease was over before they were closed.", {})),
      dropped_(options.metrics->counter("loci_training_handles_dropped_total", "Handles that went to make room for newer ones.", {})),
      thread_([this] { Run(); }) {}

TrainingSessions::~TrainingSessions() {
  CloseAll();
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

void TrainingSessions::Run() {
  while (true) {
    std::vector<std::shared_ptr<const void>> garbage;
    bool release = false;
    {
      MutexLock lock(&mutex_);
      ExpireLocked();
      if (garbage_.empty()) {
        if (stopping_) return;
        if (sessions_.empty()) {
          changed_.Wait(&mutex_);
        } else {
          changed_.WaitFor(&mutex_, std::chrono::milliseconds(options_.poll_ms));
        }
      }
      garbage.swap(garbage_);
      release = std::exchange(release_, false);
    }
    garbage.clear();
    if (release) options_.release_memory();
  }
}

void TrainingSessions::ExpireLocked() {
  const int64_t now_us = options_.clock->NowMicros();
  for (auto session = sessions_.begin(); session != sessions_.end();) {
    if (session->second->use_count > 0 || now_us < session->second->expires_us) {
      ++session;
      continue;
    }
    LogInfo("training", absl::StrCat("store=", session->second->set->store, " session=", session->first.substr(0, kLabelDigits), " its lease of ",
                                     session->second->lease_us / 1000, " ms is over"));
    expired_.Add(1);
    session = EndLocked(session, End::kExpired);
  }
}

TrainingSessions::SessionMap::iterator TrainingSessions::EndLocked(SessionMap::iterator found, End end) {
  std::shared_ptr<Session> session = std::move(found->second);
  ended_.emplace_back(found->first, end);
  if (ended_.size() > kMaxEnded) ended_.pop_front();
  const auto next = sessions_.erase(found);
  session->ended = true;
  handle_bytes_ -= session->handle_bytes;
  release_ = release_ || session->handle_bytes >= kReleaseBytes;
  session->handle_bytes = 0;
  for (auto& [number, kept] : session->handles) garbage_.push_back(std::move(kept.retrieval));
  session->handles.clear();
  if (session->use_count == 0) garbage_.push_back(std::move(session));  // Else the last use sees to it, which has it too.
  changed_.NotifyAll();
  return next;
}

absl::StatusOr<std::shared_ptr<TrainingSessions::Session>> TrainingSessions::FindLocked(std::string_view session_id) {
  ExpireLocked();
  const auto found = sessions_.find(session_id);
  if (found != sessions_.end()) return found->second;
  const auto ended = std::find_if(ended_.rbegin(), ended_.rend(), [&](const auto& past) { return past.first == session_id; });
  const std::string name = Cut(session_id);
  const std::string message = ended == ended_.rend()      ? absl::StrCat("there is no session \"", name, "\"")
                              : ended->second == End::kClosed ? absl::StrCat("session \"", name, "\" was closed")
                                                              : absl::StrCat("session \"", name, "\" expired: its lease was not renewed in time");
  std::map<std::string, std::string> details = {{"session", name}};
  if (ended != ended_.rend()) details["ended"] = ended->second == End::kClosed ? "closed" : "expired";
  return ErrorWithReason(absl::NotFoundError(message), "SESSION_NOT_FOUND", std::move(details));
}

absl::StatusOr<TrainingLease> TrainingSessions::Open(std::shared_ptr<const ServingSet> set, int32_t lease_ms) {
  if (lease_ms == 0) lease_ms = kDefaultLeaseMs;
  auto session = std::make_shared<Session>(NewSessionId(), set);
  session->lease_us = int64_t{lease_ms} * 1000;
  MutexLock lock(&mutex_);
  if (closed_) return ErrorWithReason(absl::UnavailableError("the server is draining"), "DRAINING");
  ExpireLocked();
  const int64_t now_us = options_.clock->NowMicros();
  if (static_cast<int64_t>(sessions_.size()) >= options_.max_sessions) {
    int64_t first_us = std::numeric_limits<int64_t>::max();
    for (const auto& [id, other] : sessions_) first_us = std::min(first_us, other->expires_us);
    return ErrorWithReason(absl::ResourceExhaustedError(absl::StrCat(sessions_.size(), " training sessions are open, the limit is ",
                                                                     options_.max_sessions, "; close one, or wait until a lease is over")),
                           "OVERLOADED", {{"limit", absl::StrCat(options_.max_sessions)},
                                          {"retry_after_ms", absl::StrCat(std::max<int64_t>(first_us - now_us, 0) / 1000)}});
  }
  session->expires_us = now_us + session->lease_us;
  const std::string& id = session->id;
  sessions_.emplace(id, session);
  opened_.Add(1);
  changed_.NotifyAll();
  return TrainingLease{id, std::move(set), lease_ms};
}

absl::StatusOr<TrainingLease> TrainingSessions::Renew(std::string_view session_id, int32_t lease_ms) {
  MutexLock lock(&mutex_);
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Session> session, FindLocked(session_id));
  if (lease_ms != 0) session->lease_us = int64_t{lease_ms} * 1000;
  session->expires_us = options_.clock->NowMicros() + session->lease_us;
  return TrainingLease{session->id, session->encoding_set, static_cast<int32_t>(session->lease_us / 1000)};
}

absl::Status TrainingSessions::Close(std::string_view session_id) {
  MutexLock lock(&mutex_);
  {
    const absl::StatusOr<std::shared_ptr<Session>> session = FindLocked(session_id);
    if (!session.ok()) return session.status();
  }
  EndLocked(sessions_.find(session_id), End::kClosed);
  return absl::OkStatus();
}

void TrainingSessions::CloseAll() {
  MutexLock lock(&mutex_);
  closed_ = true;
  for (auto session = sessions_.begin(); session != sessions_.end();) session = EndLocked(session, End::kClosed);
}

absl::StatusOr<TrainingSessions::Use> TrainingSessions::Begin(std::string_view session_id) {
  MutexLock lock(&mutex_);
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Session> session, FindLocked(session_id));
  ++session->use_count;
  return Use(this, std::move(session));
}

TrainingSessions::Use& TrainingSessions::Use::operator=(Use&& other) noexcept {
  Release();
  sessions_ = std::exchange(other.sessions_, nullptr);
  session_ = std::move(other.session_);
  return *this;
}

void TrainingSessions::Use::Release() {
  TrainingSessions* const sessions = std::exchange(sessions_, nullptr);
  if (sessions == nullptr) return;
  MutexLock lock(&sessions->mutex_);
  session_->expires_us = std::max(session_->expires_us, sessions->options_.clock->NowMicros() + session_->lease_us);
  if (--session_->use_count == 0 && session_->ended) {
    sessions->garbage_.push_back(std::move(session_));
    sessions->changed_.NotifyAll();
  }
  session_.reset();  // Not the last: `sessions_` has it, or another use, or the garbage.
}

const ServingSet& TrainingSessions::Use::serving_set() const { return *session_->set; }
TrainingMonitor& TrainingSessions::Use::monitor() const { return session_->monitor; }

std::shared_ptr<const ServingSet> TrainingSessions::Use::encoding_set() const {
  MutexLock lock(&sessions_->mutex_);
  return session_->encoding_set;
}

void TrainingSessions::Use::FoundEncoder(std::shared_ptr<const ServingSet> set) const {
  MutexLock lock(&sessions_->mutex_);
  session_->encoding_set.swap(set);
  sessions_->garbage_.push_back(std::move(set));
  sessions_->changed_.NotifyAll();
}

void TrainingSessions::DropOldestLocked(Session& session) {
  const auto oldest = session.handles.begin();
  session.handle_bytes -= oldest->second.bytes;
  handle_bytes_ -= oldest->second.bytes;
  garbage_.push_back(std::move(oldest->second.retrieval));
  session.handles.erase(oldest);
  dropped_.Add(1);
}

absl::StatusOr<std::string> TrainingSessions::Use::Keep(std::shared_ptr<const TrainingRetrieval> retrieval) const {
  const int64_t bytes = retrieval->memory_bytes();
  TrainingSessions& all = *sessions_;
  MutexLock lock(&all.mutex_);
  const int64_t number = session_->last_handle + 1;
  const std::string name = absl::StrCat("h", number);
  if (session_->ended) return name;
  // Before anything goes: what is refused anyhow costs nobody a handle.
  int64_t lasting_bytes = 0;
  for (const auto& [id, session] : all.sessions_) {
    if (session != session_ && !session->handles.empty()) lasting_bytes += session->handles.rbegin()->second.bytes;
  }
  if (bytes > all.options_.max_handle_bytes - lasting_bytes) {
    return ErrorWithReason(
        absl::ResourceExhaustedError(absl::StrCat("the results of training sessions have ", all.handle_bytes_, " bytes, of which ", lasting_bytes,
                                                  " are other sessions' newest; these would have ", bytes, " more, the limit is ",
                                                  all.options_.max_handle_bytes, "; ask for less at once")),
        "OVERLOADED", {{"needed_bytes", absl::StrCat(bytes)}, {"limit_bytes", absl::StrCat(all.options_.max_handle_bytes)}});
  }
  session_->last_handle = number;
  while (static_cast<int64_t>(session_->handles.size()) >= all.options_.max_handles) all.DropOldestLocked(*session_);
  while (all.handle_bytes_ + bytes > all.options_.max_handle_bytes) {
    Session* largest = session_->handles.empty() ? nullptr : session_.get();
    for (const auto& [id, session] : all.sessions_) {
      if (session->handles.size() > 1 && (largest == nullptr || session->handle_bytes > largest->handle_bytes)) largest = session.get();
    }
    LOCI_CHECK(largest != nullptr);  // What lasts leaves room for these.
    all.DropOldestLocked(*largest);
  }
  all.handle_bytes_ += bytes;
  session_->handle_bytes += bytes;
  session_->handles[number] = {std::move(retrieval), bytes};
  if (!all.garbage_.empty()) all.changed_.NotifyAll();
  return name;
}

absl::StatusOr<std::shared_ptr<const TrainingRetrieval>> TrainingSessions::Use::Find(std::string_view handle) const {
  int64_t number = 0;
  const bool is_name = handle.starts_with('h') && absl::SimpleAtoi(AbslView(handle.substr(1)), &number) && StdView(absl::StrCat("h", number)) == handle;
  MutexLock lock(&sessions_->mutex_);
  const auto found = is_name ? session_->handles.find(number) : session_->handles.end();
  if (found != session_->handles.end()) return found->second.retrieval;
  const bool was_there = is_name && number >= 1 && number <= session_->last_handle;
  return ErrorWithReason(absl::NotFoundError(was_there ? absl::StrCat("handle \"", Cut(handle), "\" is not kept any more: newer ones took its place")
                                                       : absl::StrCat("there is no handle \"", Cut(handle), "\" in this session")),
                         "HANDLE_NOT_FOUND", {{"handle", Cut(handle)}});
}

int64_t TrainingSessions::LeaseCount(std::string_view store, std::string_view generation) const {
  MutexLock lock(&mutex_);
  const int64_t now_us = options_.clock->NowMicros();
  return std::count_if(sessions_.begin(), sessions_.end(), [&](const auto& session) {
    const bool over = session.second->use_count == 0 && now_us >= session.second->expires_us;
    return !over && session.second->set->store == store && session.second->set->view->generation().id() == generation;
  });
}

std::vector<GaugeSample> TrainingSessions::Metrics() const {
  std::vector<std::shared_ptr<const Session>> open;
  int64_t handle_bytes = 0;
  {
    MutexLock lock(&mutex_);
    for (const auto& [id, session] : sessions_) open.push_back(session);
    handle_bytes = handle_bytes_;
  }
  std::vector<GaugeSample> samples;
  std::map<std::pair<std::string, std::string>, int64_t> leases;
  const int64_t unix_us = options_.clock->UnixMicros();
  for (const std::shared_ptr<const Session>& session : open) {
    const ServingSet& set = *session->set;
    const Generation& generation = set.view->generation();
    ++leases[{set.store, generation.id()}];
    const MetricLabels labels = {{"store", set.store}, {"session", session->id.substr(0, kLabelDigits)}};
    samples.push_back({"loci_training_staleness_seconds", "Age of the generation that a training session has leased.", labels,
                       static_cast<double>(std::max<int64_t>(unix_us - generation.manifest().created_unix_us(), 0)) / 1e6});
    if (options_.drifts != nullptr) {
      const EncoderDrift drift = options_.drifts->Find(set.store, generation.manifest().passage_fingerprint());
      if (drift.sample_count > 0) {
        samples.push_back({"loci_training_drift", "Mean distance, 1 - cosine, of the passages that a training session has leased to those that the newest "
                                                  "published encoder makes.", labels, drift.drift});
      }
    }
    std::vector<GaugeSample> figures = session->monitor.Metrics(labels);
    std::move(figures.begin(), figures.end(), std::back_inserter(samples));
  }
  for (const auto& [of, count] : leases) {
    samples.push_back({"loci_training_leases", "Training sessions that have leased a generation, which stays in memory for them.",
                       {{"store", of.first}, {"generation", of.second}}, static_cast<double>(count)});
  }
  samples.push_back({"loci_training_sessions", "Training sessions that are open.", {}, static_cast<double>(open.size())});
  samples.push_back({"loci_training_handle_bytes", "Memory of what Retrieve found and training sessions keep for Backward.", {},
                     static_cast<double>(handle_bytes)});
  MutexLock lock(&mutex_);
  for (std::shared_ptr<const Session>& session : open) garbage_.push_back(std::move(session));  // It may have become the last.
  changed_.NotifyAll();
  return samples;
}

}  // namespace loci
