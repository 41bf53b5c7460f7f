#include "retriever/search_placement.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/background_thread.h"
#include "base/logging.h"
#include "base/strings.h"
#include "index/index_specification.h"

namespace loci {
namespace {

std::string Describe(const Generation& generation) {
  return absl::StrCat("store=", generation.manifest().store(), " generation=", generation.id(), " ");
}

}  // namespace

SearchPlacement::SearchPlacement(Options options) : options_(std::move(options)) {
  if (options_.placer != nullptr) pool_ = std::make_unique<ThreadPool>("loci-place", 1, 1);
}

SearchPlacement::~SearchPlacement() { Close(); }

bool SearchPlacement::IsMeant(const Generation& generation) const {
  return IsMeant(generation.manifest());
}

bool SearchPlacement::IsMeant(const storage::Manifest& manifest) const {
  return options_.placer != nullptr && manifest.index() == kExactIndex && options_.placer->IsFor(manifest.vector_count(), manifest.dim());
}

int64_t SearchPlacement::HostBytes(const storage::Manifest& manifest) const {
  return IsMeant(manifest) ? options_.placer->host_bytes(manifest.vector_count(), manifest.dim()) : 0;
}

absl::Status SearchPlacement::Bring(const Generation& generation, const std::function<absl::Status(int64_t done_rows)>& progress) {
  const PlacedExactIndex& exact = generation.exact_index();
  if (closing_ || !IsMeant(generation) || exact.device() != nullptr) return absl::OkStatus();
  bool ended = false;
  absl::StatusOr<std::shared_ptr<const DeviceExactIndex>> index =
      options_.placer->Place(generation.shared_vectors(), generation.shared_codes(), exact.cpu(), [&](int64_t done_rows) {
        ended = closing_;
        if (ended) return absl::CancelledError("the server is stopping");
        return progress == nullptr ? absl::OkStatus() : progress(done_rows);
      });
  if (ended && absl::IsCancelled(index.status())) return absl::OkStatus();
  if (index.ok()) {
    LogInfo("search_placement", absl::StrCat(Describe(generation), "rows=", generation.row_count(), " are searched exactly on ",
                                             options_.placer->device(), ", device_bytes=", (*index)->device_bytes()));
    exact.SetDevice(*std::move(index));
    return absl::OkStatus();
  }
  const absl::Status& why = index.status();
  if (!absl::IsResourceExhausted(why) && !absl::IsFailedPrecondition(why)) return why;
  Refuse(generation, why);
  return absl::OkStatus();
}

void SearchPlacement::Refuse(const Generation& generation, const absl::Status& why) {
  const PlacedExactIndex& exact = generation.exact_index();
  // One that waits is told once.
  if (exact.refusal().code() != why.code()) LogWarning("search_placement", absl::StrCat(Describe(generation), Tell(why)));
  exact.SetRefusal(why);
}

std::string SearchPlacement::Tell(const absl::Status& refusal) const {
  if (refusal.ok()) return "";
  return absl::StrCat("exact search runs on the CPU, not on ", options_.placer->device(),
                      absl::IsResourceExhausted(refusal) ? ", until there is room: " : ": ", refusal.message());
}

void SearchPlacement::TakeAway(const Generation& generation) {
  if (options_.placer == nullptr) return;
  const PlacedExactIndex& exact = generation.exact_index();
  exact.SetRefusal(absl::OkStatus());  // It waits for nothing any more.
  // Who holds it still is not to find a failure hidden by the CPU.
  if (!options_.placer->health().Check().ok()) return;
  std::shared_ptr<const DeviceExactIndex> taken = exact.SetDevice(nullptr);
  if (taken != nullptr) options_.drainer->Add(std::move(taken), [this] { Wake(); });
}

void SearchPlacement::Wake() {
  if (pool_ == nullptr || woken_.exchange(true)) return;
  // Full: there is one that has not begun.
  (void)pool_->TrySubmit([this] {
    woken_ = false;
    PlaceWaiting();
  });
}

bool SearchPlacement::IsServing(const Generation& generation) const {
  const std::vector<std::weak_ptr<const Generation>> serving = options_.serving();
  return std::any_of(serving.begin(), serving.end(), [&](const auto& other) { return other.lock().get() == &generation; });
}

void SearchPlacement::PlaceWaiting() {
  for (const std::weak_ptr<const Generation>& each : options_.serving()) {
    const std::shared_ptr<const Generation> generation = each.lock();
    if (closing_ || generation == nullptr || !IsMeant(*generation)) continue;
    const PlacedExactIndex& exact = generation->exact_index();
    // What was refused for another reason than room is refused again.
    if (exact.device() != nullptr || !(exact.refusal().ok() || absl::IsResourceExhausted(exact.refusal()))) continue;
    absl::Status status;
    RunInBackground("loci-place", [&] {
      status = Bring(*generation, [&](int64_t) {
        // Who replaces it may wait until nobody holds it.
        return IsServing(*generation) ? absl::OkStatus() : absl::CancelledError("it does not serve any more");
      });
    });
    // Its vectors can't be read, say: nobody waits for an answer, so that it is told as a refusal is.
    if (!status.ok() && !absl::IsCancelled(status)) Refuse(*generation, status);
    // Whoever replaces it takes it away, but may have done so before it was there.
    if (!IsServing(*generation)) TakeAway(*generation);
  }
}

}  // namespace loci
