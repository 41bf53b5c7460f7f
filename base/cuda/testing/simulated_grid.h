// Runs a kernel body on the host as a grid of threads would run it: the same source, with barriers, shuffles and matrix instructions.
//
//   SimulatedGrid grid = {.blocks_x = 3, .block_size = 128, .shared_bytes = 4096};
//   absl::Status status = RunSimulated(grid, [&](SimulatedThread& thread) { MyBody(thread, args); });
//
// The threads of a block are fibers that run one at a time, each until it reaches a barrier or an instruction of its whole warp; a warp runs
// ahead of the others as far as the block's barriers let it. Shared memory holds NaNs at first. Another `order` shows where a barrier is
// missing, before a value is read or before it is written over: a body that has all it needs gives the same bits in each.
#ifndef LOCI_BASE_CUDA_TESTING_SIMULATED_GRID_H_
#define LOCI_BASE_CUDA_TESTING_SIMULATED_GRID_H_

#include <cstddef>
#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "base/cuda/element.h"

namespace loci::cuda {

enum class ThreadOrder { kForward, kBackward, kShuffled };

struct SimulatedGrid {
  int blocks_x = 1;
  int blocks_y = 1;
  int block_size = 32;
  int64_t shared_bytes = 0;
  ThreadOrder order = ThreadOrder::kForward;
};

class SimulatedBlock;

// The same names as DeviceThread's (base/cuda/device_thread.h), which says what they do.
class SimulatedThread {
 public:
  int block_x() const { return block_x_; }
  int block_y() const { return block_y_; }
  int grid_x() const { return grid_x_; }
  int block_size() const { return block_size_; }
  int index() const { return index_; }
  int lane() const { return index_ & 31; }
  int warp() const { return index_ >> 5; }
  void Sync();
  float ShuffleXor(float value, int mask);
  template <typename T>
  void MultiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
  void MultiplyAddInt8(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
  void LoadMatricesTransposed(uint32_t (&out)[4], const void* row);
  void LoadMatrices(uint32_t (&out)[4], const void* row);
  // Copied when they are waited for, no sooner.
  void CopyAsync16(void* to, const void* from);
  void CommitCopies();
  template <int pending>
  void WaitCopies() {
    WaitForCopies(pending);
  }
  int32_t AtomicAdd(int32_t* to, int32_t value) {
    const int32_t before = *to;
    *to += value;
    return before;
  }
  void* shared() const { return shared_; }

 private:
  friend class SimulatedBlock;

  void WaitForCopies(size_t pending);

  SimulatedBlock* block_ = nullptr;
  int block_x_ = 0, block_y_ = 0, grid_x_ = 1, block_size_ = 0, index_ = 0;
  void* shared_ = nullptr;
};

// INTERNAL where threads of a block wait for each other at different places, or one has returned that others wait for: on a device that
// hangs or is undefined. Runs on the calling thread.
absl::Status RunSimulated(const SimulatedGrid& grid, const std::function<void(SimulatedThread&)>& body);

}  // namespace loci::cuda

#endif  // LOCI_BASE_CUDA_TESTING_SIMULATED_GRID_H_
