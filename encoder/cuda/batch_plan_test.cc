#include "encoder/cuda/batch_plan.h"

#include <algorithm>
#include <vector>

#include "encoder/cuda/device_batch.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci::cuda {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr EncoderShape kMiniLm = {.dim = 384,
                                  .head_count = 12,
                                  .layer_count = 6,
                                  .intermediate_size = 1536,
                                  .vocabulary_size = 30522,
                                  .max_positions = 512,
                                  .max_length = 256};

PackedBatch Batch(const std::vector<int>& lengths) {
  PackedBatch batch;
  for (const int length : lengths) {
    for (int i = 0; i < length; ++i) batch.token_ids.push_back(static_cast<int32_t>(batch.token_ids.size()) + 100);
    batch.offsets.push_back(static_cast<int32_t>(batch.token_ids.size()));
  }
  return batch;
}

TEST(RowBuckets, AscendToTheMostAndWasteLittle) {
  for (const int32_t most : {256, 1024, 2048, 16384}) {
    const std::vector<int32_t> buckets = RowBuckets(most);
    EXPECT_TRUE(std::is_sorted(buckets.begin(), buckets.end()));
    EXPECT_EQ(std::adjacent_find(buckets.begin(), buckets.end()), buckets.end());
    EXPECT_EQ(buckets.front(), 16);
    EXPECT_EQ(buckets.back(), most);
    for (int32_t rows = 17; rows <= most; ++rows) {
      const int32_t bucket = BucketOf(buckets, rows);
      ASSERT_GE(bucket, rows);
      ASSERT_LT(bucket, rows > 32 ? 1.5 * rows : 33) << rows;
    }
    EXPECT_EQ(BucketOf(buckets, 1), 16);
    EXPECT_EQ(BucketOf(buckets, most), most);
  }
  EXPECT_LT(RowBuckets(16384).size(), 60u);
}

TEST(NextChunk, TakesWholeSequencesInOrder) {
  const PackedBatch batch = Batch({5, 3, 8, 1, 1, 1, 8});
  std::vector<std::vector<int64_t>> chunks;
  for (int64_t first = 0; first < batch.sequence_count();) {
    const Chunk chunk = NextChunk(batch, first, 8, 2);
    chunks.push_back({chunk.first_sequence, chunk.sequence_count, chunk.token_count});
    first += chunk.sequence_count;
  }
  EXPECT_EQ(chunks, (std::vector<std::vector<int64_t>>{{0, 2, 8}, {2, 1, 8}, {3, 2, 2}, {5, 1, 1}, {6, 1, 8}}));
}

TEST(WriteDeviceBatch, LaysOutHeaderOffsetsIdsPositionsAndTiles) {
  const PackedBatch batch = Batch({4, 2, 130, 1});
  std::vector<int32_t> ints(static_cast<size_t>(MaxDeviceBatchInts(133, 3)), -7);
  int32_t tiles = 0;
  const int64_t written =
      WriteDeviceBatch(batch, {.first_sequence = 1, .sequence_count = 3, .token_count = 133}, ints.data(), &tiles);
  const DeviceBatchHeader& header = *reinterpret_cast<const DeviceBatchHeader*>(ints.data());
  EXPECT_EQ(header.token_count, 133);
  EXPECT_EQ(header.sequence_count, 3);
  EXPECT_EQ(header.tile_count, 5);
  EXPECT_EQ(tiles, 5);
  const auto part = [&](int32_t at, int count) { return std::vector<int32_t>(ints.begin() + at, ints.begin() + at + count); };
  EXPECT_THAT(part(header.offsets_at, 4), ElementsAre(0, 2, 132, 133));
  EXPECT_THAT(part(header.ids_at, 3), ElementsAre(104, 105, 106)) << "from where the chunk begins";
  EXPECT_THAT(part(header.positions_at, 4), ElementsAre(0, 1, 0, 1));
  EXPECT_EQ(ints[static_cast<size_t>(header.positions_at) + 132], 0);
  EXPECT_THAT(part(header.tiles_at, 10), ElementsAre(0, 0, 1, 0, 1, 64, 1, 128, 2, 0));
  EXPECT_EQ(written, header.tiles_at + 10);
  EXPECT_LE(written, static_cast<int64_t>(ints.size()));
}

