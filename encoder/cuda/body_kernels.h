// EncoderKernels' operations as launches of the bodies: which instance, which grid. Shared by the device and the simulation, so that both
// run the same arithmetic of indices.
#ifndef LOCI_ENCODER_CUDA_BODY_KERNELS_H_
#define LOCI_ENCODER_CUDA_BODY_KERNELS_H_

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "encoder/cuda/attention_bodies.h"
#include "encoder/cuda/kernels.h"
#include "encoder/cuda/pooling_body.h"
#include "encoder/cuda/row_bodies.h"

namespace loci::cuda {

// A kernel is a type with Args, kBlockSize, kSharedBytes and Run(thread, args).
template <int kSteps, typename T>
struct EmbeddingKernel {
  using Args = EmbeddingArgs<T>;
  static constexpr int kBlockSize = kRowBlockSize, kSharedBytes = 0;
  template <typename Thread>
  LOCI_BODY static void Run(Thread& thread, const Args& args) {
    EmbeddingBody<kSteps>(thread, args);
  }
};
template <int kSteps, typename T>
struct ResidualNormKernel {
  using Args = ResidualNormArgs<T>;
  static constexpr int kBlockSize = kRowBlockSize, kSharedBytes = 0;
  template <typename Thread>
  LOCI_BODY static void Run(Thread& thread, const Args& args) {
    ResidualNormBody<kSteps>(thread, args);
  }
};
template <typename T>
struct GeluKernel {
  using Args = GeluArgs<T>;
  static constexpr int kBlockSize = 256, kSharedBytes = 0;
  template <typename Thread>
  LOCI_BODY static void Run(Thread& thread, const Args& args) {
    GeluBody(thread, args);
  }
};
template <int kHeadDim, typename T>
struct MatrixAttentionKernel {
  using Args = AttentionArgs<T>;
  static constexpr int kBlockSize = kMatrixAttentionBlockSize, kSharedBytes = kMatrixAttentionSharedBytes<kHeadDim>;
  template <typename Thread>
  LOCI_BODY static void Run(Thread& thread, const Args& args) {
    MatrixAttentionBody<kHeadDim>(thread, args);
  }
};
template <typename T>
struct PlainAttentionKernel {
  using Args = AttentionArgs<T>;
  static constexpr int kBlockSize = kPlainAttentionBlockSize, kSharedBytes = kPlainAttentionSharedBytes;
  template <typename Thread>
  LOCI_BODY static void Run(Thread& thread, const Args& args) {
    PlainAttentionBody(thread, args);
  }
};
template <typename T>
struct PoolingKernel {
  using Args = PoolingArgs<T>;
  static constexpr int kBlockSize = kPoolingBlockSize, kSharedBytes = kPoolingSharedBytes;
  template <typename Thread>
  LOCI_BODY static void Run(Thread& thread, const Args& args) {
    PoolingBody(thread, args);
  }
};

// Derived has `template <typename Kernel> absl::Status LaunchKernel(int blocks_x, int blocks_y, const Kernel::Args&, CudaHandle stream)`.
template <typename Derived>
class BodyKernels : public EncoderKernels {
 public:
  absl::Status Embedding(const Launch& launch, void* output, const EmbeddingWeights& weights) override {
    return WithType([&](auto element) {
      using T = decltype(element);
      const EmbeddingArgs<T> args = {static_cast<T*>(output),
                                     launch.batch,
                                     static_cast<const T*>(weights.word),
                                     static_cast<const T*>(weights.position),
                                     static_cast<const T*>(weights.type),
                                     weights.gamma,
                                     weights.beta,
                                     config_.epsilon,
                                     config_.dim};
      return WithSteps([&](auto steps) { return Run<EmbeddingKernel<steps(), T>>(RowBlocks(launch), 1, args, launch.stream); });
    });
  }

  absl::Status ResidualNorm(const Launch& launch, void* output, const void* input, const void* residual, const float* gamma,
                            const float* beta) override {
    return WithType([&](auto element) {
      using T = decltype(element);
      const ResidualNormArgs<T> args = {
          static_cast<T*>(output), launch.batch, static_cast<const T*>(input), static_cast<const T*>(residual), gamma, beta,
          config_.epsilon,         config_.dim};
      return WithSteps(
          [&](auto steps) { return Run<ResidualNormKernel<steps(), T>>(RowBlocks(launch), 1, args, launch.stream); });
    });
  }

