// How near an encoder's vectors are to another's of the same fingerprint, over real texts, and how much faster they come: what an operator
// is shown before int8 is allowed.
//
//   LOCI_ASSIGN_OR_RETURN(Fidelity fidelity, MeasureFidelity(*float32, *bfloat16, *int8, texts));
//   std::puts(FidelityTable(fidelity).c_str());
#ifndef LOCI_ENCODER_FIDELITY_H_
#define LOCI_ENCODER_FIDELITY_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "encoder/encoder.h"

namespace loci {

// The least number of texts: each has its nearest ten among the others, and must be able to miss one.
inline constexpr int64_t kMinFidelityTexts = 20;
// Beyond, comparing all with all takes long.
inline constexpr int64_t kMaxFidelityTexts = 10'000;
inline constexpr int64_t kDefaultFidelitySample = 1'000;
// Of what is drawn of more texts than are measured with: the same ones of the same texts.
inline constexpr uint64_t kFidelitySampleSeed = 20261122;

struct Fidelity {
  std::string fingerprint;  // QUERY:PASSAGE, of all three.
  std::string reference;    // Element types: of the truth,
  std::string peer;         // of what speed is compared with
  std::string candidate;    // and of what is judged.
  int64_t text_count = 0;
  int64_t token_count = 0;
  double cosine_mean = 0;  // Of a text's vectors by candidate and reference, in [-1, 1].
  double cosine_min = 0;
  // Of each text's nearest ten among the others, by inner product: the share that both find. In [0, 1].
  double top_10_overlap = 0;
  double peer_cosine_mean = 0;  // The same of peer and reference.
  double peer_cosine_min = 0;
  double peer_top_10_overlap = 0;
  double reference_tokens_per_s = 0;  // Of one thread's CPU time.
  double peer_tokens_per_s = 0;
  double candidate_tokens_per_s = 0;
};

// Called before each piece of work, with the texts that are done and all of them; the time it takes counts for nothing. Its error ends the measurement.
// Phases "encoding" and "comparing".
using FidelityStep = std::function<absl::Status(std::string_view phase, int64_t done, int64_t total)>;

// The ids of a text as a passage, special tokens included, cut at the encoder's length.
std::vector<int32_t> FidelityTokens(const Encoder& encoder, std::string_view text);

// Encodes `texts` as passages, cut at the encoder's length, on the calling thread alone where the encoders have no pool; the three take turns.
// `peer` may be `reference` itself, and is not encoded twice then. INVALID_ARGUMENT for another number of texts than kMinFidelityTexts to
// kMaxFidelityTexts; FAILED_PRECONDITION for encoders of different fingerprints. Blocks.
absl::StatusOr<Fidelity> MeasureFidelity(const Encoder& reference, const Encoder& peer, const Encoder& candidate,
                                         const std::vector<std::string>& texts);
// The same of texts in FidelityTokens. `step` may be null.
absl::StatusOr<Fidelity> MeasureFidelityOfTokens(const Encoder& reference, const Encoder& peer, const Encoder& candidate,
                                                 const std::vector<std::vector<int32_t>>& texts, const FidelityStep& step = nullptr);

// For people: what was measured with, a line for each precision, and how much faster `candidate` is.
std::string FidelityTable(const Fidelity& fidelity);
// For the record beside the encoder: one JSON object.
std::string FidelityJson(const Fidelity& fidelity);

}  // namespace loci

#endif  // LOCI_ENCODER_FIDELITY_H_
