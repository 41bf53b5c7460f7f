#include <algorithm>
#include <cmath>

#include "encoder/kernels/attention_int8.h"
#include "encoder/kernels/gemm_int8.h"
#include "encoder/kernels/int8_variants.h"

namespace loci {
namespace {

constexpr int64_t kLevels = 127;

int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

Int8Isa ChooseInt8Isa(CpuIsa isa, const CpuExtensions& extensions) {
  return isa == CpuIsa::kAvx512 && extensions.vnni ? Int8Isa::kAvx512Vnni : Int8Isa::kAvx2;
}

int64_t QuantizedRowBytes(Int8Isa isa, int64_t depth) {
  return isa == Int8Isa::kAvx512Vnni ? avx512vnni::QuantizedRowBytes(depth) : avx2::QuantizedRowBytes(depth);
}

Int8Rows::Int8Rows(Int8Isa isa, int64_t rows, int64_t depth)
    : data(rows * QuantizedRowBytes(isa, depth)), scale(rows), offset(rows), row_bytes(QuantizedRowBytes(isa, depth)) {}

Int8Weight PackWeightInt8(Int8Isa isa, const float* weight, const float* bias, int64_t cols, int64_t depth) {
  const bool vnni = isa == Int8Isa::kAvx512Vnni;
  const int64_t width = vnni ? avx512vnni::Int8PanelWidth() : avx2::Int8PanelWidth();
  const int64_t group = vnni ? avx512vnni::Int8GroupSize() : avx2::Int8GroupSize();
  const int64_t bytes = vnni ? avx512vnni::Int8BytesOfValue() : avx2::Int8BytesOfValue();
  const int64_t groups = (depth + group - 1) / group;
  const int64_t room = RoundUp(cols, width);
  Int8Weight packed;
  packed.cols = cols;
  packed.depth = depth;
  packed.data = AlignedArray<int8_t>(room * groups * group * bytes);
  packed.scale = AlignedFloats(room);
  packed.sum = AlignedFloats(room);
  packed.bias = AlignedFloats(room);
  for (int64_t c = 0; c < cols; ++c) {
    const float* const row = weight + c * depth;
    float most = 0;
    for (int64_t k = 0; k < depth; ++k) most = std::max(most, std::abs(row[k]));
    // 0 too where the scale would be a denormal number.
    packed.scale[c] = most > 1e-30f ? most / static_cast<float>(kLevels) : 0.0f;
    packed.bias[c] = bias[c];
    if (packed.scale[c] == 0) continue;
    int64_t sum = 0;
    for (int64_t k = 0; k < depth; ++k) {
      const int64_t q = std::clamp<int64_t>(std::lrintf(row[k] / packed.scale[c]), -kLevels, kLevels);
      sum += q;
      const int64_t at = ((c / width * groups + k / group) * width + c % width) * group + k % group;
      packed.data[at * bytes] = static_cast<int8_t>(q);
      if (bytes == 2) packed.data[at * bytes + 1] = static_cast<int8_t>(q < 0 ? -1 : 0);  // Little-endian: the sign.
    }
    packed.sum[c] = static_cast<float>(sum);
  }
  return packed;
}

void QuantizeRows(Int8Isa isa, QuantizedRows output, const float* input, const ChannelMap& map, int64_t rows, int64_t depth) {
  const auto quantize = isa == Int8Isa::kAvx512Vnni ? avx512vnni::QuantizeRows : avx2::QuantizeRows;
  quantize(output, input, map, rows, depth);
}

void GemmInt8(Int8Isa isa, float* output, int64_t stride, QuantizedRows input, const QuantizedPanels& weight,
              const float* residual, int64_t rows, Activation activation) {
  const auto gemm = isa == Int8Isa::kAvx512Vnni ? avx512vnni::GemmInt8 : avx2::GemmInt8;
  gemm(output, stride, input, weight, residual, rows, activation == Activation::kGelu);
}

void LayerNormQuantize(Int8Isa isa, float* values, QuantizedRows quantized, const ChannelMap& map, const float* gamma,
                       const float* beta, float epsilon, int64_t rows, int64_t dim) {
  const auto layer_norm = isa == Int8Isa::kAvx512Vnni ? avx512vnni::LayerNormQuantize : avx2::LayerNormQuantize;
  layer_norm(values, quantized, map, gamma, beta, epsilon, rows, dim);
}

int64_t AttentionInt8ScratchBytes(Int8Isa isa, int64_t max_length, int64_t head_dim) {
  return isa == Int8Isa::kAvx512Vnni ? avx512vnni::AttentionInt8ScratchBytes(max_length, head_dim)
                                     : avx2::AttentionInt8ScratchBytes(max_length, head_dim);
}

void AttentionInt8(Int8Isa isa, float* context, int64_t stride, const float* qkv, const int32_t* offsets, int64_t sequence_count,
                   int64_t head_dim, uint8_t* scratch) {
  const auto attention = isa == Int8Isa::kAvx512Vnni ? avx512vnni::AttentionInt8 : avx2::AttentionInt8;
  attention(context, stride, qkv, offsets, sequence_count, head_dim, scratch);
}

}  // namespace loci
