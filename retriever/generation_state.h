// Where a generation stands in its life.
#ifndef LOCI_RETRIEVER_GENERATION_STATE_H_
#define LOCI_RETRIEVER_GENERATION_STATE_H_

namespace loci {

// LOADING -> VERIFYING -> WARMING -> READY -> SERVING -> DRAINING -> RETIRED, and any -> FAILED.
enum class GenerationState { kLoading, kVerifying, kWarming, kReady, kServing, kDraining, kRetired, kFailed };

}  // namespace loci

#endif  // LOCI_RETRIEVER_GENERATION_STATE_H_
