#include "retriever/bulk_encoding.h"

#include <chrono>
#include <memory>
#include <thread>
#include <utility>

#include "base/status_macros.h"

namespace loci {
namespace {

constexpr std::chrono::milliseconds kOverloadPause(50);

}  // namespace

std::future<absl::StatusOr<EncodedTexts>> StartEncoding(TextEncoder& encoder, const std::vector<std::string>& texts, const RequestLimits& limits) {
  auto promise = std::make_shared<std::promise<absl::StatusOr<EncodedTexts>>>();
  encoder.Encode(texts, {.role = TextRole::kPassage, .limits = limits},
                 [promise](absl::StatusOr<EncodedTexts> encoded) { promise->set_value(std::move(encoded)); });
  return promise->get_future();
}

absl::StatusOr<EncodedTexts> FinishEncoding(std::future<absl::StatusOr<EncodedTexts>> encoded,
                                            const std::function<std::future<absl::StatusOr<EncodedTexts>>()>& again,
                                            const std::function<absl::Status()>& check) {
  absl::StatusOr<EncodedTexts> result = encoded.get();
  while (absl::IsResourceExhausted(result.status())) {
    LOCI_RETURN_IF_ERROR(check());
    std::this_thread::sleep_for(kOverloadPause);
    result = again().get();
  }
  return result;
}

}  // namespace loci
