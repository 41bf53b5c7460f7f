// Texts of passages through an encoder, for work in bulk: hours of it do not end because other clients' work fills the encoder's queue for a while.
//
//   const auto start = [&] { return StartEncoding(encoder, texts, limits); };
//   std::future<absl::StatusOr<EncodedTexts>> encoded = start();
//   ... others, meanwhile ...
//   LOCI_ASSIGN_OR_RETURN(const EncodedTexts result, FinishEncoding(std::move(encoded), start, [&] { return limits.Check(now_us); }));
#ifndef LOCI_RETRIEVER_BULK_ENCODING_H_
#define LOCI_RETRIEVER_BULK_ENCODING_H_

#include <functional>
#include <future>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "encoder/text_encoder.h"

namespace loci {

// TextEncoder::Encode in the PASSAGE role. Tokenizes on the calling thread.
std::future<absl::StatusOr<EncodedTexts>> StartEncoding(TextEncoder& encoder, const std::vector<std::string>& texts, const RequestLimits& limits);

// What `encoded` comes to. Where that is RESOURCE_EXHAUSTED, `again` is waited for after a pause, as often as that is so; the error of `check`, which is
// asked before each pause, ends it. Blocks.
absl::StatusOr<EncodedTexts> FinishEncoding(std::future<absl::StatusOr<EncodedTexts>> encoded,
                                            const std::function<std::future<absl::StatusOr<EncodedTexts>>()>& again,
                                            const std::function<absl::Status()>& check);

}  // namespace loci

#endif  // LOCI_RETRIEVER_BULK_ENCODING_H_
