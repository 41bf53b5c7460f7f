#include <cstdint>
#include <cstring>

#include "encoder/kernels/attention.h"
#include "encoder/kernels/cpu_variants.h"
#include "encoder/kernels/embedding.h"
#include "encoder/kernels/gemm.h"
#include "encoder/kernels/layer_norm.h"
#include "encoder/kernels/pooling.h"

namespace loci {

int64_t PanelWidth(CpuIsa isa) { return isa == CpuIsa::kAvx512 ? avx512::PackedPanelWidth() : avx2::PackedPanelWidth(); }

AlignedFloats PackWeight(CpuIsa isa, const float* weight, int64_t cols, int64_t depth) {
  const int64_t width = PanelWidth(isa);
  const int64_t panels = (cols + width - 1) / width;
  AlignedFloats packed(panels * depth * width);
  for (int64_t col = 0; col < cols; ++col) {
    float* out = packed.data() + (col / width) * depth * width + col % width;
    const float* in = weight + col * depth;
    for (int64_t k = 0; k < depth; ++k) out[k * width] = in[k];
  }
  return packed;
}

void Gemm(CpuIsa isa, float* output, const float* input, const float* packed, const float* bias, const float* residual,
          int64_t rows, int64_t cols, int64_t depth, Activation activation) {
  const auto gemm = isa == CpuIsa::kAvx512 ? avx512::Gemm : avx2::Gemm;
  gemm(output, input, packed, bias, residual, rows, cols, depth, activation);
}

int64_t AttentionScratchSize(CpuIsa isa, int64_t max_length, int64_t head_dim) {
  return isa == CpuIsa::kAvx512 ? avx512::AttentionScratchSize(max_length, head_dim)
                                : avx2::AttentionScratchSize(max_length, head_dim);
}

void Attention(CpuIsa isa, float* context, const float* qkv, const int32_t* offsets, int64_t sequence_count, int64_t head_count,
               int64_t head_dim, float* scratch) {
  const auto attention = isa == CpuIsa::kAvx512 ? avx512::Attention : avx2::Attention;
  attention(context, qkv, offsets, sequence_count, head_count, head_dim, scratch);
}

void LayerNorm(CpuIsa isa, float* output, const float* input, const float* residual, const float* gamma, const float* beta,
               float epsilon, int64_t rows, int64_t dim) {
  const auto layer_norm = isa == CpuIsa::kAvx512 ? avx512::LayerNorm : avx2::LayerNorm;
  layer_norm(output, input, residual, gamma, beta, epsilon, rows, dim);
}

void Embedding(CpuIsa isa, float* output, const int32_t* token_ids, const int32_t* offsets, int64_t sequence_count,
               const EmbeddingTables& tables, int64_t dim) {
  const auto embedding = isa == CpuIsa::kAvx512 ? avx512::Embedding : avx2::Embedding;
  embedding(output, token_ids, offsets, sequence_count, tables, dim);
}

void Pool(CpuIsa isa, float* output, const float* input, const int32_t* offsets, int64_t sequence_count, int64_t dim,
          Pooling pooling, bool normalize) {
  const auto pool = isa == CpuIsa::kAvx512 ? avx512::Pool : avx2::Pool;
  pool(output, input, offsets, sequence_count, dim, pooling, normalize);
}

}  // namespace loci
