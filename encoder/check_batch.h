// What every encoder asks of a batch before it looks at it.
#ifndef LOCI_ENCODER_CHECK_BATCH_H_
#define LOCI_ENCODER_CHECK_BATCH_H_

#include "absl/status/status.h"
#include "encoder/types.h"

namespace loci {

// INVALID_ARGUMENT, naming sequence or token, where the offsets do not run from 0 to the last token, a sequence is empty or has more than
// `max_length` tokens, or an id is not in [0, vocabulary_size).
absl::Status CheckBatch(const PackedBatch& batch, int max_length, int vocabulary_size);

}  // namespace loci

#endif  // LOCI_ENCODER_CHECK_BATCH_H_
