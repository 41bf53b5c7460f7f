#include "encoder/kernels/cpu_variants.h"
#include "encoder/kernels/tile.h"

namespace loci::LOCI_SIMD {
namespace {

// Turns a row of scores into exp(score - max) and returns one over their sum. Lanes beyond `length` are read, not used.
LOCI_INLINE float SoftmaxRow(float* row, int64_t length) {
  const int rest = static_cast<int>(length % kLanes);
  const int64_t whole = length - rest;
  Vec largest = Set(-3.4e38f);
  for (int64_t i = 0; i < whole; i += kLanes) largest = Max(largest, Load(row + i));
  if (rest > 0) largest = Max(largest, LoadPartial(row + whole, rest, Set(-3.4e38f)));
  const Vec max = Set(MaxLanes(largest));
  Vec sum = Zero();
  for (int64_t i = 0; i < whole; i += kLanes) {
    const Vec e = ExpOfNonPositive(Sub(Load(row + i), max));
    Store(row + i, e);
    sum = Add(sum, e);
  }
  if (rest > 0) {
    StorePartial(row + whole, ExpOfNonPositive(Sub(LoadPartial(row + whole, rest, max), max)), rest);
    sum = Add(sum, LoadPartial(row + whole, rest));
  }
  return 1.0f / SumLanes(sum);
}

struct Layout {
  int64_t keys = 0;  // Offsets into the scratch space, in floats.
  int64_t values = 0;
  int64_t scores = 0;
  int64_t context = 0;
  int64_t end = 0;
};

LOCI_INLINE Layout LayOut(int64_t length, int64_t head_dim) {
  const int64_t padded = RoundUp(length, kPanelWidth);
  const int64_t dim = RoundUp(head_dim, kLanes);
  Layout layout;
  layout.values = padded * head_dim;
  layout.scores = layout.values + length * dim;
  layout.context = layout.scores + kTileRows * padded;
  layout.end = layout.context + kTileRows * dim;
  return layout;
}

}  // namespace

int64_t AttentionScratchSize(int64_t max_length, int64_t head_dim) { return RoundUp(LayOut(max_length, head_dim).end, 16); }

void Attention(float* context, const float* qkv, const int32_t* offsets, int64_t sequence_count, int64_t head_count,
               int64_t head_dim, float* scratch) {
  const int64_t hidden = head_count * head_dim;
  const int64_t stride = 3 * hidden;
  const int64_t dim = RoundUp(head_dim, kLanes);
  const float scale = 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(static_cast<float>(head_dim))));
  for (int64_t s = 0; s < sequence_count; ++s) {
    const int64_t length = offsets[s + 1] - offsets[s];
    const int64_t padded = RoundUp(length, kPanelWidth);
    const Layout layout = LayOut(length, head_dim);
    float* keys = scratch + layout.keys;      // [panel][head_dim][kPanelWidth], scaled
    float* values = scratch + layout.values;  // [length][dim]
    float* scores = scratch + layout.scores;  // [kTileRows][padded]
    float* sums = scratch + layout.context;   // [kTileRows][dim]
    const int64_t tiles = (length + kTileRows - 1) / kTileRows;
    for (int64_t h = 0; h < head_count; ++h) {
      const float* q = qkv + offsets[s] * stride + h * head_dim;
      const float* k = q + hidden;
      const float* v = k + hidden;
      for (int64_t j = 0; j < padded; ++j) {
        float* out = keys + j / kPanelWidth * kPanelWidth * head_dim + j % kPanelWidth;
        if (j < length) {
          for (int64_t d = 0; d < head_dim; ++d) out[d * kPanelWidth] = k[j * stride + d] * scale;
        } else {
          for (int64_t d = 0; d < head_dim; ++d) out[d * kPanelWidth] = 0.0f;
        }
      }
      for (int64_t j = 0; j < length; ++j) {
        for (int64_t d = 0; d < head_dim; d += kLanes) {
          const int count = static_cast<int>(head_dim - d < kLanes ? head_dim - d : kLanes);
          Store(values + j * dim + d, LoadPartial(v + j * stride + d, count));
        }
      }
      for (int64_t t = 0, r = 0; t < tiles; ++t) {
        const int rows = static_cast<int>(length / tiles + (t < length % tiles ? 1 : 0));
        for (int64_t j = 0; j < length; j += kPanelWidth) {
          const int64_t vectors = (length - j + kLanes - 1) / kLanes;
          GetTile(rows, static_cast<int>(vectors < kTileVectors ? vectors : kTileVectors))(
              q + r * stride, stride, keys + j * head_dim, kPanelWidth, scores + j, padded, head_dim, false);
        }
        float inverse[kTileRows];
        for (int i = 0; i < rows; ++i) inverse[i] = SoftmaxRow(scores + i * padded, length);
        for (int64_t d = 0; d < dim; d += kPanelWidth) {
          const int64_t vectors = (dim - d) / kLanes;
          GetTile(rows, static_cast<int>(vectors < kTileVectors ? vectors : kTileVectors))(scores, padded, values + d, dim,
                                                                                           sums + d, dim, length, false);
        }
        for (int i = 0; i < rows; ++i) {
          float* out = context + (offsets[s] + r + i) * hidden + h * head_dim;
          for (int64_t d = 0; d < head_dim; d += kLanes) {
            const int count = static_cast<int>(head_dim - d < kLanes ? head_dim - d : kLanes);
            StorePartial(out + d, Mul(Load(sums + i * dim + d), Set(inverse[i])), count);
          }
        }
        r += rows;
      }
    }
  }
}

}  // namespace loci::LOCI_SIMD
