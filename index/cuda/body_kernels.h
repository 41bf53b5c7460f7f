// SearchKernels' operations as launches of the bodies: which instance, which grid. Shared by the device and the simulation, so that both run the
// same arithmetic of indices.
#ifndef LOCI_INDEX_CUDA_BODY_KERNELS_H_
#define LOCI_INDEX_CUDA_BODY_KERNELS_H_

#include <algorithm>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "index/cuda/kernels.h"

namespace loci::cuda {

// Many queries of a middling dimension; many of any; a few, where memory is the limit.
using WideTiling = ScanTiling<2, 4, 4, 8, 2>;
using SquareTiling = ScanTiling<2, 2, 2, 4, 2>;
using NarrowTiling = ScanTiling<4, 1, 1, 2, 3>;
static_assert(kMaxTileRows % WideTiling::kTileRows == 0 && kMaxTileRows % SquareTiling::kTileRows == 0 &&
              kMaxTileRows % NarrowTiling::kTileRows == 0);
static_assert(kMaxTileQueries % WideTiling::kTileQueries == 0 && kMaxTileQueries % SquareTiling::kTileQueries == 0 &&
              kMaxTileQueries % NarrowTiling::kTileQueries == 0);

// A kernel is a type with Args, kBlockSize, kBlocksAtOnce and Run(thread, args). Its registers are held to what kBlocksAtOnce blocks find on a
// multiprocessor, and grids that take what there is in turn have no more blocks than that.
template <typename Tiling>
struct ScanKernel {
  using Args = ScanArgs;
  static constexpr int kBlockSize = Tiling::kBlockSize;
  static constexpr int kBlocksAtOnce = kBlockSize == 256 ? 1 : 4;
  template <typename Thread>
  LOCI_BODY static void Run(Thread& thread, const Args& args) {
    ScanBody<Tiling>(thread, args);
  }
};
template <bool kExact>
struct SelectKernel {
  using Args = SelectArgs;
  static constexpr int kBlockSize = kSelectBlockSize;
  static constexpr int kBlocksAtOnce = 8;
  template <typename Thread>
  LOCI_BODY static void Run(Thread& thread, const Args& args) {
    SelectBody<kExact>(thread, args);
  }
};
template <typename T>
struct RescoreKernel {
  using Args = RescoreArgs<T>;
  static constexpr int kBlockSize = kRescoreBlockSize;
  static constexpr int kBlocksAtOnce = 8;
  template <typename Thread>
  LOCI_BODY static void Run(Thread& thread, const Args& args) {
    RescoreBody(thread, args);
  }
};
template <typename T>
struct SoftmaxKernel {
  using Args = SoftmaxArgs<T>;
  static constexpr int kBlockSize = kSoftmaxBlockSize;
  static constexpr int kBlocksAtOnce = 3;
  template <typename Thread>
  LOCI_BODY static void Run(Thread& thread, const Args& args) {
    SoftmaxBody(thread, args);
  }
};
struct SoftmaxMergeKernel {
  using Args = SoftmaxMergeArgs;
  static constexpr int kBlockSize = kSoftmaxBlockSize;
  static constexpr int kBlocksAtOnce = 8;
  template <typename Thread>
  LOCI_BODY static void Run(Thread& thread, const Args& args) {
    SoftmaxMergeBody(thread, args);
  }
};

// What every kernel may be launched with. More must be allowed, and that belongs to the kernel on its device and not to the launch: those of
// LargeKernels are allowed all that a block may have, once, before the first launch; so no thread lowers what another's launch counts on.
inline constexpr int kSharedBytesOfAll = 48 << 10;
template <typename... Kernels>
struct KernelTypes {
  template <typename Kernel>
  static constexpr bool kHas = (std::is_same_v<Kernel, Kernels> || ...);
};
using LargeKernels = KernelTypes<ScanKernel<WideTiling>, ScanKernel<SquareTiling>, ScanKernel<NarrowTiling>, SoftmaxKernel<float>,
                                 SoftmaxKernel<Float16>, SoftmaxKernel<Bfloat16>>;

// Derived has `template <typename Kernel> absl::Status LaunchKernel(int blocks_x, int blocks_y, int shared_bytes, const Kernel::Args&, CudaHandle)`.
template <typename Derived>
class BodySearchKernels : public SearchKernels {
 public:
  struct Device {
    int multiprocessor_count = 1;
    int max_shared_bytes = 48 << 10;  // That a block may ask for.
  };

  explicit BodySearchKernels(const Device& device) : device_(device) {}

