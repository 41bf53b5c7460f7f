// Hits with what a reply needs of them: texts and vectors.
//
//   HitFetcher fetcher(view, {.include_text = true, .max_reply_bytes = 64 << 20, .limits = limits});
//   LOCI_RETURN_IF_ERROR(fetcher.Fetch(hits, [&](ViewHit& hit, loci::v1::Passage&& passage, std::vector<float>&& vector) { ... }));
#ifndef LOCI_RETRIEVER_HIT_FETCHER_H_
#define LOCI_RETRIEVER_HIT_FETCHER_H_

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/cancellation.h"
#include "base/clock.h"
#include "index/view.h"

namespace loci {

// What a reply has beside the bytes of ids, scores, texts and numbers, at most: tags, lengths, and the shape of a matrix.
inline constexpr int64_t kFieldFramingBytes = 6;
inline constexpr int64_t kHitFramingBytes = 16;
inline constexpr int64_t kVectorFramingBytes = 24;

// Of one reply. Used by one thread at a time.
class HitFetcher {
 public:
  struct Options {
    bool include_text = false;
    bool include_vectors = false;
    int64_t max_reply_bytes = 64 << 20;  // Of all that is fetched, as a message has it, and what Add told.
    RequestLimits limits;
    Clock* clock = &RealClock();  // Borrowed.
  };
  // May take the id out of the hit. The passage is empty without include_text, the vector without include_vectors.
  using Take = std::function<void(ViewHit& hit, loci::v1::Passage&& passage, std::vector<float>&& vector)>;

  HitFetcher(const View& view, Options options) : view_(view), options_(std::move(options)) {}  // `view` is borrowed.

  // `hits` are of the view; `take` gets each, in order. In pieces, so that neither a reply that can't be sent nor one that nobody waits for is
  // gathered: INVALID_ARGUMENT, reason REPLY_TOO_LARGE with `field` "top_k" and `limit_bytes`; CANCELLED, DEADLINE_EXCEEDED; errors of View::Read.
  absl::Status Fetch(std::span<ViewHit> hits, const Take& take);
  // The reply will have so many bytes more. REPLY_TOO_LARGE as above.
  absl::Status Add(int64_t size_bytes);

 private:
  const View& view_;
  const Options options_;
  int64_t reply_bytes_ = 0;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_HIT_FETCHER_H_
