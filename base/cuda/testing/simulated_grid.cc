#include "base/cuda/testing/simulated_grid.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

// Saves what a call keeps on the stack, and the stack pointer in *save; goes on where `load` was saved. (swapcontext asks the kernel for
// the signal mask each time, which takes most of a test's time.)
extern "C" void LociSwitchStack(void** save, void* load);
asm(R"(
.text
.p2align 4
.type LociSwitchStack, @function
LociSwitchStack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size LociSwitchStack, .-LociSwitchStack
)");

namespace loci::cuda {
namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr int kWarp = 32;
// What a block of compute capability 9.0 may have.
constexpr int64_t kMaxSharedBytes = 227 << 10;

enum class At {
  kReady,
  kDone,
  kSync,
  kShuffle,
  kMultiplyBfloat16,
  kMultiplyFloat16,
  kMultiplyInt8,
  kLoadMatrices,
  kLoadTransposed
};

const char* Name(At at) {
  switch (at) {
    case At::kReady:
      return "running";
    case At::kDone:
      return "returned";
    case At::kSync:
      return "Sync";
    case At::kShuffle:
      return "ShuffleXor";
    case At::kMultiplyBfloat16:
    case At::kMultiplyFloat16:
      return "MultiplyAdd";
    case At::kMultiplyInt8:
      return "MultiplyAddInt8";
    case At::kLoadMatrices:
      return "LoadMatrices";
    case At::kLoadTransposed:
      return "LoadMatricesTransposed";
  }
  return "";
}

template <typename T>
float Element(uint32_t word, int half) {
  return ToFloat(T{static_cast<uint16_t>(half == 0 ? word & 0xffffu : word >> 16)});
}

}  // namespace

class SimulatedBlock {
 public:
  SimulatedBlock(const SimulatedGrid& grid, const std::function<void(SimulatedThread&)>& body)
      : grid_(grid),
        body_(body),
        fibers_(static_cast<size_t>(grid.block_size)),
        shared_(static_cast<size_t>(grid.shared_bytes + 15) / 16 + 1) {
    stacks_ = std::make_unique_for_overwrite<std::byte[]>(kStackBytes * fibers_.size());  // Aligned to 16 bytes, as new does.
    warps_.resize(fibers_.size() / kWarp);
    lanes_.resize(kWarp);
    std::iota(warps_.begin(), warps_.end(), size_t{0});
    std::iota(lanes_.begin(), lanes_.end(), size_t{0});
    if (grid.order == ThreadOrder::kBackward) {
      std::reverse(warps_.begin(), warps_.end());
      std::reverse(lanes_.begin(), lanes_.end());
    }
  }

  absl::Status Run(int x, int y) {
    std::memset(shared_.data(), 0xFF, shared_.size() * sizeof(shared_[0]));
    for (size_t i = 0; i < fibers_.size(); ++i) {
      Fiber& fiber = fibers_[i];
      fiber.at = At::kReady;
      fiber.copies.clear();
      fiber.committed.clear();
      fiber.thread.block_ = this;
      fiber.thread.block_x_ = x;
      fiber.thread.block_y_ = y;
      fiber.thread.grid_x_ = grid_.blocks_x;
      fiber.thread.block_size_ = grid_.block_size;
      fiber.thread.index_ = static_cast<int>(i);
      fiber.thread.shared_ = shared_.data();
      fiber.bottom = stacks_.get() + i * kStackBytes;
      fiber.stack = NewStack(fiber.bottom);
    }
    for (;;) {
      if (grid_.order == ThreadOrder::kShuffled) {
        std::shuffle(warps_.begin(), warps_.end(), random_);
        std::shuffle(lanes_.begin(), lanes_.end(), random_);
      }
      bool any = false;
      for (const size_t warp : warps_) any = Advance(warp) || any;
      if (std::all_of(fibers_.begin(), fibers_.end(), [](const Fiber& f) { return f.at == At::kDone; })) return absl::OkStatus();
      any = ReleaseBlock() || any;
      if (!any) return Stuck(x, y);
    }
  }

