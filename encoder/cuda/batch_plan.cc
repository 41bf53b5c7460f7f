#include "encoder/cuda/batch_plan.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "encoder/cuda/attention_bodies.h"
#include "encoder/cuda/device_batch.h"
#include "encoder/cuda/pooling_body.h"

namespace loci::cuda {
namespace {

constexpr int32_t kLeastRows = 1024;
constexpr int kStagingSlots = 2;

int64_t Mebibytes(int64_t bytes) { return (bytes + (1 << 20) - 1) >> 20; }

}  // namespace

std::vector<int32_t> RowBuckets(int32_t max_rows) {
  std::vector<int32_t> buckets = {16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024};
  while (!buckets.empty() && buckets.back() > max_rows) buckets.pop_back();
  for (int32_t rows = 1280; rows <= max_rows; rows += rows < 4096 ? 256 : 512) buckets.push_back(rows);
  if (buckets.empty() || buckets.back() != max_rows) buckets.push_back(max_rows);
  return buckets;
}

int32_t BucketOf(const std::vector<int32_t>& buckets, int32_t rows) {
  return *std::lower_bound(buckets.begin(), buckets.end(), rows);
}

Chunk NextChunk(const PackedBatch& batch, int64_t first_sequence, int32_t max_tokens, int32_t max_sequences) {
  Chunk chunk = {.first_sequence = first_sequence};
  const int64_t count = batch.sequence_count();
  const int32_t begin = batch.offsets[static_cast<size_t>(first_sequence)];
  for (int64_t s = first_sequence; s < count && chunk.sequence_count < max_sequences; ++s) {
    const int32_t tokens = batch.offsets[static_cast<size_t>(s) + 1] - begin;
    if (tokens > max_tokens) break;
    ++chunk.sequence_count;
    chunk.token_count = tokens;
  }
  return chunk;
}

int32_t MaxTiles(int32_t tokens, int32_t sequences) { return std::min(tokens, tokens / kTileRows + sequences); }

int64_t MaxDeviceBatchInts(int32_t max_tokens, int32_t max_sequences) {
  return kDeviceBatchHeaderInts + (max_sequences + 1) + 2 * static_cast<int64_t>(max_tokens) +
         2 * static_cast<int64_t>(MaxTiles(max_tokens, max_sequences));
}

int64_t WriteDeviceBatch(const PackedBatch& batch, const Chunk& chunk, int32_t* to, int32_t* tile_count) {
  const int32_t* const from = batch.offsets.data() + chunk.first_sequence;
  DeviceBatchHeader header = {};
  header.token_count = chunk.token_count;
  header.sequence_count = chunk.sequence_count;
  header.offsets_at = kDeviceBatchHeaderInts;
  header.ids_at = header.offsets_at + chunk.sequence_count + 1;
  header.positions_at = header.ids_at + chunk.token_count;
  header.tiles_at = header.positions_at + chunk.token_count;
  for (int32_t s = 0; s <= chunk.sequence_count; ++s) to[header.offsets_at + s] = from[s] - from[0];
  std::copy_n(batch.token_ids.data() + from[0], chunk.token_count, to + header.ids_at);
  int32_t* position = to + header.positions_at;
  int32_t* tile = to + header.tiles_at;
  for (int32_t s = 0; s < chunk.sequence_count; ++s) {
    const int32_t length = from[s + 1] - from[s];
    for (int32_t i = 0; i < length; ++i) *position++ = i;
    for (int32_t row = 0; row < length; row += kTileRows) {
      *tile++ = s;
      *tile++ = row;
    }
  }
  const int64_t end = tile - to;
  header.tile_count = static_cast<int32_t>((end - header.tiles_at) / 2);
  *reinterpret_cast<DeviceBatchHeader*>(to) = header;
  *tile_count = header.tile_count;
  return end;
}

int64_t WeightBytes(const EncoderShape& shape, ElementType type) {
  const int64_t size = static_cast<int64_t>(ElementSize(type)), dim = shape.dim, inner = shape.intermediate_size;
  const auto weights = [size](int64_t count) { return AlignDevice(count * size); };
  const int64_t norm = 2 * AlignDevice(dim * 4);
  const int64_t embeddings = weights(shape.vocabulary_size * dim) + weights(shape.max_positions * dim) + weights(dim) + norm;
  const int64_t layer = weights(3 * dim * dim) + weights(3 * dim) + weights(dim * dim) + weights(dim) + weights(inner * dim) +
                        weights(inner) + weights(dim * inner) + weights(dim) + 2 * norm;
  return embeddings + shape.layer_count * layer;
}

LaneLayout LayOutLane(const EncoderShape& shape, ElementType type, int32_t max_rows, int32_t max_sequences) {
  const int64_t row = static_cast<int64_t>(max_rows) * static_cast<int64_t>(ElementSize(type));
  LaneLayout layout;
  int64_t at = 0;
  const auto take = [&at](int64_t bytes) {
    const int64_t begin = at;
    at += AlignDevice(bytes);
    return begin;
  };
  layout.batch = take(4 * MaxDeviceBatchInts(max_rows, max_sequences));
  layout.hidden = take(row * shape.dim);
  layout.qkv = take(3 * row * shape.dim);
  layout.context = take(row * shape.dim);
  layout.sum = take(row * shape.dim);
  layout.intermediate = take(row * shape.intermediate_size);
  layout.output = take(4 * static_cast<int64_t>(max_sequences) * shape.dim);
  layout.total = at;
  return layout;
}

absl::StatusOr<MemoryPlan> PlanMemory(const EncoderShape& shape, ElementType type, int64_t free_bytes,
                                      const MemoryLimits& limits) {
  if (type != ElementType::kFloat32 && type != ElementType::kFloat16 && type != ElementType::kBfloat16) {
    return absl::FailedPreconditionError(
        absl::StrCat("the CUDA encoder computes in float32, float16 and bfloat16, not in ", std::string(ElementTypeName(type))));
  }
  if (shape.dim % 8 != 0 || shape.intermediate_size % 8 != 0 || shape.dim > kMaxPoolingDim) {
    return absl::FailedPreconditionError(absl::StrCat("the CUDA encoder takes rows that are multiples of 8 and at most ",
                                                      kMaxPoolingDim, ", not ", shape.dim, " and ", shape.intermediate_size));
  }
  if (shape.max_length > kMaxAttentionLength) {
    return absl::FailedPreconditionError(absl::StrCat("the CUDA encoder takes sequences of at most ", kMaxAttentionLength,
                                                      " tokens, the checkpoint has ", shape.max_length));
  }
  const int32_t least = std::min(kLeastRows, limits.max_rows);
  MemoryPlan plan = {.max_rows = limits.max_rows, .max_sequences = limits.max_sequences, .lanes = limits.lanes};
  plan.weight_bytes = WeightBytes(shape, type);
  for (;;) {
    plan.max_sequences = std::min(plan.max_sequences, plan.max_rows);
    plan.lane_bytes = LayOutLane(shape, type, plan.max_rows, plan.max_sequences).total;
    plan.pinned_bytes = kStagingSlots * (AlignDevice(4 * MaxDeviceBatchInts(plan.max_rows, plan.max_sequences)) +
                                         AlignDevice(4 * static_cast<int64_t>(plan.max_sequences) * shape.dim));
    if (plan.device_bytes() + limits.reserve_bytes <= free_bytes) return plan;
    if (plan.max_rows / 2 >= least) {
      plan.max_rows /= 2;
    } else if (plan.lanes > 1) {
      --plan.lanes;
    } else {
      break;
    }
  }
  return absl::FailedPreconditionError(absl::StrCat("the encoder needs ", Mebibytes(plan.device_bytes() + limits.reserve_bytes),
                                                    " MiB of device memory (weights ", Mebibytes(plan.weight_bytes),
                                                    ", workspace ", Mebibytes(plan.lane_bytes), ", reserve ",
                                                    Mebibytes(limits.reserve_bytes), "), ", free_bytes >> 20, " MiB are free"));
}

}  // namespace loci::cuda
