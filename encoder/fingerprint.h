// Computes the two halves of a fingerprint (encoder/types.h).
#ifndef LOCI_ENCODER_FINGERPRINT_H_
#define LOCI_ENCODER_FINGERPRINT_H_

#include <string>
#include <string_view>

#include "encoder/kernels/op_types.h"
#include "encoder/types.h"

namespace loci {

// All that decides a vector. Where something is missing here, two vector spaces could share a fingerprint.
struct VectorSpace {
  std::string weights_sha256;    // Of model.safetensors, 64 hex digits.
  std::string architecture;      // What config.json says beyond the weights' shapes, e.g. "bert heads=12 epsilon=1e-12 gelu".
  std::string tokenizer_digest;  // Tokenizer::digest().
  Pooling pooling = Pooling::kMean;
  bool normalize = true;
  std::string query_prefix;
  std::string passage_prefix;
  int max_length = 0;
  int dim = 0;
};

// SHA-256 over the fields, each with its name and length before it; the first 16 hex digits. `served_passage_half` is the passage
// half whose vectors the query half may ask; empty: its own, which is what a checkpoint loaded as it is serves.
Fingerprint ComputeFingerprint(const VectorSpace& space, std::string_view served_passage_half = "");

std::string_view PoolingName(Pooling pooling);  // "mean", "cls", "max"

}  // namespace loci

#endif  // LOCI_ENCODER_FINGERPRINT_H_
