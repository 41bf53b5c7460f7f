#include <cstdint>

#include "base/vector_type.h"
#include "encoder/kernels/half_attention.h"
#include "encoder/kernels/half_gemm.h"
#include "encoder/kernels/half_layer_norm.h"
#include "encoder/kernels/half_layout.h"
#include "encoder/kernels/half_variants.h"

namespace loci {
namespace {

void RoundRow(HalfType type, const float* in, int64_t count, Half* out) {
  if (type == HalfType::kBfloat16) {
    Float32ToBfloat16(in, out, static_cast<size_t>(count));
  } else {
    Float32ToFloat16(in, out, static_cast<size_t>(count));
  }
}

}  // namespace

AlignedArray<Half> PackHalfWeight(HalfType type, const float* weight, int64_t cols, int64_t depth) {
  const int64_t panels = (cols + kHalfPanelWidth - 1) / kHalfPanelWidth;
  const int64_t pairs = (depth + 1) / 2;
  AlignedArray<Half> packed(panels * pairs * kHalfPanelWidth * 2);
  AlignedArray<Half> row(depth);
  for (int64_t col = 0; col < cols; ++col) {
    RoundRow(type, weight + col * depth, depth, row.data());
    Half* out = packed.data() + col / kHalfPanelWidth * pairs * kHalfPanelWidth * 2 + col % kHalfPanelWidth * 2;
    for (int64_t k = 0; k < depth; ++k) out[k / 2 * kHalfPanelWidth * 2 + k % 2] = row[k];
  }
  return packed;
}

void RoundToHalf(HalfType type, Half* output, const float* input, int64_t count) {
  const auto round = type == HalfType::kBfloat16 ? avx512_bf16::RoundToHalf : avx512_fp16::RoundToHalf;
  round(output, input, count);
}

void HalfGemm(HalfType type, float* output, const Half* input, const Half* packed, const float* bias, int64_t rows, int64_t cols,
              int64_t depth, Activation activation) {
  const auto gemm = type == HalfType::kBfloat16 ? avx512_bf16::HalfGemmToFloats : avx512_fp16::HalfGemmToFloats;
  gemm(output, input, packed, bias, rows, cols, depth, activation);
}

void HalfGemm(HalfType type, Half* output, const Half* input, const Half* packed, const float* bias, int64_t rows, int64_t cols,
              int64_t depth, Activation activation) {
  const auto gemm = type == HalfType::kBfloat16 ? avx512_bf16::HalfGemmToHalves : avx512_fp16::HalfGemmToHalves;
  gemm(output, input, packed, bias, rows, cols, depth, activation);
}

int64_t HalfAttentionScratchSize(HalfType type, int64_t max_length, int64_t head_dim) {
  return type == HalfType::kBfloat16 ? avx512_bf16::HalfAttentionScratchSize(max_length, head_dim)
                                     : avx512_fp16::HalfAttentionScratchSize(max_length, head_dim);
}

void HalfAttention(HalfType type, Half* context, const Half* qkv, const int32_t* offsets, int64_t sequence_count,
                   int64_t head_count, int64_t head_dim, float* scratch) {
  const auto attention = type == HalfType::kBfloat16 ? avx512_bf16::HalfAttention : avx512_fp16::HalfAttention;
  attention(context, qkv, offsets, sequence_count, head_count, head_dim, scratch);
}

void HalfLayerNorm(HalfType type, float* hidden, Half* rounded, const float* input, const float* gamma, const float* beta,
                   float epsilon, int64_t rows, int64_t dim) {
  const auto layer_norm = type == HalfType::kBfloat16 ? avx512_bf16::HalfLayerNorm : avx512_fp16::HalfLayerNorm;
  layer_norm(hidden, rounded, input, gamma, beta, epsilon, rows, dim);
}

}  // namespace loci
