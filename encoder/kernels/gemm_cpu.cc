#include "encoder/kernels/cpu_variants.h"
#include "encoder/kernels/tile.h"

namespace loci {

namespace LOCI_SIMD {
namespace {

// Panels are walked in slices of the depth, so that a slice of the input and of one panel stay in the L2 cache together.
constexpr int64_t kDepthSlice = 512;

LOCI_INLINE void FinishRow(float* output, const float* sum, const float* bias, const float* residual, int64_t cols, bool gelu) {
  int64_t c = 0;
  for (; c + kLanes <= cols; c += kLanes) {
    Vec x = Add(Load(sum + c), Load(bias + c));
    if (gelu) x = Gelu(x);
    if (residual != nullptr) x = Add(x, Load(residual + c));
    Store(output + c, x);
  }
  if (c < cols) {
    const int rest = static_cast<int>(cols - c);
    Vec x = Add(LoadPartial(sum + c, rest), LoadPartial(bias + c, rest));
    if (gelu) x = Gelu(x);
    if (residual != nullptr) x = Add(x, LoadPartial(residual + c, rest));
    StorePartial(output + c, x, rest);
  }
}

}  // namespace

int64_t PackedPanelWidth() { return kPanelWidth; }

void Gemm(float* output, const float* input, const float* packed, const float* bias, const float* residual, int64_t rows,
          int64_t cols, int64_t depth, Activation activation) {
  if (rows == 0) return;
  const bool gelu = activation == Activation::kGelu;
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  const int64_t least = rows / tiles;   // Rows are spread evenly: 8 is 4 + 4, not 6 + 2.
  const int64_t longer = rows % tiles;  // So many tiles have one row more.
  const int64_t slices = (depth + kDepthSlice - 1) / kDepthSlice;
  // The sums of earlier slices wait in `output`, which therefore can't be the residual too.
  const bool sliced = slices > 1 && residual != output && cols % kPanelWidth == 0;
  const int64_t slice_depth = sliced ? RoundUp((depth + slices - 1) / slices, 16) : depth;
  alignas(64) float sums[kTileRows * kPanelWidth];
  for (int64_t k = 0; k < depth; k += slice_depth) {
    const int64_t now = depth - k < slice_depth ? depth - k : slice_depth;
    const bool last = k + now == depth;
    for (int64_t c = 0; c < cols; c += kPanelWidth) {
      const float* panel = packed + c * depth + k * kPanelWidth;
      const int64_t width = cols - c < kPanelWidth ? cols - c : kPanelWidth;
      for (int64_t t = 0, r = 0; t < tiles; ++t) {
        const int64_t count = least + (t < longer ? 1 : 0);
        float* out = output + r * cols + c;
        const TileFunction tile = GetTile(static_cast<int>(count), kTileVectors);
        if (last) {
          if (k > 0) {
            for (int64_t i = 0; i < count; ++i) {
              for (int64_t j = 0; j < kPanelWidth; j += kLanes) Store(sums + i * kPanelWidth + j, Load(out + i * cols + j));
            }
          }
          tile(input + r * depth + k, depth, panel, kPanelWidth, sums, kPanelWidth, now, k > 0);
          for (int64_t i = 0; i < count; ++i) {
            FinishRow(out + i * cols, sums + i * kPanelWidth, bias + c,
                      residual == nullptr ? nullptr : residual + (r + i) * cols + c, width, gelu);
          }
        } else {
          tile(input + r * depth + k, depth, panel, kPanelWidth, out, cols, now, k > 0);
        }
        r += count;
      }
    }
  }
}

}  // namespace LOCI_SIMD
}  // namespace loci
