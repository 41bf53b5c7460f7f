#include "server/batcher_defaults.h"

#include "encoder/cuda/batch_plan.h"
#include "gtest/gtest.h"
#include "server/server_options.h"

namespace loci {
namespace {

TEST(BatcherDefaults, AServerTakesThemByItsDevice) {
  const BatcherOptions options = ServerOptions().batcher;
  const BatcherOptions cpu = WithDefaults(options, false);
  EXPECT_EQ(cpu.max_batch_tokens, 1024);
  EXPECT_EQ(cpu.worker_count, 1);
  const BatcherOptions cuda = WithDefaults(options, true);
  EXPECT_EQ(cuda.max_batch_tokens, 8192);
  EXPECT_EQ(cuda.worker_count, cuda::MemoryLimits().lanes);
  EXPECT_LE(cuda.max_batch_tokens, cuda::MemoryLimits().max_rows) << "a batch is one chunk";
}

TEST(BatcherDefaults, WhatIsSetStays) {
  for (const bool on_cuda : {false, true}) {
    const BatcherOptions set =
        WithDefaults({.max_batch_tokens = 77, .max_wait_us = 5, .max_queued_tokens = 9999, .worker_count = 3}, on_cuda);
    EXPECT_EQ(set.max_batch_tokens, 77);
    EXPECT_EQ(set.max_wait_us, 5);
    EXPECT_EQ(set.max_queued_tokens, 9999);
    EXPECT_EQ(set.worker_count, 3);
  }
}

}  // namespace
}  // namespace loci
