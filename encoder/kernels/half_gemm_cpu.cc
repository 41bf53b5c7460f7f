#include "encoder/kernels/half_tile.h"
#include "encoder/kernels/half_variants.h"

namespace loci::LOCI_SIMD {
namespace {

LOCI_INLINE Vec Finish(Vec sum, Vec bias, bool gelu) {
  const Vec x = Add(sum, bias);
  return gelu ? GeluForHalf(x) : x;
}

LOCI_INLINE void FinishPart(float* output, const float* sum, const float* bias, int low, int high, bool gelu) {
  StoreUpTo(output, Finish(Load(sum), LoadUpTo(bias, low), gelu), low);
  StoreUpTo(output + low, Finish(Load(sum + kLanes), LoadUpTo(bias + low, high), gelu), high);
}

LOCI_INLINE void FinishPart(Half* output, const float* sum, const float* bias, int low, int high, bool gelu) {
  const Vec a = Finish(Load(sum), LoadUpTo(bias, low), gelu);
  const Vec b = Finish(Load(sum + kLanes), LoadUpTo(bias + low, high), gelu);
  StoreHalves(output, Round(a, b), low + high);
}

template <typename Output>
LOCI_INLINE void FinishRow(Output* output, const float* sum, const float* bias, int64_t cols, bool gelu) {
  int64_t c = 0;
  for (; c + kHalfLanes <= cols; c += kHalfLanes) FinishPart(output + c, sum + c, bias + c, kLanes, kLanes, gelu);
  if (c == cols) return;
  const int low = static_cast<int>(cols - c < kLanes ? cols - c : kLanes);
  FinishPart(output + c, sum + c, bias + c, low, static_cast<int>(cols - c - low), gelu);
}

template <typename Output>
LOCI_INLINE void GemmTo(Output* output, const Half* input, const Half* packed, const float* bias, int64_t rows, int64_t cols,
                        int64_t depth, bool gelu) {
  if (rows == 0) return;
  const int64_t tiles = (rows + kHalfTileRows - 1) / kHalfTileRows;
  const int64_t least = rows / tiles;   // Rows are spread evenly: 8 is 4 + 4, not 6 + 2.
  const int64_t longer = rows % tiles;  // So many tiles have one row more.
  const int64_t panel_halves = 2 * PairCount(depth) * kHalfPanelWidth;
  // While a panel is used, the next one comes from memory, some of it in each tile: the weights are larger than the L2 cache.
  const int64_t prefetches = tiles * (PairCount(depth) / kStepsOfPrefetch);
  const int64_t lines = prefetches == 0 ? 0 : (panel_halves / kHalfLanes + prefetches - 1) / prefetches;
  alignas(64) float sums[kHalfTileRows * kHalfPanelWidth] = {};
  for (int64_t c = 0; c < cols; c += kHalfPanelWidth) {
    const Half* panel = packed + c / kHalfPanelWidth * panel_halves;
    const int64_t width = cols - c < kHalfPanelWidth ? cols - c : kHalfPanelWidth;
    const int64_t vectors = (width + kLanes - 1) / kLanes;
    for (int64_t t = 0, r = 0; t < tiles; ++t) {
      const int64_t count = least + (t < longer ? 1 : 0);
      const int64_t fetched = t * (PairCount(depth) / kStepsOfPrefetch) * lines * kHalfLanes;
      const bool more = c + kHalfPanelWidth < cols && fetched < panel_halves;
      GetHalfTile(count, vectors)(input + r * depth, depth, panel, kHalfPanelWidth, sums, kHalfPanelWidth, depth,
                                  more ? panel + panel_halves + fetched : nullptr, more ? lines : 0);
      for (int64_t i = 0; i < count; ++i)
        FinishRow(output + (r + i) * cols + c, sums + i * kHalfPanelWidth, bias + c, width, gelu);
      r += count;
    }
  }
}

}  // namespace

void HalfGemmToFloats(float* output, const Half* input, const Half* packed, const float* bias, int64_t rows, int64_t cols,
                      int64_t depth, Activation activation) {
  if (activation == Activation::kGelu) {
    GemmTo(output, input, packed, bias, rows, cols, depth, true);
  } else {
    GemmTo(output, input, packed, bias, rows, cols, depth, false);
  }
}

void HalfGemmToHalves(Half* output, const Half* input, const Half* packed, const float* bias, int64_t rows, int64_t cols,
                      int64_t depth, Activation activation) {
  if (activation == Activation::kGelu) {
    GemmTo(output, input, packed, bias, rows, cols, depth, true);
  } else {
    GemmTo(output, input, packed, bias, rows, cols, depth, false);
  }
}

}  // namespace loci::LOCI_SIMD
