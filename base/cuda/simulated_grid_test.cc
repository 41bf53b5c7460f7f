#include "base/cuda/testing/simulated_grid.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "base/vector_type.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci::cuda {
namespace {

using testing::HasSubstr;

constexpr ThreadOrder kOrders[] = {ThreadOrder::kForward, ThreadOrder::kBackward, ThreadOrder::kShuffled};

TEST(SimulatedGrid, RunsEveryThreadOfEveryBlock) {
  std::vector<int> seen(3 * 2 * 64);
  ASSERT_TRUE(RunSimulated({.blocks_x = 3, .blocks_y = 2, .block_size = 64}, [&](SimulatedThread& thread) {
                EXPECT_EQ(thread.grid_x(), 3);
                ++seen[static_cast<size_t>((thread.block_y() * 3 + thread.block_x()) * 64 + thread.index())];
              }).ok());
  EXPECT_EQ(seen, std::vector<int>(seen.size(), 1));
}

TEST(SimulatedGrid, BarriersAndSharedMemoryReverseABlock) {
  for (const ThreadOrder order : kOrders) {
    std::vector<float> out(96);
    ASSERT_TRUE(RunSimulated({.block_size = 96, .shared_bytes = 96 * 4, .order = order}, [&](SimulatedThread& thread) {
                  float* const shared = static_cast<float*>(thread.shared());
                  EXPECT_TRUE(order != ThreadOrder::kForward || thread.index() > 0 || std::isnan(shared[0]));
                  shared[thread.index()] = static_cast<float>(thread.index());
                  thread.Sync();
                  out[static_cast<size_t>(thread.index())] = shared[95 - thread.index()];
                }).ok());
    for (int i = 0; i < 96; ++i) EXPECT_EQ(out[static_cast<size_t>(i)], static_cast<float>(95 - i));
  }
}

TEST(SimulatedGrid, AMissingBarrierShowsInAnotherOrder) {
  std::vector<float> sums;
  for (const ThreadOrder order : kOrders) {
    float sum = 0;
    ASSERT_TRUE(RunSimulated({.block_size = 64, .shared_bytes = 64 * 4, .order = order}, [&](SimulatedThread& thread) {
                  float* const shared = static_cast<float*>(thread.shared());
                  shared[thread.index()] = 1;
                  if (!std::isnan(shared[63 - thread.index()])) sum += 1;
                }).ok());
    sums.push_back(sum);
  }
  EXPECT_EQ(sums[0], 32);
}

TEST(SimulatedGrid, AWarpRunsAheadOfOthersThatStillRead) {
  // Each round all write and then read; without a barrier behind the reading the first warp's next round writes over what others read.
  const auto run = [](bool with_barrier) {
    std::vector<float> seen;
    const absl::Status status = RunSimulated({.block_size = 64, .shared_bytes = 64 * 4}, [&](SimulatedThread& thread) {
      float* const shared = static_cast<float*>(thread.shared());
      for (int round = 0; round < 3; ++round) {
        shared[thread.index()] = static_cast<float>(round);
        thread.Sync();
        thread.ShuffleXor(0, 1);
        seen.push_back(shared[63 - thread.index()] - static_cast<float>(round));
        if (with_barrier) thread.Sync();
      }
    });
    EXPECT_TRUE(status.ok()) << status;
    return seen;
  };
  EXPECT_EQ(run(true), std::vector<float>(3 * 64, 0));
  EXPECT_NE(run(false), std::vector<float>(3 * 64, 0));
}

TEST(SimulatedGrid, ShufflesWithinAWarp) {
  for (const ThreadOrder order : kOrders) {
    std::vector<float> out(64);
    ASSERT_TRUE(RunSimulated({.block_size = 64, .order = order}, [&](SimulatedThread& thread) {
                  float x = static_cast<float>(thread.index());
                  for (int mask = 16; mask > 0; mask /= 2) x += thread.ShuffleXor(x, mask);
                  out[static_cast<size_t>(thread.index())] = x;
                }).ok());
    for (int i = 0; i < 64; ++i) EXPECT_EQ(out[static_cast<size_t>(i)], i < 32 ? 496.0f : 1520.0f);
  }
}

TEST(SimulatedGrid, WhatHangsADeviceIsAnError) {
  const auto stuck = [](std::function<void(SimulatedThread&)> body) {
    const absl::Status status = RunSimulated({.block_size = 64}, body);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    return std::string(status.message());
  };
  EXPECT_THAT(stuck([](SimulatedThread& thread) {
                if (thread.index() > 0) thread.Sync();
              }),
              HasSubstr("thread 0 is at returned, thread 1 at Sync"));
  EXPECT_THAT(stuck([](SimulatedThread& thread) {
                if (thread.lane() < 16) {
                  thread.ShuffleXor(0, 1);
                } else {
                  thread.Sync();
                }
              }),
              HasSubstr("ShuffleXor"));
  EXPECT_FALSE(RunSimulated({.block_size = 33}, [](SimulatedThread&) {}).ok());
  EXPECT_FALSE(RunSimulated({.blocks_x = 0}, [](SimulatedThread&) {}).ok());
  EXPECT_FALSE(RunSimulated({.shared_bytes = 1 << 20}, [](SimulatedThread&) {}).ok());
}

// The layouts of PTX's mma.m16n8k16 and ldmatrix, section "Matrix fragments": the test says each element's lane and register itself.
template <typename T>
void MultipliesAsPtxSays() {
  float a[16][16], b[16][8], c[16][8];
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 16; ++k) a[i][k] = static_cast<float>((i * 7 + k * 3) % 11 - 5);
    for (int j = 0; j < 8; ++j) {
      b[i][j] = static_cast<float>((i * 5 + j) % 7 - 3);
      c[i][j] = static_cast<float>(i - j);
    }
  }
  alignas(16) T stored[16][8];
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) stored[i][j] = FromFloat<T>(b[i][j]);
  }
  float out[16][8];
  ASSERT_TRUE(RunSimulated({}, [&](SimulatedThread& thread) {
                const int lane = thread.lane();
                uint32_t fragment[4];
                for (int i = 0; i < 4; ++i) {
                  const int row = (lane >> 2) + (i == 1 || i == 3 ? 8 : 0), column = (lane % 4) * 2 + (i >= 2 ? 8 : 0);
                  fragment[i] = Pack2<T>(a[row][column], a[row][column + 1]);
                }
                uint32_t factor[4];
                thread.LoadMatricesTransposed(factor, stored[lane % 16]);
                EXPECT_EQ(factor[0], Pack2<T>(b[(lane % 4) * 2][lane >> 2], b[(lane % 4) * 2 + 1][lane >> 2]));
                EXPECT_EQ(factor[1], Pack2<T>(b[(lane % 4) * 2 + 8][lane >> 2], b[(lane % 4) * 2 + 9][lane >> 2]));
                EXPECT_EQ(factor[2], factor[0]);
                float sum[4];
                for (int i = 0; i < 4; ++i) sum[i] = c[(lane >> 2) + (i >= 2 ? 8 : 0)][(lane % 4) * 2 + i % 2];
                thread.MultiplyAdd<T>(sum, fragment, factor[0], factor[1]);
                for (int i = 0; i < 4; ++i) out[(lane >> 2) + (i >= 2 ? 8 : 0)][(lane % 4) * 2 + i % 2] = sum[i];
              }).ok());
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      float expected = c[i][j];
      for (int k = 0; k < 16; ++k) expected += a[i][k] * b[k][j];
      EXPECT_EQ(out[i][j], expected) << i << "," << j;
    }
  }
}

