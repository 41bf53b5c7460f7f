#include "index/faiss_limits.h"

#include <faiss/Clustering.h>
#include <faiss/IndexFlat.h>
#include <faiss/impl/FaissException.h>

#include <thread>
#include <vector>

#include "base/clock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

// Whether k-means comes to its end.
bool Clusters() {
  constexpr int kDim = 4, kRows = 200;
  std::vector<float> rows(kDim * kRows);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i * 2654435761u % 1000);
  faiss::ClusteringParameters parameters;
  parameters.min_points_per_centroid = 1;
  faiss::Clustering clustering(kDim, 10, parameters);
  faiss::IndexFlatL2 index(kDim);
  try {
    clustering.train(kRows, rows.data(), index);
    return true;
  } catch (const faiss::FaissException&) {
    return false;
  }
}

TEST(ScopedFaissLimitsTest, EndsWhatIsCancelledOrLate) {
  const RequestLimits cancelled;
  const RequestLimits late(RealClock().NowMicros());
  {
    const ScopedFaissLimits scope(cancelled);
    EXPECT_TRUE(Clusters());
    EXPECT_FALSE(FaissLimitsEnded());
    cancelled.Cancel();
    EXPECT_FALSE(Clusters());
    EXPECT_TRUE(FaissLimitsEnded());
  }
  EXPECT_TRUE(Clusters());
  EXPECT_FALSE(FaissLimitsEnded());
  const ScopedFaissLimits scope(late);
  EXPECT_FALSE(Clusters());
}

TEST(ScopedFaissLimitsTest, TheInnerOneCountsAndTheOuterOneIsBackAfterIt) {
  const RequestLimits outer, inner;
  outer.Cancel();
  const ScopedFaissLimits outer_scope(outer);
  {
    const ScopedFaissLimits inner_scope(inner);
    EXPECT_TRUE(Clusters());
  }
  EXPECT_FALSE(Clusters());
}

TEST(ScopedFaissLimitsTest, OtherThreadsAreNotConcerned) {
  const RequestLimits cancelled;
  cancelled.Cancel();
  const ScopedFaissLimits scope(cancelled);
  bool done = false;
  std::thread([&] { done = Clusters(); }).join();
  EXPECT_TRUE(done);
}

}  // namespace
}  // namespace loci