  void Reach(SimulatedThread* thread, At at) {
    Fiber& fiber = fibers_[static_cast<size_t>(thread->index())];
    fiber.at = at;
    Leave(&fiber, false);
  }

  struct Fiber {
    void* stack = nullptr;
    std::byte* bottom = nullptr;
    SimulatedThread thread;
    At at = At::kReady;
    // Arguments of what is waited for.
    float value = 0;
    int mask = 0;
    float* c = nullptr;
    const uint32_t* a = nullptr;
    uint32_t b[2] = {0, 0};
    uint32_t* out = nullptr;
    const void* row = nullptr;
    int32_t* int_c = nullptr;
    // Copies under way.
    std::vector<std::pair<void*, const void*>> copies;
    std::deque<std::vector<std::pair<void*, const void*>>> committed;
  };
  Fiber& fiber(int index) { return fibers_[static_cast<size_t>(index)]; }

 private:
  // A stack from which LociSwitchStack returns to Enter, aligned as at a function's beginning.
  static void* NewStack(std::byte* bottom) {
    auto* const top = reinterpret_cast<void**>(bottom + kStackBytes);
    void** const saved = top - 8;  // Six registers, the address to go on at, and one place so that it is aligned.
    std::fill(saved, top, nullptr);
    saved[6] = reinterpret_cast<void*>(&SimulatedBlock::Enter);
    return saved;
  }