TEST(SimulatedGrid, MultipliesMatricesAsPtxSays) {
  MultipliesAsPtxSays<Bfloat16>();
  MultipliesAsPtxSays<Float16>();
}

TEST(SimulatedGrid, MultipliesBytesAsPtxSays) {
  int8_t a[16][32], b[32][8];
  int32_t c[16][8], out[16][8];
  for (int k = 0; k < 32; ++k) {
    for (int i = 0; i < 16; ++i) a[i][k] = static_cast<int8_t>((i * 37 + k * 91) % 255 - 127);
    for (int j = 0; j < 8; ++j) b[k][j] = static_cast<int8_t>((k * 53 + j * 29) % 255 - 127);
  }
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) c[i][j] = i * 1000 - j;
  }
  // As it lies in memory: rows of A, columns of B.
  alignas(16) int8_t columns[8][32];
  alignas(16) int8_t rows[16][32];
  std::memcpy(rows, a, sizeof(rows));
  for (int j = 0; j < 8; ++j) {
    for (int k = 0; k < 32; ++k) columns[j][k] = b[k][j];
  }
  const auto word = [](const int8_t* from) {
    uint32_t value;
    std::memcpy(&value, from, 4);
    return value;
  };
  ASSERT_TRUE(RunSimulated({}, [&](SimulatedThread& thread) {
                const int lane = thread.lane(), g = lane / 4, t = lane % 4;
                uint32_t fragment[4], factor[4];
                thread.LoadMatrices(fragment, &rows[lane % 16][lane / 16 * 16]);
                EXPECT_EQ(fragment[0], word(&a[g][4 * t]));
                EXPECT_EQ(fragment[1], word(&a[g + 8][4 * t]));
                EXPECT_EQ(fragment[2], word(&a[g][4 * t + 16]));
                EXPECT_EQ(fragment[3], word(&a[g + 8][4 * t + 16]));
                thread.LoadMatrices(factor, &columns[lane % 8][lane / 8 % 2 * 16]);
                EXPECT_EQ(factor[0], word(&columns[g][4 * t]));
                EXPECT_EQ(factor[1], word(&columns[g][4 * t + 16]));
                int32_t sum[4] = {c[g][2 * t], c[g][2 * t + 1], c[g + 8][2 * t], c[g + 8][2 * t + 1]};
                thread.MultiplyAddInt8(sum, fragment, factor[0], factor[1]);
                for (int i = 0; i < 4; ++i) out[g + (i >= 2 ? 8 : 0)][2 * t + i % 2] = sum[i];
              }).ok());
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      int32_t expected = c[i][j];
      for (int k = 0; k < 32; ++k) expected += int32_t{a[i][k]} * b[k][j];
      EXPECT_EQ(out[i][j], expected) << i << "," << j;
    }
  }
}

