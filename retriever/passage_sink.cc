#include "retriever/passage_sink.h"

#include <chrono>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/status_macros.h"

namespace loci {
namespace {

// Batches that are being encoded while the next ones are read: enough that the encoder never waits for the stream.
constexpr size_t kMaxPendingBatches = 4;
constexpr std::chrono::milliseconds kOverloadPause(50);

}  // namespace

PassageSink::PassageSink(Options options) : options_(std::move(options)) {}

PassageSink::~PassageSink() {
  if (pending_.empty()) return;
  options_.limits.Cancel();
  for (Pending& pending : pending_) pending.encoded.wait();
}

absl::Status PassageSink::Take(std::vector<loci::v1::Passage> passages, const float* vectors) {
  if (passages.empty()) return absl::OkStatus();
  if (options_.builder == nullptr) return Upsert(std::move(passages), vectors);
  if (vectors != nullptr) {
    LOCI_RETURN_IF_ERROR(Flush());  // The last of several with one id stays.
    return options_.builder->Add(passages, vectors);
  }
  while (pending_.size() >= kMaxPendingBatches) LOCI_RETURN_IF_ERROR(FinishOldest());
  std::future<absl::StatusOr<EncodedTexts>> encoded = StartEncoding(passages);
  pending_.push_back({std::move(passages), std::move(encoded)});
  return absl::OkStatus();
}

absl::Status PassageSink::Flush() {
  while (!pending_.empty()) LOCI_RETURN_IF_ERROR(FinishOldest());
  return absl::OkStatus();
}

absl::Status PassageSink::Remove(const std::vector<std::string>& ids) {
  LOCI_RETURN_IF_ERROR(Flush());
  if (ids.empty()) return absl::OkStatus();
  if (options_.builder != nullptr) return options_.builder->Remove(ids);
  LOCI_ASSIGN_OR_RETURN(const DeleteResult deleted, options_.manager->Delete(options_.store, ids));
  revision_ = deleted.revision;
  return absl::OkStatus();
}

absl::Status PassageSink::Upsert(std::vector<loci::v1::Passage> passages, const float* vectors) {
  const int64_t count = static_cast<int64_t>(passages.size());
  absl::StatusOr<UpsertResult> upserted =
      vectors == nullptr ? options_.manager->Upsert(options_.store, std::move(passages), options_.limits)
                         : options_.manager->UpsertVectors(options_.store, std::move(passages), vectors, options_.encoder->spec().dim,
                                                           options_.encoder->spec().fingerprint.passage);
  LOCI_RETURN_IF_ERROR(upserted.status());
  generation_ = upserted->generation;
  revision_ = upserted->revision;
  upserted_count_ += count;
  return absl::OkStatus();
}

std::future<absl::StatusOr<EncodedTexts>> PassageSink::StartEncoding(const std::vector<loci::v1::Passage>& passages) const {
  std::vector<std::string> texts;
  texts.reserve(passages.size());
  for (const loci::v1::Passage& passage : passages) texts.push_back(PassageText(passage.title(), passage.text()));
  auto promise = std::make_shared<std::promise<absl::StatusOr<EncodedTexts>>>();
  options_.encoder->Encode(texts, {.role = TextRole::kPassage, .limits = options_.limits},
                           [promise](absl::StatusOr<EncodedTexts> encoded) { promise->set_value(std::move(encoded)); });
  return promise->get_future();
}

absl::Status PassageSink::FinishOldest() {
  Pending oldest = std::move(pending_.front());
  pending_.pop_front();
  absl::StatusOr<EncodedTexts> encoded = oldest.encoded.get();
  // Other clients' work may fill the encoder's queue for a while; hours of ingest do not end for that.
  while (absl::IsResourceExhausted(encoded.status())) {
    LOCI_RETURN_IF_ERROR(options_.limits.Check(RealClock().NowMicros()));
    std::this_thread::sleep_for(kOverloadPause);
    encoded = StartEncoding(oldest.passages).get();
  }
  LOCI_RETURN_IF_ERROR(encoded.status());
  return options_.builder->Add(oldest.passages, encoded->vectors.data());
}

}  // namespace loci
