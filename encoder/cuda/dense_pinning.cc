#include "encoder/cuda/dense_pinning.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/cuda/element.h"
#include "base/status_macros.h"

namespace loci::cuda {
namespace {

// Rows that are compared; a run with more has others behind them.
constexpr int32_t kProbeRows = 1024;
// cuBLASLt may want its matrices on such addresses.
constexpr int64_t kAlignment = 256;

void FillRandom(ElementType type, int64_t count, void* to) {
  uint32_t state = 2463534242u;
  for (int64_t i = 0; i < count; ++i) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    const float value = static_cast<float>(static_cast<int32_t>(state)) / 2147483648.0f;
    if (type == ElementType::kFloat32) static_cast<float*>(to)[i] = value;
    if (type == ElementType::kFloat16) static_cast<Float16*>(to)[i] = FromFloat<Float16>(value);
    if (type == ElementType::kBfloat16) static_cast<Bfloat16*>(to)[i] = FromFloat<Bfloat16>(value);
  }
}

// Runs layers on probe rows and fetches the results.
class Prober {
 public:
  Prober(CudaRuntime& runtime, EncoderKernels& kernels, ElementType type, const PinningBuffers& buffers, CudaHandle stream)
      : runtime_(runtime),
        kernels_(kernels),
        size_(static_cast<int64_t>(ElementSize(type))),
        buffers_(buffers),
        stream_(stream) {}

  absl::Status Init(ElementType type, const DenseShape& shape, int32_t probe_rows) {
    LOCI_ASSIGN_OR_RETURN(event_, Own<CudaEvent>(runtime_, runtime_.CreateEvent(EventWait::kBlock)));
    LOCI_ASSIGN_OR_RETURN(
        pinned_,
        Own<PinnedMemory>(runtime_, runtime_.AllocatePinned(std::max<int64_t>(shape.cols, shape.depth) * probe_rows * size_)));
    const int64_t count = static_cast<int64_t>(shape.depth) * probe_rows;
    FillRandom(type, count, pinned_.get());
    LOCI_RETURN_IF_ERROR(runtime_.CopyToDevice(buffers_.input, pinned_.get(), count * size_, stream_));
    return Finish();
  }

  // The first `fetched` rows of what `layer` makes of `rows` rows, beginning with the input's row `shift`.
  absl::Status Run(const DenseShape& shape, int32_t rows, int32_t shift, int32_t fetched, std::vector<char>* result) {
    const int64_t bytes = fetched * shape.cols * size_;
    // Not a number wherever nothing is written.
    LOCI_RETURN_IF_ERROR(runtime_.Fill(buffers_.output, 0xFF, rows * static_cast<int64_t>(shape.cols) * size_, stream_));
    LOCI_RETURN_IF_ERROR(kernels_.Dense(shape.layer, buffers_.output,
                                        static_cast<char*>(buffers_.input) + shift * shape.depth * size_, rows, stream_));
    LOCI_RETURN_IF_ERROR(runtime_.CopyToHost(pinned_.get(), buffers_.output, bytes, stream_));
    LOCI_RETURN_IF_ERROR(Finish());
    result->assign(static_cast<const char*>(pinned_.get()), static_cast<const char*>(pinned_.get()) + bytes);
    return absl::OkStatus();
  }

 private:
  absl::Status Finish() {
    LOCI_RETURN_IF_ERROR(runtime_.Record(event_.get(), stream_));
    return runtime_.Wait(event_.get());
  }

  CudaRuntime& runtime_;
  EncoderKernels& kernels_;
  const int64_t size_;
  const PinningBuffers buffers_;
  const CudaHandle stream_;
  CudaEvent event_;
  PinnedMemory pinned_;
};

// Whether the pinned algorithm gives each row the same bits at each number of rows and at another place.
absl::StatusOr<bool> IsInvariant(Prober* prober, const DenseShape& shape, const std::vector<int32_t>& row_counts,
                                 int64_t element_size) {
  const int32_t most = row_counts.back(), probe_rows = std::min(most, kProbeRows);
  const int64_t row_bytes = shape.cols * element_size;
  std::vector<char> expected, actual;
  LOCI_RETURN_IF_ERROR(prober->Run(shape, most, 0, probe_rows, &expected));
  for (const int32_t rows : row_counts) {
    if (rows > probe_rows && rows != most) continue;
    LOCI_RETURN_IF_ERROR(prober->Run(shape, rows, 0, std::min(rows, probe_rows), &actual));
    if (std::memcmp(actual.data(), expected.data(), actual.size()) != 0) return false;
  }
  // An odd number of rows later where alignment lets it.
  const int64_t step = kAlignment / std::gcd(kAlignment, shape.depth * element_size);
  for (const int32_t rows : row_counts) {
    const int32_t shift = static_cast<int32_t>(step * (step < 8 ? 5 : 1));
    if (shift + rows > probe_rows) break;
    LOCI_RETURN_IF_ERROR(prober->Run(shape, rows, shift, rows, &actual));
    if (std::memcmp(actual.data(), expected.data() + shift * row_bytes, actual.size()) != 0) return false;
  }
  return true;
}

}  // namespace

absl::Status PinDenseShape(CudaRuntime& runtime, EncoderKernels& kernels, const DenseShape& shape,
                           const std::vector<int32_t>& row_counts, ElementType type, const PinningBuffers& buffers,
                           CudaHandle stream) {
  Prober prober(runtime, kernels, type, buffers, stream);
  LOCI_RETURN_IF_ERROR(prober.Init(type, shape, std::min(row_counts.back(), kProbeRows)));
  LOCI_ASSIGN_OR_RETURN(const int candidates, kernels.DenseCandidates(shape.cols, shape.depth));
  std::string refused;
  for (int candidate = 0; candidate < candidates; ++candidate) {
    kernels.PinDense(shape.cols, shape.depth, candidate);
    const absl::StatusOr<bool> invariant = IsInvariant(&prober, shape, row_counts, static_cast<int64_t>(ElementSize(type)));
    // That an algorithm is proposed does not promise that it runs. What comes of the device ends the search.
    if (absl::IsFailedPrecondition(invariant.status())) {
      refused = absl::StrCat("; one of them: ", invariant.status().message());
      continue;
    }
    LOCI_RETURN_IF_ERROR(invariant.status());
    if (*invariant) return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat("none of ", candidates, " algorithms for products of depth ", shape.depth,
                                                    " and width ", shape.cols, " gives a row the same bits in every batch", refused));
}

}  // namespace loci::cuda