TEST(SimulatedGrid, AsynchronousCopiesArriveWhenTheyAreWaitedFor) {
  alignas(16) int from[3][4] = {{1, 1, 1, 1}, {2, 2, 2, 2}, {3, 3, 3, 3}};
  ASSERT_TRUE(RunSimulated({.shared_bytes = 3 * 16}, [&](SimulatedThread& thread) {
                int(*const to)[4] = static_cast<int(*)[4]>(thread.shared());
                if (thread.index() == 0) {
                  for (int i = 0; i < 3; ++i) {
                    thread.CopyAsync16(to[i], from[i]);
                    thread.CommitCopies();
                  }
                  EXPECT_EQ(to[0][0], -1);
                  thread.WaitCopies<2>();
                  EXPECT_EQ(to[0][3], 1);
                  EXPECT_EQ(to[1][0], -1);
                  thread.WaitCopies<0>();
                  EXPECT_EQ(to[2][3], 3);
                }
                thread.Sync();
                EXPECT_EQ(to[1][2], 2);
              }).ok());
}

TEST(SimulatedGrid, AddsAtomically) {
  int32_t count = 5;
  std::vector<int> taken(96);
  ASSERT_TRUE(RunSimulated({.block_size = 96, .order = ThreadOrder::kShuffled}, [&](SimulatedThread& thread) {
                ++taken[static_cast<size_t>(thread.AtomicAdd(&count, 1) - 5)];
              }).ok());
  EXPECT_EQ(count, 101);
  EXPECT_EQ(taken, std::vector<int>(96, 1));
}

TEST(Element, ConvertsAsTheFilesDo) {
  for (const float x : {0.0f, -1.5f, 1.00390625f, 1.01171875f, 65519.0f, 1e-8f, 3.0e38f}) {
    uint16_t bits;
    Float32ToBfloat16(&x, &bits, 1);
    EXPECT_EQ(FromFloat<Bfloat16>(x).bits, bits) << x;
    Float32ToFloat16(&x, &bits, 1);
    EXPECT_EQ(FromFloat<Float16>(x).bits, bits) << x;
  }
  EXPECT_EQ(Pack2<Bfloat16>(1.0f, -2.0f), 0xC0003F80u);
  EXPECT_EQ(ToFloat(Float16{0x3C00}), 1.0f);
  EXPECT_EQ(ToFloat(Bfloat16{0xC000}), -2.0f);
}

}  // namespace
}  // namespace loci::cuda
