#include "retriever/hit_fetcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status_macros.h"

namespace loci {

absl::Status HitFetcher::Add(int64_t size_bytes) {
  reply_bytes_ += size_bytes;
  if (reply_bytes_ <= options_.max_reply_bytes) return absl::OkStatus();
  return ErrorWithReason(
      absl::InvalidArgumentError(absl::StrCat("the reply would have more than ", options_.max_reply_bytes, " bytes; ask for less at once")),
      "REPLY_TOO_LARGE", {{"field", "top_k"}, {"limit_bytes", absl::StrCat(options_.max_reply_bytes)}});
}

absl::Status HitFetcher::Fetch(std::span<ViewHit> hits, const Take& take) {
  constexpr size_t kPiece = 64;
  for (size_t first = 0; first < hits.size(); first += kPiece) {
    LOCI_RETURN_IF_ERROR(options_.limits.Check(options_.clock->NowMicros()));
    const std::span<ViewHit> piece = hits.subspan(first, std::min(kPiece, hits.size() - first));
    std::vector<loci::v1::Passage> passages;
    if (options_.include_text) {
      std::vector<ViewRow> rows;
      for (const ViewHit& hit : piece) rows.push_back(hit.row);
      LOCI_RETURN_IF_ERROR(view_.Read(rows, &passages));
    }
    int64_t bytes = 0;
    for (size_t i = 0; i < piece.size(); ++i) {
      bytes += kHitFramingBytes + static_cast<int64_t>(piece[i].id.size() + sizeof(float));
      if (options_.include_text) bytes += kFieldFramingBytes + static_cast<int64_t>(passages[i].ByteSizeLong());
      std::vector<float> vector;
      if (options_.include_vectors) {
        vector.resize(static_cast<size_t>(view_.dim()));
        LOCI_RETURN_IF_ERROR(view_.CopyVector(piece[i].row, vector.data()));
        bytes += kVectorFramingBytes + static_cast<int64_t>(vector.size() * sizeof(float));
      }
      loci::v1::Passage none;
      take(piece[i], std::move(options_.include_text ? passages[i] : none), std::move(vector));
    }
    LOCI_RETURN_IF_ERROR(Add(bytes));
  }
  return absl::OkStatus();
}

}  // namespace loci
