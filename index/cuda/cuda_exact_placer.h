// Makes exact indexes resident on one CUDA device, within a limit.
#ifndef LOCI_INDEX_CUDA_CUDA_EXACT_PLACER_H_
#define LOCI_INDEX_CUDA_CUDA_EXACT_PLACER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "index/cuda/cuda_exact_index.h"
#include "index/cuda/resident_vectors.h"
#include "index/placed_exact_index.h"

namespace loci {

// Thread-safe. What it has made may outlive it.
class CudaExactPlacer : public ExactPlacer {
 public:
  // All indexes together may have so much of the device's memory; 0: what is free. `options` are each index's.
  CudaExactPlacer(SearchDevice device, CudaSearchOptions options, int64_t memory_limit_bytes = 0);

  const std::string& device() const override { return device_.name; }
  CudaHealth& health() const override { return *device_.health; }
  bool IsFor(int64_t rows, int dim) const override;
  int64_t host_bytes(int64_t rows, int dim) const override;
  absl::StatusOr<std::shared_ptr<const DeviceExactIndex>> Place(std::shared_ptr<const VectorFile> vectors,
                                                                std::shared_ptr<const QuantizedVectors> codes,
                                                                std::shared_ptr<const PassageIndex> cpu,
                                                                const std::function<absl::Status(int64_t done_rows)>& progress) override;

 private:
  class Budget;

  const SearchDevice device_;
  const CudaSearchOptions options_;
  const std::shared_ptr<Budget> budget_;
};

}  // namespace loci

#endif  // LOCI_INDEX_CUDA_CUDA_EXACT_PLACER_H_
