// How near int8 is to float32 over what a store serves, and how fast either is: what an operator is shown before the store is set to int8.
//
//   LOCI_ASSIGN_OR_RETURN(const storage::EncoderFidelity fidelity, MeasureStoreFidelity(manager, "movies", 1'000, control));
#ifndef LOCI_RETRIEVER_STORE_FIDELITY_H_
#define LOCI_RETRIEVER_STORE_FIDELITY_H_

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/loci/storage/fidelity.pb.h"
#include "retriever/generation_manager.h"

namespace loci {

// FAILED_PRECONDITION: NO_ACTIVE_GENERATION; INT8_UNAVAILABLE; TOO_FEW_PASSAGES where the store serves fewer than kMinFidelityTexts (encoder/fidelity.h).
// RESOURCE_EXHAUSTED, reason MEMORY with `needed_bytes` and `available_bytes`, where this machine has no room now for the towers that are loaded to
// measure. Loads nothing.
absl::Status CheckStoreFidelity(GenerationManager& manager, std::string_view store);

// Measures (MeasureFidelity) with `sample_count` passages, kMinFidelityTexts to kMaxFidelityTexts, of what the store serves, writes included, or with all
// where there are fewer; the same ones of the same generation and revision. What was found becomes StoreInfo::int8_fidelity, once it is whole; after
// an error that is what it was.
//
// It is nobody's hindrance: the passage tower is loaded once more in float32, in what the registry's encoders compute in and in int8, so that no
// batcher is in between, and works on the calling thread alone; before each of its batches of 16 passages texts that wait for encoders go first
// (EncoderPace). Memory is looked at again before each is loaded. What serves is held while the sample is read, not longer.
//
// Phases "sampling", "encoding" and "comparing" (passages). Errors as CheckStoreFidelity, WithEncoder, EncoderRegistry::LoadPassageTower and of reading;
// CANCELLED and DEADLINE_EXCEEDED by the limits; NOT_FOUND where the store was deleted meanwhile. Blocks.
absl::StatusOr<storage::EncoderFidelity> MeasureStoreFidelity(GenerationManager& manager, std::string_view store, int64_t sample_count,
                                                              const OperationControl& control);

}  // namespace loci

#endif  // LOCI_RETRIEVER_STORE_FIDELITY_H_
