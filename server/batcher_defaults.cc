#include "server/batcher_defaults.h"

#include "encoder/cuda/batch_plan.h"

namespace loci {

BatcherOptions WithDefaults(BatcherOptions options, bool on_cuda) {
  if (options.max_batch_tokens == 0) options.max_batch_tokens = on_cuda ? kCudaBatchTokens : kCpuBatchTokens;
  if (options.worker_count == 0) options.worker_count = on_cuda ? cuda::MemoryLimits().lanes : 1;
  return options;
}

}  // namespace loci
