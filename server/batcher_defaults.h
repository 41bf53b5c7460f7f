// What the batchers of a server run with where nobody says, which depends on the device.
#ifndef LOCI_SERVER_BATCHER_DEFAULTS_H_
#define LOCI_SERVER_BATCHER_DEFAULTS_H_

#include <cstdint>

#include "encoder/batcher.h"

namespace loci {

// A CPU encodes a token of a batch of 40 tokens for what it takes in one of 4096, so that a batch need only be as large as all cores can share.
inline constexpr int64_t kCpuBatchTokens = 1024;
// A device is not filled by so few. Half an encoder's largest chunk (cuda::MemoryLimits), since nobody in a batch is answered before all of it is.
inline constexpr int64_t kCudaBatchTokens = 8192;

// `options` with those that are 0 filled in: max_batch_tokens with the constants above, worker_count with 1, or on a CUDA device with as many as an
// encoder has lanes, so that one batch is copied while another is computed.
BatcherOptions WithDefaults(BatcherOptions options, bool on_cuda);

}  // namespace loci

#endif  // LOCI_SERVER_BATCHER_DEFAULTS_H_
