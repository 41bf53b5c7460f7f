// How fast work in bulk may use an encoder that others wait for.
//
//   LOCI_ASSIGN_OR_RETURN(const bool others, pace.Yield());
//   ... encode a few texts (kTurnBytes), for busy_us ...
//   if (others || pace.is_limited()) LOCI_RETURN_IF_ERROR(pace.Pause(busy_us));
#ifndef LOCI_RETRIEVER_ENCODER_PACE_H_
#define LOCI_RETRIEVER_ENCODER_PACE_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "encoder/text_encoder.h"
#include "retriever/encoder_registry.h"

namespace loci {

// Thread-compatible.
class EncoderPace {
 public:
  // Of texts that are encoded in one go where others may have to go first: about one batch.
  static constexpr size_t kTurnBytes = 4 << 10;

  // `max_share`: as ReembedOptions::max_encoder_share. `encoders` is borrowed.
  EncoderPace(const EncoderRegistry& encoders, std::shared_ptr<TextEncoder> encoder, double max_share, RequestLimits limits)
      : encoders_(encoders), encoder_(std::move(encoder)), max_share_(max_share), limits_(std::move(limits)) {}

  bool is_limited() const { return max_share_ < 1; }
  // Lets texts of other encoders, which the queue of this one knows nothing of, go first: for a while, since bulk work is slowed, not stopped. Whether
  // there were some. CANCELLED or DEADLINE_EXCEEDED by the limits, as Pause. Blocks.
  absl::StatusOr<bool> Yield() const;
  // After so long a time of encoding, of which nothing may be on its way any more.
  absl::Status Pause(int64_t busy_us) const;

 private:
  const EncoderRegistry& encoders_;
  const std::shared_ptr<TextEncoder> encoder_;
  const double max_share_;
  const RequestLimits limits_;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_ENCODER_PACE_H_
