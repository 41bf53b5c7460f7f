#include "index/faiss_limits.h"

#include <faiss/impl/AuxIndexStructures.h>

#include <memory>
#include <mutex>

#include "base/clock.h"

namespace loci {
namespace {

thread_local const RequestLimits* current_limits = nullptr;

// FAISS has one for the whole process.
class AskCurrentLimits : public faiss::InterruptCallback {
 public:
  bool want_interrupt() override { return FaissLimitsEnded(); }
};

}  // namespace

void InstallFaissLimits() {
  static std::once_flag once;
  std::call_once(once, [] { faiss::InterruptCallback::instance = std::make_unique<AskCurrentLimits>(); });
}

bool FaissLimitsEnded() { return current_limits != nullptr && !current_limits->Check(RealClock().NowMicros()).ok(); }

ScopedFaissLimits::ScopedFaissLimits(const RequestLimits& limits) : outer_(current_limits) {
  InstallFaissLimits();
  current_limits = &limits;
}

ScopedFaissLimits::~ScopedFaissLimits() { current_limits = outer_; }

}  // namespace loci