  absl::StatusOr<TileShape> ShapeOf(int query_count, int depth) const override {
    TileShape shape;
    const absl::Status status = WithTiling(query_count, depth, [&](auto tiling) {
      shape = {.rows = tiling.kTileRows, .queries = tiling.kTileQueries};
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    return shape;
  }

  absl::Status Scan(const ScanArgs& args, CudaHandle stream) override {
    return WithTiling(args.query_count, args.depth, [&](auto tiling) {
      using Tiling = decltype(tiling);
      const int query_tiles = (args.query_count + Tiling::kTileQueries - 1) / Tiling::kTileQueries;
      const int at_once = BlocksAtOnce<ScanKernel<Tiling>>(Tiling::SharedBytes(args.depth));  // Each goes on to the next tile.
      const int64_t row_blocks =
          std::clamp<int64_t>(args.end_position - args.first_position, 1, std::max(1, at_once / query_tiles));
      return derived().template LaunchKernel<ScanKernel<Tiling>>(static_cast<int>(row_blocks), query_tiles,
                                                                 Tiling::SharedBytes(args.depth), args, stream);
    });
  }

  absl::Status Select(const SelectArgs& args, int query_count, CudaHandle stream) override {
    return derived().template LaunchKernel<SelectKernel<false>>(query_count, 1, SelectSharedBytes(false, args.top_k), args,
                                                                stream);
  }
  absl::Status SelectExact(const SelectArgs& args, int query_count, CudaHandle stream) override {
    return derived().template LaunchKernel<SelectKernel<true>>(query_count, 1, SelectSharedBytes(true, args.top_k), args, stream);
  }

  absl::Status Rescore(ElementType type, const RescoreArgs<void>& args, int query_count, CudaHandle stream) override {
    return WithType(type, [&](auto element) {
      using T = decltype(element);
      const RescoreArgs<T> typed = {
          static_cast<const T*>(args.rows), args.queries, args.candidates, args.counts, args.capacity, args.dim, args.padded_dim};
      const int blocks = std::clamp(8 * device_.multiprocessor_count / query_count, 4, 64);
      return derived().template LaunchKernel<RescoreKernel<T>>(blocks, query_count, 0, typed, stream);
    });
  }

  absl::StatusOr<int> SoftmaxParts(ElementType type, int dim) const override {
    const int bytes = SoftmaxBytes(type, dim);
    if (dim > kMaxSoftmaxDim || bytes > device_.max_shared_bytes) {
      return absl::FailedPreconditionError(
          absl::StrCat("a softmax of rows of dimension ", dim, " takes ", bytes, " bytes of shared memory and at most ",
                       kMaxSoftmaxDim, " dimensions, a block of this device has at most ", device_.max_shared_bytes, " bytes"));
    }
    return BlocksAtOnce<SoftmaxKernel<float>>(bytes);
  }
  absl::Status Softmax(ElementType type, const SoftmaxArgs<void>& args, int parts, int query_tiles, CudaHandle stream) override {
    return WithType(type, [&](auto element) {
      using T = decltype(element);
      const SoftmaxArgs<T> typed = {static_cast<const T*>(args.rows),
                                    args.queries,
                                    args.hidden,
                                    args.skips,
                                    args.skip_begins,
                                    args.maxima,
                                    args.sums,
                                    args.weighted,
                                    args.squared_lengths,
                                    args.scale,
                                    args.row_count,
                                    args.dim,
                                    args.padded_dim};
      return derived().template LaunchKernel<SoftmaxKernel<T>>(parts, query_tiles, SoftmaxBytes(type, args.dim), typed, stream);
    });
  }
  absl::Status SoftmaxMerge(const SoftmaxMergeArgs& args, int query_count, CudaHandle stream) override {
    return derived().template LaunchKernel<SoftmaxMergeKernel>(query_count, 1, 0, args, stream);
  }

 private:
  Derived& derived() { return static_cast<Derived&>(*this); }

  // As many blocks as run at once on the whole device.
  template <typename Kernel>
  int BlocksAtOnce(int shared_bytes) const {
    constexpr int kKeptOfEach = 1 << 10;  // By the driver, besides what a block asks for.
    const int by_memory = (device_.max_shared_bytes + kKeptOfEach) / (shared_bytes + kKeptOfEach);
    return device_.multiprocessor_count * std::clamp(by_memory, 1, Kernel::kBlocksAtOnce);
  }

  static int SoftmaxBytes(ElementType type, int dim) {
    return SoftmaxSharedBytes(static_cast<int>(ElementSize(type)), dim, (dim + 15) / 16 * 16);
  }

  template <typename Function>
  static absl::Status WithType(ElementType type, const Function& function) {
    if (type == ElementType::kFloat32) return function(float());
    if (type == ElementType::kFloat16) return function(Float16());
    return function(Bfloat16());
  }

  template <typename Function>
  absl::Status WithTiling(int query_count, int depth, const Function& function) const {
    const auto fits = [&](auto tiling) { return decltype(tiling)::SharedBytes(depth) <= device_.max_shared_bytes; };
    if (query_count > 2 * SquareTiling::kTileQueries && fits(WideTiling())) return function(WideTiling());
    if (query_count > NarrowTiling::kTileQueries && fits(SquareTiling())) return function(SquareTiling());
    if (fits(NarrowTiling())) return function(NarrowTiling());
    return absl::FailedPreconditionError(
        absl::StrCat("a scan of ", depth, " codes a row takes ", NarrowTiling::SharedBytes(depth),
                     " bytes of shared memory, a block of this device has at most ", device_.max_shared_bytes));
  }

  const Device device_;
};

}  // namespace loci::cuda

#endif  // LOCI_INDEX_CUDA_BODY_KERNELS_H_
