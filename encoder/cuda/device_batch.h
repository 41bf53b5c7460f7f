// A packed batch as it lies in device memory: one block of 32-bit integers, written in one copy.
//
//   [header: 8][offsets: sequence_count + 1][ids: token_count][positions: token_count][tiles: 2 x tile_count]
//
// Kernels find the parts through the header, so that a captured graph serves any batch that fits its bucket.
#ifndef LOCI_ENCODER_CUDA_DEVICE_BATCH_H_
#define LOCI_ENCODER_CUDA_DEVICE_BATCH_H_

#include <cstdint>

namespace loci::cuda {

// Rows of queries that one block of the attention kernel takes.
inline constexpr int kTileRows = 64;

// Where the parts begin is counted in integers from the header's own beginning.
struct DeviceBatchHeader {
  int32_t token_count;
  int32_t sequence_count;
  int32_t tile_count;  // (sequence, first row within it), kTileRows rows each but a sequence's last.
  int32_t offsets_at;  // Sequence s has the rows offsets[s] .. offsets[s + 1] - 1.
  int32_t ids_at;
  int32_t positions_at;  // Of each token in its sequence.
  int32_t tiles_at;
  int32_t unused;
};
inline constexpr int kDeviceBatchHeaderInts = 8;
static_assert(sizeof(DeviceBatchHeader) == 4 * kDeviceBatchHeaderInts);

}  // namespace loci::cuda

#endif  // LOCI_ENCODER_CUDA_DEVICE_BATCH_H_