TEST(WriteDeviceBatch, NeverTakesMoreThanTheMost) {
  for (const std::vector<int>& lengths :
       {std::vector<int>{64, 64}, std::vector<int>{65, 65}, std::vector<int>(100, 1), std::vector<int>{512}}) {
    const PackedBatch batch = Batch(lengths);
    const int32_t tokens = static_cast<int32_t>(batch.token_count()), sequences = static_cast<int32_t>(lengths.size());
    std::vector<int32_t> ints(static_cast<size_t>(MaxDeviceBatchInts(tokens, sequences)) + 1, -7);
    int32_t tiles = 0;
    WriteDeviceBatch(batch, {.first_sequence = 0, .sequence_count = sequences, .token_count = tokens}, ints.data(), &tiles);
    EXPECT_LE(tiles, MaxTiles(tokens, sequences));
    EXPECT_EQ(ints.back(), -7);
  }
}

TEST(PlanMemory, TakesTheLargestThatFits) {
  const MemoryLimits limits;
  const auto roomy = PlanMemory(kMiniLm, ElementType::kBfloat16, int64_t{80} << 30, limits);
  ASSERT_TRUE(roomy.ok()) << roomy.status();
  EXPECT_EQ(roomy->max_rows, 16384);
  EXPECT_EQ(roomy->lanes, 2);
  // Weights of 22.7 million parameters without the pooler.
  EXPECT_NEAR(static_cast<double>(roomy->weight_bytes), 2 * 22.565e6, 2 * 0.05e6);
  EXPECT_GT(PlanMemory(kMiniLm, ElementType::kFloat32, int64_t{80} << 30, limits)->weight_bytes,
            2 * roomy->weight_bytes - (1 << 20));

  const auto tight = PlanMemory(kMiniLm, ElementType::kBfloat16, 400 << 20, limits);
  ASSERT_TRUE(tight.ok()) << tight.status();
  EXPECT_LT(tight->max_rows, 16384);
  EXPECT_LE(tight->device_bytes() + limits.reserve_bytes, 400 << 20);
  int64_t least = 0;
  for (int64_t bytes = 300 << 20; least == 0; bytes += 1 << 20) {
    const auto plan = PlanMemory(kMiniLm, ElementType::kBfloat16, bytes, limits);
    if (!plan.ok()) continue;
    EXPECT_EQ(plan->lanes, 1);
    EXPECT_EQ(plan->max_rows, 1024);
    least = bytes;
  }
  EXPECT_LT(least, 330 << 20);
}

TEST(PlanMemory, RefusesWithFiguresWhatDoesNotFit) {
  const auto refused = [](const EncoderShape& shape, ElementType type, int64_t free_bytes) {
    const auto plan = PlanMemory(shape, type, free_bytes, {});
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kFailedPrecondition);
    return std::string(plan.status().message());
  };
  EXPECT_THAT(refused(kMiniLm, ElementType::kBfloat16, 200 << 20), HasSubstr("200 MiB are free"));
  EXPECT_THAT(refused(kMiniLm, ElementType::kBfloat16, 200 << 20), HasSubstr("weights 44"));
  EXPECT_THAT(refused(kMiniLm, ElementType::kInt8, int64_t{80} << 30), HasSubstr("int8"));
  EncoderShape odd = kMiniLm;
  odd.dim = 388;
  EXPECT_THAT(refused(odd, ElementType::kBfloat16, int64_t{80} << 30), HasSubstr("multiples of 8"));
  odd.dim = 1032;
  EXPECT_THAT(refused(odd, ElementType::kBfloat16, int64_t{80} << 30), HasSubstr("at most 1024"));
  EncoderShape longer = kMiniLm;
  longer.max_length = 513;
  EXPECT_THAT(refused(longer, ElementType::kBfloat16, int64_t{80} << 30), HasSubstr("at most 512 tokens"));
}

TEST(LayOutLane, PartsDoNotOverlap) {
  const LaneLayout lane = LayOutLane(kMiniLm, ElementType::kBfloat16, 2048, 512);
  EXPECT_GE(lane.hidden - lane.batch, 4 * MaxDeviceBatchInts(2048, 512));
  EXPECT_GE(lane.qkv - lane.hidden, 2048 * 384 * 2);
  EXPECT_GE(lane.context - lane.qkv, 3 * 2048 * 384 * 2);
  EXPECT_GE(lane.sum - lane.context, 2048 * 384 * 2);
  EXPECT_GE(lane.intermediate - lane.sum, 2048 * 384 * 2);
  EXPECT_GE(lane.output - lane.intermediate, 2048 * 1536 * 2);
  EXPECT_GE(lane.total - lane.output, 512 * 384 * 4);
  for (const int64_t at : {lane.batch, lane.hidden, lane.qkv, lane.context, lane.sum, lane.intermediate, lane.output, lane.total})
    EXPECT_EQ(at % 256, 0);
}

}  // namespace
}  // namespace loci::cuda
