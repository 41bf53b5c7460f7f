#include "retriever/store_entry.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "base/strings.h"

namespace loci {

absl::Status StoreNotFound(std::string_view store) {
  const std::string_view shown = store.substr(0, 80);
  return ErrorWithReason(absl::NotFoundError(absl::StrCat("there is no store \"", AbslView(shown), "\"")), "STORE_NOT_FOUND",
                         {{"store", std::string(shown)}});
}

absl::Status SwitchingError(std::string_view store, const Switching& switching, int64_t now_us) {
  constexpr int64_t kLeastMs = 50;
  const int64_t retry_ms = std::max(kLeastMs, (switching.until_us - now_us) / 1000);
  return ErrorWithReason(absl::UnavailableError(absl::StrCat("store \"", AbslView(store), "\" is being switched in place from generation ", switching.from,
                                                             " to ", switching.to, "; try again in about ", retry_ms, " ms")),
                         "SWITCHING",
                         {{"store", std::string(store)}, {"generation", switching.to}, {"retry_after_ms", absl::StrCat(retry_ms)}});
}

absl::StatusOr<std::shared_ptr<Store>> StoreEntry::GetStore() const {
  MutexLock lock(&mutex_);
  if (store_ != nullptr) return store_;
  if (!open_error_.ok()) return open_error_;
  return StoreNotFound(name);
}

void StoreEntry::SetStore(std::shared_ptr<Store> store, absl::Status open_error) {
  MutexLock lock(&mutex_);
  store_ = std::move(store);
  open_error_ = std::move(open_error);
}

bool StoreEntry::IsShutForNow() const {
  MutexLock lock(&mutex_);
  return IsShutForNowLocked();
}

bool StoreEntry::IsDueToReopen(int64_t now_us) {
  MutexLock lock(&mutex_);
  if (!IsShutForNowLocked() || now_us < reopen_after_us_) return false;
  reopen_after_us_ = now_us + kReopenPauseUs;
  return true;
}

absl::StatusOr<std::weak_ptr<Store>> StoreEntry::TakeForDeletion() {
  decltype(opened_) closed;  // After the lock is given back: that takes its time, and captures wait for the lock.
  MutexLock lock(&mutex_);
  if (builder_count_ > 0) {
    return ErrorWithReason(absl::AbortedError(absl::StrCat("an ingest into store \"", name, "\" is running")), "INGEST_RUNNING",
                           {{"store", name}});
  }
  if (store_ == nullptr && open_error_.ok()) return StoreNotFound(name);
  std::weak_ptr<Store> closing = store_;
  store_.reset();
  open_error_ = absl::OkStatus();
  closed.swap(opened_);
  return closing;
}

GenerationStatus StoreEntry::GetState(const std::string& generation) const {
  MutexLock lock(&mutex_);
  const auto found = states_.find(generation);
  return found == states_.end() ? GenerationStatus{} : found->second;
}

void StoreEntry::SetState(const std::string& generation, GenerationState state, std::string detail) {
  MutexLock lock(&mutex_);
  GenerationStatus& status = states_[generation];
  status.state = state;
  status.detail = std::move(detail);
}

void StoreEntry::SetDamage(const std::string& generation, std::string damage) {
  MutexLock lock(&mutex_);
  states_[generation].damage = std::move(damage);
}

void StoreEntry::AddKnown(const std::string& generation) {
  MutexLock lock(&mutex_);
  known_.insert(generation);
}

std::vector<GenerationState> StoreEntry::States(std::string_view serving) const {
  MutexLock lock(&mutex_);
  std::vector<GenerationState> states;
  for (const std::string& generation : known_) {
    const auto found = states_.find(generation);
    const GenerationStatus status = found == states_.end() ? GenerationStatus{} : found->second;
    states.push_back(generation == serving ? GenerationState::kServing : status.damage.empty() ? status.state : GenerationState::kFailed);
  }
  return states;
}

void StoreEntry::AddLive(const std::shared_ptr<const Generation>& generation) {
  MutexLock lock(&mutex_);
  std::erase_if(live_, [&](const auto& live) { return live.expired() || live.lock() == generation; });
  live_.push_back(generation);
}

std::vector<std::shared_ptr<const Generation>> StoreEntry::Live() const {
  MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<const Generation>> generations;
  for (const std::weak_ptr<const Generation>& live : live_) {
    if (std::shared_ptr<const Generation> generation = live.lock(); generation != nullptr) generations.push_back(std::move(generation));
  }
  return generations;
}

std::shared_ptr<TextEncoder> StoreEntry::next_encoder() const {
  MutexLock lock(&mutex_);
  return next_encoder_;
}

void StoreEntry::SetNextEncoder(std::shared_ptr<TextEncoder> encoder) {
  MutexLock lock(&mutex_);
  next_encoder_.swap(encoder);  // Dies after the lock.
}

bool StoreEntry::SetFidelityError(std::string error) {
  MutexLock lock(&mutex_);
  const bool is_new = !error.empty() && error != fidelity_error_;
  fidelity_error_ = std::move(error);
  return is_new;
}

std::shared_ptr<TextEncoder> StoreEntry::published_encoder() const {
  MutexLock lock(&mutex_);
  return published_encoder_;
}

void StoreEntry::SetPublishedEncoder(std::shared_ptr<TextEncoder> encoder) {
  MutexLock lock(&mutex_);
  published_encoder_.swap(encoder);  // Dies after the lock.
}

bool StoreEntry::HasBuilds() const {
  MutexLock lock(&mutex_);
  return builder_count_ > 0;
}

std::optional<Switching> StoreEntry::switching() const {
  MutexLock lock(&mutex_);
  return switching_;
}

void StoreEntry::SetSwitching(std::optional<Switching> switching) {
  MutexLock lock(&mutex_);
  switching_ = std::move(switching);
}

std::shared_ptr<const ServingSet> StoreEntry::ForgetGeneration(const std::string& generation) {
  {
    MutexLock lock(&mutex_);
    states_.erase(generation);
    known_.erase(generation);
  }
  return TakeOpened(generation);
}

std::shared_ptr<const ServingSet> StoreEntry::TakeOpened(const std::string& generation) {
  MutexLock lock(&mutex_);
  const auto found = std::find_if(opened_.begin(), opened_.end(), [&](const auto& opened) { return opened.first == generation; });
  if (found == opened_.end()) return nullptr;
  std::shared_ptr<const ServingSet> serving_set = std::move(found->second);
  opened_.erase(found);
  return serving_set;
}

std::shared_ptr<const ServingSet> StoreEntry::FindOpened(std::string_view generation) const {
  MutexLock lock(&mutex_);
  for (const auto& [id, serving_set] : opened_) {
    if (id == generation) return serving_set;
  }
  return nullptr;
}

void StoreEntry::ReplaceOpened(const std::shared_ptr<const ServingSet>& opened, std::shared_ptr<const ServingSet> next) {
  MutexLock lock(&mutex_);
  for (auto& [id, serving_set] : opened_) {
    if (serving_set != opened) continue;
    serving_set.swap(next);  // Dies after the lock.
    return;
  }
}

std::shared_ptr<const ServingSet> StoreEntry::KeepOpened(std::string generation, std::shared_ptr<const ServingSet> serving_set, size_t limit) {
  MutexLock lock(&mutex_);
  std::shared_ptr<const ServingSet> dropped;
  if (opened_.size() >= limit) {
    dropped = std::move(opened_.front().second);
    opened_.erase(opened_.begin());
  }
  opened_.emplace_back(std::move(generation), std::move(serving_set));
  return dropped;
}

std::shared_ptr<const ServingSet> StoreEntry::TakeOldestOpened() {
  MutexLock lock(&mutex_);
  if (opened_.empty()) return nullptr;
  std::shared_ptr<const ServingSet> oldest = std::move(opened_.front().second);
  opened_.erase(opened_.begin());
  return oldest;
}

absl::StatusOr<std::unique_ptr<GenerationBuilder>> HeldBuilder::Create(std::shared_ptr<StoreEntry> entry, BuildOptions options) {
  std::shared_ptr<Store> store;
  {
    MutexLock lock(&entry->mutex_);
    if (entry->store_ == nullptr) return entry->open_error_.ok() ? StoreNotFound(entry->name) : entry->open_error_;
    store = entry->store_;
    ++entry->builder_count_;
  }
  std::unique_ptr<HeldBuilder> held(new HeldBuilder(std::move(entry)));
  LOCI_ASSIGN_OR_RETURN(held->builder_, store->NewGeneration(std::move(options)));
  return std::unique_ptr<GenerationBuilder>(std::move(held));
}

HeldBuilder::~HeldBuilder() {
  builder_.reset();
  MutexLock lock(&entry_->mutex_);
  --entry_->builder_count_;
}

}  // namespace loci