  static void Enter() {
    SimulatedBlock* const block = running_;
    Fiber* const fiber = block->current_;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &block->main_stack_, &block->main_stack_bytes_);
#endif
    block->body_(fiber->thread);
    fiber->at = At::kDone;
    block->Leave(fiber, true);
  }

  void Resume(Fiber* fiber) {
    current_ = fiber;
    running_ = this;
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, fiber->bottom, kStackBytes);
#endif
    LociSwitchStack(&main_, fiber->stack);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  void Leave(Fiber* fiber, [[maybe_unused]] bool for_ever) {
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(for_ever ? nullptr : &fake_stack, main_stack_, main_stack_bytes_);
#endif
    LociSwitchStack(&fiber->stack, main_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, &main_stack_, &main_stack_bytes_);
#endif
  }

  // Runs a warp as far as it goes without the others, or some way where the order is shuffled. False where it can't go on.
  bool Advance(size_t warp) {
    Fiber* const lanes = &fibers_[warp * kWarp];
    bool any = false;
    for (;;) {
      bool ran = false;
      for (const size_t lane : lanes_) {
        if (lanes[lane].at != At::kReady) continue;
        ran = true;
        Resume(&lanes[lane]);
      }
      ran = RunWarp(lanes) || ran;
      if (!ran) return any;
      any = true;
      if (grid_.order == ThreadOrder::kShuffled && random_() % 4 == 0) return true;
    }
  }

  // Runs what all lanes of a warp have reached. False where there was nothing.
  static bool RunWarp(Fiber* lanes) {
    const At at = lanes[0].at;
    if (at == At::kReady || at == At::kDone || at == At::kSync) return false;
    if (!std::all_of(lanes, lanes + kWarp, [at](const Fiber& f) { return f.at == at; })) return false;
    if (at == At::kShuffle) {
      std::array<float, kWarp> values;
      for (int i = 0; i < kWarp; ++i) values[static_cast<size_t>(i)] = lanes[i].value;
      for (int i = 0; i < kWarp; ++i) lanes[i].value = values[static_cast<size_t>(i ^ lanes[i].mask)];
    } else if (at == At::kLoadMatrices || at == At::kLoadTransposed) {
      LoadMatrices(lanes, at == At::kLoadTransposed);
    } else if (at == At::kMultiplyInt8) {
      MultiplyInt8(lanes);
    } else if (at == At::kMultiplyBfloat16) {
      Multiply<Bfloat16>(lanes);
    } else {
      Multiply<Float16>(lanes);
    }
    for (int i = 0; i < kWarp; ++i) lanes[i].at = At::kReady;
    return true;
  }

  bool ReleaseBlock() {
    if (!std::all_of(fibers_.begin(), fibers_.end(), [](const Fiber& f) { return f.at == At::kSync; })) return false;
    for (Fiber& fiber : fibers_) fiber.at = At::kReady;
    return true;
  }

  static void LoadMatrices(Fiber* lanes, bool transposed) {
    for (int lane = 0; lane < kWarp; ++lane) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        uint16_t pair[2];
        for (int half = 0; half < 2; ++half) {
          const int along = lane / 4, pair_at = 2 * (lane % 4) + half;
          const void* const row = lanes[8 * matrix + (transposed ? pair_at : along)].row;
          std::memcpy(&pair[half], static_cast<const uint16_t*>(row) + (transposed ? along : pair_at), 2);
        }
        lanes[lane].out[matrix] = pair[0] | (static_cast<uint32_t>(pair[1]) << 16);
      }
    }
  }

  template <typename T>
  static void Multiply(Fiber* lanes) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < kWarp; ++lane) {
      const int g = lane / 4, t = lane % 4;
      for (int half = 0; half < 2; ++half) {
        a[g][2 * t + half] = Element<T>(lanes[lane].a[0], half);
        a[g + 8][2 * t + half] = Element<T>(lanes[lane].a[1], half);
        a[g][2 * t + 8 + half] = Element<T>(lanes[lane].a[2], half);
        a[g + 8][2 * t + 8 + half] = Element<T>(lanes[lane].a[3], half);
        b[2 * t + half][g] = Element<T>(lanes[lane].b[0], half);
        b[2 * t + 8 + half][g] = Element<T>(lanes[lane].b[1], half);
      }
    }
    for (int lane = 0; lane < kWarp; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + (i < 2 ? 0 : 8), column = 2 * (lane % 4) + i % 2;
        double sum = lanes[lane].c[i];
        for (int k = 0; k < 16; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
        lanes[lane].c[i] = static_cast<float>(sum);
      }
    }
  }

  static int Byte(uint32_t word, int i) { return static_cast<int8_t>(word >> (8 * i) & 0xffu); }

  static void MultiplyInt8(Fiber* lanes) {
    int a[16][32], b[32][8];
    for (int lane = 0; lane < kWarp; ++lane) {
      const int g = lane / 4, t = lane % 4;
      for (int i = 0; i < 4; ++i) {
        a[g][4 * t + i] = Byte(lanes[lane].a[0], i);
        a[g + 8][4 * t + i] = Byte(lanes[lane].a[1], i);
        a[g][4 * t + 16 + i] = Byte(lanes[lane].a[2], i);
        a[g + 8][4 * t + 16 + i] = Byte(lanes[lane].a[3], i);
        b[4 * t + i][g] = Byte(lanes[lane].b[0], i);
        b[4 * t + 16 + i][g] = Byte(lanes[lane].b[1], i);
      }
    }
    for (int lane = 0; lane < kWarp; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + (i < 2 ? 0 : 8), column = 2 * (lane % 4) + i % 2;
        for (int k = 0; k < 32; ++k) lanes[lane].int_c[i] += a[row][k] * b[k][column];
      }
    }
  }

  absl::Status Stuck(int x, int y) const {
    std::string message = absl::StrCat("block (", x, ", ", y, ") is stuck: thread 0 is at ", Name(fibers_[0].at));
    for (size_t i = 1; i < fibers_.size(); ++i) {
      if (fibers_[i].at != fibers_[0].at)
        return absl::InternalError(absl::StrCat(message, ", thread ", i, " at ", Name(fibers_[i].at)));
    }
    return absl::InternalError(message);
  }

  static thread_local SimulatedBlock* running_;

  const SimulatedGrid grid_;
  const std::function<void(SimulatedThread&)>& body_;
  std::vector<Fiber> fibers_;
  std::unique_ptr<std::byte[]> stacks_;
  std::vector<std::array<uint64_t, 2>> shared_;
  std::vector<size_t> warps_, lanes_;  // In the order in which they run.
  std::mt19937 random_{7};
  void* main_ = nullptr;
  Fiber* current_ = nullptr;
  const void* main_stack_ = nullptr;
  size_t main_stack_bytes_ = 0;
};

