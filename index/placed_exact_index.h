// Exact search of a generation: on a device while its rows are resident there, else on the CPU. The hits are the same, bit for bit.
//
//   PlacedExactIndex exact(std::move(cpu));                                       // the CPU searches
//   LOCI_ASSIGN_OR_RETURN(auto resident, placer.Place(vectors, codes, exact.cpu(), nullptr));
//   exact.SetDevice(std::move(resident));                                         // the device does
//   std::shared_ptr<const DeviceExactIndex> replaced = exact.SetDevice(nullptr);  // the CPU again; freed once no search runs on it
#ifndef LOCI_INDEX_PLACED_EXACT_INDEX_H_
#define LOCI_INDEX_PLACED_EXACT_INDEX_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cuda/health.h"
#include "base/mutex.h"
#include "index/exact_index.h"
#include "index/passage_index.h"
#include "index/quantized_vectors.h"
#include "index/vector_file.h"

namespace loci {

class DeviceSoftmax;

// An exact index whose rows are resident on a device. Search is UNAVAILABLE once the device failed.
class DeviceExactIndex : public PassageIndex {
 public:
  // Queries since it was made: answered on the device, those of them that were scanned for again, and left to the CPU.
  struct Counts {
    int64_t answered = 0;
    int64_t repeated = 0;
    int64_t left = 0;
  };
  virtual int64_t device_bytes() const = 0;  // memory_bytes() are the host's.
  virtual Counts counts() const = 0;

  // What gives log Z and the mean vector over the rows that `hidden` leaves (device_softmax.h), for as long as this index is there. Null: the CPU does,
  // since few rows are left, or the device had no room for it or found something else when the index was made.
  virtual const DeviceSoftmax* softmax(const RowMask& hidden) const;
};

// A device that exact indexes are made resident on. Thread-safe.
class ExactPlacer {
 public:
  virtual ~ExactPlacer() = default;

  virtual const std::string& device() const = 0;  // "cuda:N"
  virtual CudaHealth& health() const = 0;         // Shared by all that uses the device.

  // Whether the device is to search vectors like these: few are searched faster by the CPU.
  virtual bool IsFor(int64_t rows, int dim) const = 0;
  // Host memory that an index of so many rows takes while it is made and after.
  virtual int64_t host_bytes(int64_t rows, int dim) const = 0;

  // `codes`: those of `vectors`, or null; `cpu`: their exact index. RESOURCE_EXHAUSTED, with figures, where the device has too little memory now;
  // FAILED_PRECONDITION where it can't search them, or finds what the CPU does not; UNAVAILABLE where it failed; DATA_LOSS where the vectors can't be
  // read; what `progress(done_rows)` (may be null) returns, unless OK. Blocks for as long as the upload takes.
  virtual absl::StatusOr<std::shared_ptr<const DeviceExactIndex>> Place(
      std::shared_ptr<const VectorFile> vectors, std::shared_ptr<const QuantizedVectors> codes, std::shared_ptr<const PassageIndex> cpu,
      const std::function<absl::Status(int64_t done_rows)>& progress) = 0;
};

// Thread-safe. A search ends where it began, wherever the next one goes.
class PlacedExactIndex : public PassageIndex {
 public:
  explicit PlacedExactIndex(std::shared_ptr<const ExactIndex> cpu) : cpu_(std::move(cpu)) {}

  int64_t row_count() const override { return cpu_->row_count(); }
  int dim() const override { return cpu_->dim(); }
  std::string name() const override { return cpu_->name(); }
  int64_t memory_bytes() const override;
  bool IsExact(const IndexSearchOptions& options, const RowMask& hidden) const override { return cpu_->IsExact(options, hidden); }
  absl::Status Search(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden,
                      RowHit* hits) const override;

  const std::shared_ptr<const ExactIndex>& cpu() const { return cpu_; }
  std::shared_ptr<const DeviceExactIndex> device() const;  // Null: the CPU searches.

  // Where searches go from now on; null: to the CPU. Returns where they went: searches that have begun are under way there, so that whoever frees
  // it waits for them. Part of no generation's content, so const.
  std::shared_ptr<const DeviceExactIndex> SetDevice(std::shared_ptr<const DeviceExactIndex> device) const;

  // Why the CPU searches what was meant for a device: RESOURCE_EXHAUSTED while it waits for room there, another error where it can't be had. OK where
  // it was not meant for one, or is there.
  absl::Status refusal() const;
  void SetRefusal(absl::Status refusal) const;

 private:
  const std::shared_ptr<const ExactIndex> cpu_;
  mutable Mutex mutex_;
  mutable std::shared_ptr<const DeviceExactIndex> device_ ABSL_GUARDED_BY(mutex_);
  mutable absl::Status refusal_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace loci

#endif  // LOCI_INDEX_PLACED_EXACT_INDEX_H_
