#include "retriever/write_encoder.h"

#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "retriever/bulk_encoding.h"

namespace loci {
namespace {

// That are encoded, and then written, together.
constexpr size_t kBatchPassages = 64;
// So few requests are looked at while writers wait.
constexpr int64_t kFewRequests = 16;
constexpr int kMaxRounds = 16;

}  // namespace

absl::StatusOr<std::vector<float>> WriteEncoder::Encode(const std::vector<loci::v1::Passage>& passages) const {
  std::vector<std::string> texts;
  texts.reserve(passages.size());
  for (const loci::v1::Passage& passage : passages) texts.push_back(PassageText(passage.title(), passage.text()));
  const RequestLimits& limits = options_.control->limits;
  const auto check = [&] { return limits.Check(options_.clock->NowMicros()); };
  const auto start = [&] { return StartEncoding(*options_.encoder, texts, limits); };
  LOCI_RETURN_IF_ERROR(check());
  LOCI_ASSIGN_OR_RETURN(EncodedTexts encoded, FinishEncoding(start(), start, check));
  return std::move(encoded.vectors);
}

absl::Status WriteEncoder::EncodeAt(const std::vector<WritePlace>& places) {
  const int64_t total = encoded_count_ + static_cast<int64_t>(places.size());
  for (size_t first = 0; first < places.size(); first += kBatchPassages) {
    if (options_.control->progress) options_.control->progress("encoding", encoded_count_, total);
    const std::span<const WritePlace> batch = std::span(places).subspan(first, std::min(kBatchPassages, places.size() - first));
    std::vector<loci::v1::Passage> passages;
    {
      LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> store, options_.entry->GetStore());
      LOCI_ASSIGN_OR_RETURN(passages, store->ReadUpserts(batch));
    }
    LOCI_ASSIGN_OR_RETURN(const std::vector<float> vectors, Encode(passages));
    MutexLock writer(&options_.entry->writer);
    LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> store, options_.entry->GetStore());
    LOCI_RETURN_IF_ERROR(store->AddVectors(*options_.generation, batch, vectors.data(), options_.encoder->precision()));
    encoded_count_ += static_cast<int64_t>(batch.size());
  }
  return absl::OkStatus();
}

absl::Status WriteEncoder::EncodeAhead() {
  std::vector<WritePlace> places;
  {
    LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> store, options_.entry->GetStore());
    LOCI_ASSIGN_OR_RETURN(places, store->FindUnencoded(*options_.generation, options_.after, store->revision(), /*all=*/false));
  }
  return EncodeAt(places);
}

absl::Status WriteEncoder::CatchUp() {
  for (int round = 0; round < kMaxRounds; ++round) {
    std::vector<WritePlace> places;
    int64_t now;
    {
      LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> store, options_.entry->GetStore());
      now = store->revision();
      if (begun_) {
        LOCI_ASSIGN_OR_RETURN(const int64_t left, store->CountRequests(upto_, now));
        if (round > 0 && left <= kFewRequests) return absl::OkStatus();
      }
      // What a later write replaces is never laid, but for writes that are laid one by one as they come.
      LOCI_ASSIGN_OR_RETURN(places, store->FindUnencoded(*options_.generation, begun_ ? upto_ : options_.after, now, /*all=*/begun_));
    }
    LOCI_RETURN_IF_ERROR(EncodeAt(places));
    upto_ = now;
    if (!std::exchange(begun_, true)) options_.entry->SetNextEncoder(options_.encoder);
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> WriteEncoder::IsCaughtUp() {
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<Store> store, options_.entry->GetStore());
  const int64_t now = store->revision();
  LOCI_ASSIGN_OR_RETURN(const std::vector<WritePlace> left, store->FindUnencoded(*options_.generation, upto_, now, /*all=*/true));
  return left.empty();
}

}  // namespace loci
