#include "index/cuda/resident_vectors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/strings.h"

namespace loci {
namespace {

constexpr int kSlots = 2;
constexpr int64_t kAccessBytes = 16;  // The widest access.
constexpr int kDepthUnit = 32;        // Bytes that one matrix instruction takes of a row.

int64_t RoundUpTo(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Row r of a panel as signed bytes.
void CopyCodes(const PanelHeader* panel, int64_t r, int dim, int8_t* out) {
  const char* const codes = reinterpret_cast<const char*>(panel + 1) + r * kPanelElements;
  for (int step = 0; step < PanelSteps(dim); ++step) {
    uint32_t word;
    std::memcpy(&word, codes + step * kPanelRows * kPanelElements, sizeof(word));
    word ^= 0x80808080u;
    std::memcpy(out + step * kPanelElements, &word, sizeof(word));
  }
}

// Where the parts of a piece of so many rows lie in pinned memory.
struct Piece {
  int8_t* codes;
  float* inverse_scales;
  float* lengths;
  float* errors;
  char* rows;
};

}  // namespace

absl::StatusOr<SearchDevice> OpenSearchDevice(int ordinal) {
  SearchDevice device;
  device.name = absl::StrCat("cuda:", ordinal);
  LOCI_ASSIGN_OR_RETURN(device.runtime, OpenCudaRuntime(ordinal));
  LOCI_ASSIGN_OR_RETURN(device.kernels, cuda::MakeCudaSearchKernels(ordinal));
  device.health = std::make_shared<CudaHealth>(device.name);
  return device;
}

absl::StatusOr<ResidentPlan> PlanResident(int64_t rows, int dim, ElementType type, int64_t free_bytes,
                                          const ResidentLimits& limits) {
  const int64_t most = std::numeric_limits<int32_t>::max() - cuda::kMaxTileRows;
  if (rows > most) return absl::FailedPreconditionError(absl::StrCat(rows, " rows are more than a device searches, ", most));
  ResidentPlan plan;
  plan.padded_rows = RoundUpTo(std::max<int64_t>(rows, 1), cuda::kMaxTileRows);
  plan.depth = static_cast<int>(RoundUpTo(dim, kDepthUnit));
  plan.row_bytes = RoundUpTo(std::max<int64_t>(rows, 1) * dim * static_cast<int64_t>(ElementSize(type)), kAccessBytes);
  plan.code_bytes = plan.padded_rows * plan.depth;
  plan.figure_bytes = plan.padded_rows * static_cast<int64_t>(sizeof(float));
  const int64_t wanted = plan.device_bytes() + limits.working_bytes;
  if (wanted > free_bytes - limits.reserved_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        rows, " rows of ", dim, " ", AbslView(ElementTypeName(type)), " take ", wanted, " bytes on the device (rows ",
        plan.row_bytes, ", 8-bit codes and their figures ", plan.device_bytes() - plan.row_bytes, ", working memory ",
        limits.working_bytes, "); ", free_bytes, " are free, of which ", limits.reserved_bytes, " are left alone"));
  }
  return plan;
}

absl::StatusOr<std::unique_ptr<ResidentVectors>> ResidentVectors::Create(
    const SearchDevice& device, const VectorFile& vectors, const QuantizedVectors* codes, const ResidentLimits& limits,
    const std::function<absl::Status(int64_t done_rows)>& progress) {
  LOCI_RETURN_IF_ERROR(device.health->Check());
  if (codes != nullptr && (codes->rows() != vectors.rows() || codes->dim() != vectors.dim())) {
    return absl::InternalError(absl::StrCat("codes of ", codes->rows(), " x ", codes->dim(), " are not those of vectors ",
                                            vectors.rows(), " x ", vectors.dim()));
  }
  auto resident = std::unique_ptr<ResidentVectors>(new ResidentVectors(device.runtime));
  absl::Status from_caller;
  const absl::Status status = resident->Init(vectors, codes, limits, [&](int64_t done_rows) {
    if (progress != nullptr) from_caller = progress(done_rows);
    return from_caller;
  });
  if (!from_caller.ok()) return from_caller;
  if (absl::IsUnavailable(status)) return device.health->Fail(status);
  LOCI_RETURN_IF_ERROR(status);
  return resident;
}