  absl::Status Gelu(const Launch& launch, void* values) override {
    return WithType([&](auto element) {
      using T = decltype(element);
      const GeluArgs<T> args = {static_cast<T*>(values), launch.batch, config_.intermediate_size};
      const int64_t pieces = static_cast<int64_t>(launch.rows) * config_.intermediate_size / 4;
      const int64_t blocks = (pieces + GeluKernel<T>::kBlockSize - 1) / GeluKernel<T>::kBlockSize;
      return Run<GeluKernel<T>>(static_cast<int>(std::min<int64_t>(blocks, 16 * config_.multiprocessor_count)), 1, args,
                                launch.stream);
    });
  }

  absl::Status Attention(const Launch& launch, void* context, const void* qkv) override {
    const int head_dim = config_.dim / config_.head_count;
    // A bound may be far from what a batch has: blocks then take several tiles.
    const int blocks =
        launch.exact ? launch.tiles : std::min(launch.tiles, 4 * config_.multiprocessor_count / config_.head_count + 1);
    return WithType([&](auto element) {
      using T = decltype(element);
      const AttentionArgs<T> args = {
          static_cast<T*>(context), launch.batch, static_cast<const T*>(qkv),
          config_.head_count,       head_dim,     1.4426950408889634f / std::sqrt(static_cast<float>(head_dim))};
      if constexpr (!std::is_same_v<T, float>) {
        if (head_dim == 32) return Run<MatrixAttentionKernel<32, T>>(blocks, config_.head_count, args, launch.stream);
        if (head_dim == 64) return Run<MatrixAttentionKernel<64, T>>(blocks, config_.head_count, args, launch.stream);
      }
      return Run<PlainAttentionKernel<T>>(blocks, config_.head_count, args, launch.stream);
    });
  }

  absl::Status Pool(const Launch& launch, float* output, const void* input) override {
    const int blocks = launch.exact ? launch.sequences : std::min(launch.sequences, 2 * config_.multiprocessor_count);
    return WithType([&](auto element) {
      using T = decltype(element);
      const PoolingArgs<T> args = {output,          launch.batch,      static_cast<const T*>(input),
                                   config_.pooling, config_.normalize, config_.dim};
      return Run<PoolingKernel<T>>(blocks, 1, args, launch.stream);
    });
  }

 protected:
  explicit BodyKernels(const EncoderKernelsConfig& config) : config_(config) {}

  const EncoderKernelsConfig config_;

 private:
  template <typename F>
  absl::Status WithType(F&& f) const {
    if (config_.type == ElementType::kFloat32) return f(float());
    if (config_.type == ElementType::kFloat16) return f(Float16());
    if (config_.type == ElementType::kBfloat16) return f(Bfloat16());
    return absl::InternalError("this element type has no kernels");
  }

  template <typename F>
  absl::Status WithSteps(F&& f) const {
    if (config_.dim <= kRowStride) return f(std::integral_constant<int, 1>());
    if (config_.dim <= 3 * kRowStride) return f(std::integral_constant<int, 3>());
    if (config_.dim <= 6 * kRowStride) return f(std::integral_constant<int, 6>());
    if (config_.dim <= 8 * kRowStride) return f(std::integral_constant<int, 8>());
    return absl::InternalError(absl::StrCat("rows of ", config_.dim, " have no kernels"));
  }

  static int RowBlocks(const Launch& launch) { return (launch.rows + kRowsPerBlock - 1) / kRowsPerBlock; }

  template <typename Kernel>
  absl::Status Run(int blocks_x, int blocks_y, const typename Kernel::Args& args, CudaHandle stream) {
    return static_cast<Derived*>(this)->template LaunchKernel<Kernel>(blocks_x, blocks_y, args, stream);
  }
};

}  // namespace loci::cuda

#endif  // LOCI_ENCODER_CUDA_BODY_KERNELS_H_
