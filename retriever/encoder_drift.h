// What drifted most is encoded first: how far another encoder is from the vectors that a view serves, and a store's EncodingJournal filled in that order.
//
//   LOCI_ASSIGN_OR_RETURN(const DriftFirstResult result, EncodeDriftFirst(manager, *view, {.store = "movies", .encoder = encoder}, control));
//   ... Reembed(manager, {.store = "movies", .encoder = encoder}, control) ...       // Takes all of it over.
#ifndef LOCI_RETRIEVER_ENCODER_DRIFT_H_
#define LOCI_RETRIEVER_ENCODER_DRIFT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "encoder/text_encoder.h"
#include "index/view.h"
#include "retriever/encoder_drift_table.h"
#include "retriever/generation_manager.h"

namespace loci {

// 1 - cosine, from 0 to 2; 1 where one of them is zero. `a` and `b` are [dim].
double CosineDistance(const float* a, const float* b, int dim);

// What was measured of a block of passages.
struct BlockSample {
  int64_t count = 0;
  double sum = 0, sum_of_squares = 0;
  void Add(double value);
};
// An estimate of each block's mean: its sample's, drawn to the mean of all the more the less of the scatter between blocks is more than the
// scatter within them explains. (The best linear prediction in a one-way model with random effects, its variances from the analysis of variance: Searle,
// Casella and McCulloch, Variance Components, 1992.) A block without a sample has the mean of all.
std::vector<double> ShrunkMeans(std::span<const BlockSample> blocks);

struct DriftFirstOptions {
  std::string store;
  std::shared_ptr<TextEncoder> encoder;  // Of the dimension of the view's vectors.
  double max_encoder_share = 1;          // As ReembedOptions.
  // Of the whole store: so many passages, or an eighth of those that are there, whichever are fewer, but not fewer than 64.
  int64_t sample_count = 1'024;
  uint64_t seed = 0;
  // Told what the first sample says, and in the end what all passages say, where all were encoded. May be null.
  std::function<void(const EncoderDrift&)> measured;
  std::function<absl::Status()> check;  // Called every few passages; its error ends it. May be null.
};

struct DriftFirstResult {
  EncoderDrift drift;         // What was told last.
  int64_t encoded_count = 0;  // Passages, by the encoder,
  int64_t reused_count = 0;   // and found in the journal.
};

// The view's rows, the body's and then the overlay's, lie in at most 1,024 blocks of as many rows, 64 at least. Encodes, into the journal,
//   1. a seeded sample, drawn from all passages alike: the mean of their distances from what is served is the drift that is told;
//   2. of each block as many more, drawn as well, as that 4 of it are sampled: see ShrunkMeans;
//   3. the blocks, whole, from the one of the largest estimate on; of equal ones that with the lower rows.
// Rows are in the order of ids: blocks drift apart where ids that begin alike are of a kind. Nothing is encoded twice, but a text that several
// passages have; the same view, encoder and seed have the same order, and what the journal has is not encoded again. A journal that takes no more
// (see EncodingJournal) ends the third, well: Reembed encodes the rest. What another
// passage half has left in the journal is deleted. A vector of the view that is damaged counts in no figure.
// Memory: 8 bytes for each 64th row, or 2 MB, and what is on its way.
//
// Phases "sampling" (1. and 2.) and "encoding" (all of it). Errors of View::Read, of the encoder, but that what is overloaded is tried again, and of
// `check`; CANCELLED and DEADLINE_EXCEEDED by the limits. Blocks. The journal is this call's meanwhile.
absl::StatusOr<DriftFirstResult> EncodeDriftFirst(GenerationManager& manager, const View& view, const DriftFirstOptions& options,
                                                  const OperationControl& control);

}  // namespace loci

#endif  // LOCI_RETRIEVER_ENCODER_DRIFT_H_
