#include "retriever/encoder_pace.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/clock.h"
#include "base/status_macros.h"

namespace loci {
namespace {

constexpr int64_t kMaxYieldUs = 200'000;  // For each go.
constexpr std::chrono::milliseconds kYieldPause(2);
constexpr int64_t kPausePieceUs = 50'000;  // A cancellation is looked for so often.

}  // namespace

absl::StatusOr<bool> EncoderPace::Yield() const {
  bool others = false;
  for (const int64_t until_us = RealClock().NowMicros() + kMaxYieldUs; RealClock().NowMicros() < until_us;) {
    LOCI_RETURN_IF_ERROR(limits_.Check(RealClock().NowMicros()));
    bool busy = false;
    for (const std::shared_ptr<TextEncoder>& encoder : encoders_.Loaded()) {
      busy = busy || (encoder != encoder_ && encoder->BacklogMicros() > 0);
    }
    if (!busy) break;
    others = true;
    std::this_thread::sleep_for(kYieldPause);
  }
  return others;
}

absl::Status EncoderPace::Pause(int64_t busy_us) const {
  int64_t duration_us = static_cast<int64_t>(static_cast<double>(busy_us) * (1 / max_share_ - 1));
  while (duration_us > 0) {
    LOCI_RETURN_IF_ERROR(limits_.Check(RealClock().NowMicros()));
    const int64_t piece_us = std::min(duration_us, kPausePieceUs);
    std::this_thread::sleep_for(std::chrono::microseconds(piece_us));
    duration_us -= piece_us;
  }
  return absl::OkStatus();
}

}  // namespace loci