absl::Status ResidentVectors::Init(const VectorFile& vectors, const QuantizedVectors* codes, const ResidentLimits& limits,
                                   const std::function<absl::Status(int64_t done_rows)>& progress) {
  CudaRuntime& runtime = *runtime_;
  const int dim = vectors.dim();
  const int64_t row_size = dim * static_cast<int64_t>(ElementSize(vectors.element_type()));
  LOCI_ASSIGN_OR_RETURN(const CudaRuntime::Memory memory, runtime.GetMemory());
  LOCI_ASSIGN_OR_RETURN(plan_, PlanResident(vectors.rows(), dim, vectors.element_type(), memory.free_bytes, limits));
  LOCI_ASSIGN_OR_RETURN(rows_, Own<DeviceMemory>(runtime, runtime.Allocate(plan_.row_bytes)));
  LOCI_ASSIGN_OR_RETURN(codes_, Own<DeviceMemory>(runtime, runtime.Allocate(plan_.code_bytes)));
  LOCI_ASSIGN_OR_RETURN(inverse_scales_, Own<DeviceMemory>(runtime, runtime.Allocate(plan_.figure_bytes)));
  LOCI_ASSIGN_OR_RETURN(lengths_, Own<DeviceMemory>(runtime, runtime.Allocate(plan_.figure_bytes)));
  LOCI_ASSIGN_OR_RETURN(errors_, Own<DeviceMemory>(runtime, runtime.Allocate(plan_.figure_bytes)));

  const int64_t bytes_per_row = plan_.depth + 3 * 4 + row_size;
  const int64_t piece_rows =
      std::min(plan_.padded_rows, std::max<int64_t>(limits.upload_bytes / bytes_per_row / kPanelRows, 1) * kPanelRows);
  struct Slot {
    PinnedMemory pinned;
    CudaEvent event;
  };
  LOCI_ASSIGN_OR_RETURN(const CudaStream stream, Own<CudaStream>(runtime, runtime.CreateStream()));
  std::array<Slot, kSlots> slots;
  for (Slot& slot : slots) {
    LOCI_ASSIGN_OR_RETURN(slot.pinned, Own<PinnedMemory>(runtime, runtime.AllocatePinned(piece_rows * bytes_per_row)));
    LOCI_ASSIGN_OR_RETURN(slot.event, Own<CudaEvent>(runtime, runtime.CreateEvent(EventWait::kBlock)));
  }
  std::vector<float> row(static_cast<size_t>(dim));
  size_t turn = 0;
  for (int64_t first = 0; first < plan_.padded_rows; first += piece_rows, ++turn) {
    Slot& slot = slots[turn % kSlots];
    if (turn >= kSlots) LOCI_RETURN_IF_ERROR(runtime.Wait(slot.event.get()));
    const int64_t count = std::min(piece_rows, plan_.padded_rows - first);
    const int64_t stored = std::clamp<int64_t>(vectors.rows() - first, 0, count);
    char* at = static_cast<char*>(slot.pinned.get());
    const auto take = [&at](int64_t bytes) { return std::exchange(at, at + bytes); };
    Piece piece;
    piece.codes = reinterpret_cast<int8_t*>(take(count * plan_.depth));
    piece.inverse_scales = reinterpret_cast<float*>(take(count * 4));
    piece.lengths = reinterpret_cast<float*>(take(count * 4));
    piece.errors = reinterpret_cast<float*>(take(count * 4));
    piece.rows = take(stored * row_size);
    std::memset(piece.codes, 0, static_cast<size_t>(count * (plan_.depth + 3 * 4)));
    for (int64_t i = 0; i < stored; ++i) {
      QuantizedVector figures;
      int8_t* const row_codes = piece.codes + i * plan_.depth;
      if (codes != nullptr) {
        const PanelHeader* const panel = codes->panel((first + i) / kPanelRows);
        const int64_t r = (first + i) % kPanelRows;
        CopyCodes(panel, r, dim, row_codes);
        figures = {.inverse_scale = panel->inverse_scale[r], .length = panel->length[r], .error = panel->error[r]};
      } else {
        vectors.CopyRow(first + i, row.data());
        figures = Quantize(row.data(), dim, row_codes);
      }
      piece.inverse_scales[i] = figures.inverse_scale;
      piece.lengths[i] = figures.length;
      piece.errors[i] = figures.error;
    }
    if (stored > 0) std::memcpy(piece.rows, vectors.row(first), static_cast<size_t>(stored * row_size));
    const auto copy = [&](const DeviceMemory& to, int64_t unit, const void* from, int64_t units) -> absl::Status {
      if (units == 0) return absl::OkStatus();
      return runtime.CopyToDevice(static_cast<char*>(to.get()) + first * unit, from, units * unit, stream.get());
    };
    LOCI_RETURN_IF_ERROR(copy(codes_, plan_.depth, piece.codes, count));
    LOCI_RETURN_IF_ERROR(copy(inverse_scales_, 4, piece.inverse_scales, count));
    LOCI_RETURN_IF_ERROR(copy(lengths_, 4, piece.lengths, count));
    LOCI_RETURN_IF_ERROR(copy(errors_, 4, piece.errors, count));
    LOCI_RETURN_IF_ERROR(copy(rows_, row_size, piece.rows, stored));
    LOCI_RETURN_IF_ERROR(runtime.Record(slot.event.get(), stream.get()));
    // A file that could not be read was read as something else.
    absl::Status status = vectors.Check();
    if (status.ok() && codes != nullptr) status = codes->Check();
    if (status.ok()) status = progress(first + stored);
    if (!status.ok()) {
      LOCI_RETURN_IF_ERROR(runtime.Wait(slot.event.get()));  // Nothing copies from or to what is freed.
      return status;
    }
  }
  for (size_t i = 0; i < std::min<size_t>(turn, kSlots); ++i) {
    LOCI_RETURN_IF_ERROR(runtime.Wait(slots[(turn - 1 - i) % kSlots].event.get()));
  }
  return absl::OkStatus();
}

}  // namespace loci
