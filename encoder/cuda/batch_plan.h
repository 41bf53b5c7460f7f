// How batches are laid out for a device: chunks, buckets of rows, the staged integers, the memory plan.
#ifndef LOCI_ENCODER_CUDA_BATCH_PLAN_H_
#define LOCI_ENCODER_CUDA_BATCH_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "base/vector_type.h"
#include "encoder/types.h"

namespace loci::cuda {

// The numbers of rows that kernels run with, ascending, the last one `max_rows`, which is a multiple of 256: a batch takes the least that
// holds it, so that only so many shapes are ever prepared. Above 32 rows at most a third of them is not the batch's.
std::vector<int32_t> RowBuckets(int32_t max_rows);

// The least of `buckets` that is >= rows, which is at most the last.
int32_t BucketOf(const std::vector<int32_t>& buckets, int32_t rows);

// Whole sequences in a row that run together.
struct Chunk {
  int64_t first_sequence = 0;
  int32_t sequence_count = 0;
  int32_t token_count = 0;
};

// The sequences from `first_sequence` on, as many as fit, at least one: no sequence has more than `max_tokens`.
Chunk NextChunk(const PackedBatch& batch, int64_t first_sequence, int32_t max_tokens, int32_t max_sequences);

// Integers that a chunk takes at most in the layout of device_batch.h.
int64_t MaxDeviceBatchInts(int32_t max_tokens, int32_t max_sequences);
// Tiles of a chunk at most.
int32_t MaxTiles(int32_t tokens, int32_t sequences);

// Writes the chunk to `to` and returns how many integers that were; `tile_count` gets its tiles.
int64_t WriteDeviceBatch(const PackedBatch& batch, const Chunk& chunk, int32_t* to, int32_t* tile_count);

// Of a BERT encoder.
struct EncoderShape {
  int dim = 0;
  int head_count = 0;
  int layer_count = 0;
  int intermediate_size = 0;
  int vocabulary_size = 0;
  int max_positions = 0;
  int max_length = 0;
};

struct MemoryLimits {
  int32_t max_rows = 16384;
  int32_t max_sequences = 2048;
  int lanes = 2;  // Batches under way at once.
  // Left to the context, to cuBLASLt's kernels and to others.
  int64_t reserve_bytes = 256 << 20;
};

struct MemoryPlan {
  int32_t max_rows = 0;  // Of a chunk.
  int32_t max_sequences = 0;
  int lanes = 0;
  int64_t weight_bytes = 0;
  int64_t lane_bytes = 0;    // Device memory of one lane.
  int64_t pinned_bytes = 0;  // Host memory of one lane.

  int64_t device_bytes() const { return weight_bytes + lanes * lane_bytes; }
};

// Bytes of the weights in device memory, each tensor beginning at a multiple of 256.
int64_t WeightBytes(const EncoderShape& shape, ElementType type);

// The largest plan within the limits that fits `free_bytes`, halving chunks down to 1024 rows, then lanes. FAILED_PRECONDITION with the
// figures where even the smallest does not fit, or where the kernels do not take the shape: dimensions that are no multiples of 8, rows
// above 1024, sequences above 512 tokens.
absl::StatusOr<MemoryPlan> PlanMemory(const EncoderShape& shape, ElementType type, int64_t free_bytes,
                                      const MemoryLimits& limits);

// A lane's buffers in bytes, in the order in which they lie: batch, hidden, qkv, context, sum, intermediate, output.
struct LaneLayout {
  int64_t batch, hidden, qkv, context, sum, intermediate, output, total;
};
LaneLayout LayOutLane(const EncoderShape& shape, ElementType type, int32_t max_rows, int32_t max_sequences);

inline constexpr int64_t AlignDevice(int64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace loci::cuda

#endif  // LOCI_ENCODER_CUDA_BATCH_PLAN_H_
