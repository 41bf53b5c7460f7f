#include "encoder/kernels/int8_tile.h"
#include "encoder/kernels/int8_variants.h"

namespace loci::LOCI_SIMD {
namespace {

// x Phi(x) within 5e-4 + 2e-7 |x|: Phi(x) = 1/2 + x P(x^2), with P minimax for the product, on [-3.7, 3.7], and constant outside. Half of the
// operations of the exact one, and no division.
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

// Quantises a row whose range is known.
LOCI_INLINE void QuantizeRow(uint8_t* out, const float* in, const RowRange& range, int64_t depth) {
  const Vec offset = Set(range.offset), inverse = Set(range.inverse);
  int64_t k = 0;
  for (; k + kLanes <= depth; k += kLanes) StoreQuantized(out + k * kInt8ValueBytes, Load(in + k), offset, inverse);
  if (k < depth) {
    // A row has room for whole vectors.
    StoreQuantized(out + k * kInt8ValueBytes, LoadPartial(in + k, static_cast<int>(depth - k), offset), offset, inverse);
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

void QuantizeRows(const QuantizedRows& output, const float* input, int64_t rows, int64_t depth) {
  const int64_t row_bytes = Int8RowBytes(depth);
  for (int64_t r = 0; r < rows; ++r) {
    const float* const in = input + r * depth;
    Vec low = Set(in[0]), high = low;
    int64_t k = 0;
    for (; k + kLanes <= depth; k += kLanes) {
      const Vec x = Load(in + k);
      low = Min(low, x);
      high = Max(high, x);
    }
    if (k < depth) {
      const Vec x = LoadPartial(in + k, static_cast<int>(depth - k), Set(in[0]));
      low = Min(low, x);
      high = Max(high, x);
    }
    const RowRange range = RangeOf(LowestLane(low), HighestLane(high));
    output.scale[r] = range.scale;
    output.offset[r] = range.offset;
    QuantizeRow(output.data + r * row_bytes, in, range, depth);
  }
}

void LayerNormQuantize(float* values, const QuantizedRows& quantized, const float* gamma, const float* beta, float epsilon,
                       int64_t rows, int64_t dim) {
  const int64_t row_bytes = Int8RowBytes(dim);
  const int rest = static_cast<int>(dim % kLanes);
  const int64_t whole = dim - rest;
  const float count = static_cast<float>(dim);
  for (int64_t r = 0; r < rows; ++r) {
    float* const row = values + r * dim;
    Vec sum = Zero();
    for (int64_t i = 0; i < whole; i += kLanes) sum = Add(sum, Load(row + i));
    if (rest > 0) sum = Add(sum, LoadPartial(row + whole, rest));
    const Vec mean = Set(LaneTotal(sum) / count);
    Vec squares = Zero();
    for (int64_t i = 0; i < whole; i += kLanes) {
      const Vec x = Sub(Load(row + i), mean);
      squares = Fma(x, x, squares);
    }
    if (rest > 0) {
      const Vec x = Sub(LoadPartial(row + whole, rest, mean), mean);
      squares = Fma(x, x, squares);
    }
    const Vec scale = Set(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(LaneTotal(squares) / count + epsilon))));
    Vec low = Set(3.4e38f), high = Set(-3.4e38f);
    for (int64_t i = 0; i < whole; i += kLanes) {
      const Vec x = Fma(Mul(Sub(Load(row + i), mean), scale), Load(gamma + i), Load(beta + i));
      Store(row + i, x);
      low = Min(low, x);
      high = Max(high, x);
    }
    if (rest > 0) {
      const Vec x = Fma(Mul(Sub(LoadPartial(row + whole, rest), mean), scale), LoadPartial(gamma + whole, rest),
                        LoadPartial(beta + whole, rest));
      StorePartial(row + whole, x, rest);
      low = Min(low, LoadPartial(row + whole, rest, low));
      high = Max(high, LoadPartial(row + whole, rest, high));
    }
    const RowRange range = RangeOf(LowestLane(low), HighestLane(high));
    quantized.scale[r] = range.scale;
    quantized.offset[r] = range.offset;
    QuantizeRow(quantized.data + r * row_bytes, row, range, dim);
  }
}

}  // namespace loci::LOCI_SIMD