thread_local SimulatedBlock* SimulatedBlock::running_ = nullptr;

void SimulatedThread::Sync() { block_->Reach(this, At::kSync); }

float SimulatedThread::ShuffleXor(float value, int mask) {
  SimulatedBlock::Fiber& fiber = block_->fiber(index_);
  fiber.value = value;
  fiber.mask = mask;
  block_->Reach(this, At::kShuffle);
  return fiber.value;
}

template <typename T>
void SimulatedThread::MultiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  SimulatedBlock::Fiber& fiber = block_->fiber(index_);
  fiber.c = c;
  fiber.a = a;
  fiber.b[0] = b0;
  fiber.b[1] = b1;
  block_->Reach(this, std::is_same_v<T, Bfloat16> ? At::kMultiplyBfloat16 : At::kMultiplyFloat16);
}
template void SimulatedThread::MultiplyAdd<Bfloat16>(float (&)[4], const uint32_t (&)[4], uint32_t, uint32_t);
template void SimulatedThread::MultiplyAdd<Float16>(float (&)[4], const uint32_t (&)[4], uint32_t, uint32_t);

void SimulatedThread::LoadMatricesTransposed(uint32_t (&out)[4], const void* row) {
  SimulatedBlock::Fiber& fiber = block_->fiber(index_);
  fiber.out = out;
  fiber.row = row;
  block_->Reach(this, At::kLoadTransposed);
}

void SimulatedThread::LoadMatrices(uint32_t (&out)[4], const void* row) {
  SimulatedBlock::Fiber& fiber = block_->fiber(index_);
  fiber.out = out;
  fiber.row = row;
  block_->Reach(this, At::kLoadMatrices);
}

void SimulatedThread::MultiplyAddInt8(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  SimulatedBlock::Fiber& fiber = block_->fiber(index_);
  fiber.int_c = c;
  fiber.a = a;
  fiber.b[0] = b0;
  fiber.b[1] = b1;
  block_->Reach(this, At::kMultiplyInt8);
}

void SimulatedThread::CopyAsync16(void* to, const void* from) { block_->fiber(index_).copies.push_back({to, from}); }

void SimulatedThread::CommitCopies() {
  SimulatedBlock::Fiber& fiber = block_->fiber(index_);
  fiber.committed.push_back(std::move(fiber.copies));
  fiber.copies.clear();
}

void SimulatedThread::WaitForCopies(size_t pending) {
  SimulatedBlock::Fiber& fiber = block_->fiber(index_);
  while (fiber.committed.size() > pending) {
    for (const auto& [to, from] : fiber.committed.front()) std::memcpy(to, from, 16);
    fiber.committed.pop_front();
  }
}

absl::Status RunSimulated(const SimulatedGrid& grid, const std::function<void(SimulatedThread&)>& body) {
  if (grid.block_size < kWarp || grid.block_size > 1024 || grid.block_size % kWarp != 0 || grid.blocks_x < 1 ||
      grid.blocks_y < 1 || grid.blocks_y > 65535 || grid.shared_bytes > kMaxSharedBytes) {
    return absl::InternalError(absl::StrCat("a grid of ", grid.blocks_x, " x ", grid.blocks_y, " blocks of ", grid.block_size,
                                            " threads with ", grid.shared_bytes, " bytes of shared memory can't be launched"));
  }
  SimulatedBlock block(grid, body);
  for (int y = 0; y < grid.blocks_y; ++y) {
    for (int x = 0; x < grid.blocks_x; ++x) {
      if (absl::Status status = block.Run(x, y); !status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace loci::cuda
