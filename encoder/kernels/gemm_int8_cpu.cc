#include "encoder/kernels/int8_tile.h"
#include "encoder/kernels/int8_variants.h"
#include "encoder/kernels/row_norm.h"

namespace loci::LOCI_SIMD {
namespace {

// x Phi(x) within 5e-4 + 2e-7 |x|: Phi(x) = 1/2 + x P(x^2) on [-3.7, 3.7], with P of degree 5 and minimax for the product (4.93e-4, reached twelve times),
// and constant outside, where Phi is 1.5e-7 off. Half of the operations of the exact one, and no division.
LOCI_INLINE Vec QuickGelu(Vec x) {
  const Vec y = Min(Max(x, Set(-3.7f)), Set(3.7f));
  const Vec t = Mul(y, y);
  Vec p = Set(-4.899708558062402e-07f);
  p = Fma(p, t, Set(2.6888659957783532e-05f));
  p = Fma(p, t, Set(-0.0006175003973905058f));
  p = Fma(p, t, Set(0.007848688838366345f));
  p = Fma(p, t, Set(-0.06258769509066026f));
  p = Fma(p, t, Set(0.39647506944411803f));
  return Mul(x, Fma(y, p, Set(0.5f)));
}

template <bool kGelu, bool kResidual>
LOCI_INLINE void FinishTile(float* output, int64_t stride, const int32_t* sums, const float* row_scale, const float* row_offset,
                            const QuantizedPanels& weight, int64_t col, const float* residual, int64_t rows) {
  const int64_t width = weight.cols - col;
  for (int v = 0; v < kInt8Panel / kLanes; ++v) {
    const int64_t left = width - v * kLanes;
    if (left <= 0) return;
    const Vec scale = Load(weight.scale + col + v * kLanes);
    const Vec sum = Load(weight.sum + col + v * kLanes);
    const Vec bias = Load(weight.bias + col + v * kLanes);
    for (int64_t r = 0; r < rows; ++r) {
      Vec x = Dequantize(sums + r * kInt8Panel + v * kLanes, Set(row_scale[r]), Set(row_offset[r]), scale, sum, bias);
      if constexpr (kGelu) x = QuickGelu(x);
      float* const out = output + r * stride + v * kLanes;
      if (left >= kLanes) {
        if constexpr (kResidual) x = Add(x, Load(residual + r * stride + v * kLanes));
        Store(out, x);
      } else {
        if constexpr (kResidual) x = Add(x, LoadPartial(residual + r * stride + v * kLanes, static_cast<int>(left)));
        StorePartial(out, x, static_cast<int>(left));
      }
    }
  }
}

template <bool kGelu, bool kResidual>
void GemmOf(float* output, int64_t stride, const QuantizedRows& input, const QuantizedPanels& weight, const float* residual,
            int64_t rows) {
  alignas(64) int32_t sums[kInt8Rows * kInt8Panel];
  const int64_t tiles = (rows + kInt8Rows - 1) / kInt8Rows;
  const int64_t groups = Int8Groups(weight.depth);
  const int64_t row_bytes = Int8RowBytes(weight.depth);
  const int8_t* panel = weight.data;
  for (int64_t col = 0; col < weight.cols; col += kInt8Panel, panel += Int8PanelBytes(weight.depth)) {
    for (int64_t t = 0, r = 0; t < tiles; ++t) {
      const int64_t count = rows / tiles + (t < rows % tiles ? 1 : 0);  // Spread evenly: 16 is 8 + 8, not 12 + 4.
      GetInt8Tile(count)(input.data + r * row_bytes, row_bytes, panel, groups, sums);
      FinishTile<kGelu, kResidual>(output + r * stride + col, stride, sums, input.scale + r, input.offset + r, weight, col,
                                   kResidual ? residual + r * stride + col : nullptr, count);
      r += count;
    }
  }
}

// A row as `map` makes it.
template <bool kMapped>
struct MappedRow {
  LOCI_INLINE Vec At(int64_t k) const {
    const Vec x = Load(row + k);
    return kMapped ? Fma(x, Load(map.factor + k), Load(map.shift + k)) : x;
  }
  // `count` values and, in the other lanes, the row's first.
  LOCI_INLINE Vec Tail(int64_t k, int count) const {
    const Vec x = LoadPartial(row + k, count, Set(row[0]));
    return kMapped ? Fma(x, LoadPartial(map.factor + k, count, Set(map.factor[0])),
                         LoadPartial(map.shift + k, count, Set(map.shift[0])))
                   : x;
  }

  const float* row;
  ChannelMap map;
};

template <bool kMapped>
LOCI_INLINE void QuantizeRow(const QuantizedRows& output, int64_t r, const MappedRow<kMapped>& row, int64_t depth) {
  const int rest = static_cast<int>(depth % kLanes);
  const int64_t whole = depth - rest;
  Vec low = rest > 0 ? row.Tail(whole, rest) : row.At(0), high = low;
  for (int64_t k = 0; k < whole; k += kLanes) {
    const Vec x = row.At(k);
    low = Min(low, x);
    high = Max(high, x);
  }
  const RowRange range = RangeOf(LowestLane(low), HighestLane(high));
  output.scale[r] = range.scale;
  output.offset[r] = range.offset;
  const Vec offset = Set(range.offset), inverse = Set(range.inverse);
  uint8_t* const out = output.data + r * Int8RowBytes(depth);
  for (int64_t k = 0; k < whole; k += kLanes) StoreQuantized(out + k * kInt8ValueBytes, row.At(k), offset, inverse);
  // A row has room for whole vectors.
  if (rest > 0) StoreQuantized(out + whole * kInt8ValueBytes, row.Tail(whole, rest), offset, inverse);
}

LOCI_INLINE void QuantizeRow(const QuantizedRows& output, int64_t r, const float* row, const ChannelMap& map, int64_t depth) {
  if (map.factor == nullptr) {
    QuantizeRow(output, r, MappedRow<false>{row, map}, depth);
  } else {
    QuantizeRow(output, r, MappedRow<true>{row, map}, depth);
  }
}

}  // namespace

int64_t Int8PanelWidth() { return kInt8Panel; }
int64_t Int8GroupSize() { return kInt8Group; }
int64_t Int8BytesOfValue() { return kInt8ValueBytes; }
int64_t QuantizedRowBytes(int64_t depth) { return Int8RowBytes(depth); }

void GemmInt8(float* output, int64_t stride, const QuantizedRows& input, const QuantizedPanels& weight, const float* residual,
              int64_t rows, bool gelu) {
  if (rows == 0) return;
  if (gelu) {
    (residual == nullptr ? GemmOf<true, false> : GemmOf<true, true>)(output, stride, input, weight, residual, rows);
  } else {
    (residual == nullptr ? GemmOf<false, false> : GemmOf<false, true>)(output, stride, input, weight, residual, rows);
  }
}

void QuantizeRows(const QuantizedRows& output, const float* input, const ChannelMap& map, int64_t rows, int64_t depth) {
  for (int64_t r = 0; r < rows; ++r) QuantizeRow(output, r, input + r * depth, map, depth);
}

void LayerNormQuantize(float* values, const QuantizedRows& quantized, const ChannelMap& map, const float* gamma,
                       const float* beta, float epsilon, int64_t rows, int64_t dim) {
  for (int64_t r = 0; r < rows; ++r) {
    float* const row = values + r * dim;
    NormalizeRow(row, gamma, beta, epsilon, dim);
    QuantizeRow(quantized, r, row, map, dim);
  }
}

}  // namespace loci::LOCI_SIMD
