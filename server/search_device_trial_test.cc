#include "server/search_device_trial.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "base/cuda/health.h"
#include "base/cuda/testing/fake_runtime.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/cuda/cuda_exact_placer.h"
#include "index/cuda/testing/search_devices.h"
#include "index/cuda/testing/small_search.h"

namespace loci {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Another device's indexes, whose hits are spoilt on their way.
class SpoilingPlacer : public ExactPlacer {
 public:
  using Spoil = std::function<void(RowHit* hits)>;
  SpoilingPlacer(ExactPlacer& placer, Spoil spoil, int64_t least_rows = 0) : placer_(placer), spoil_(std::move(spoil)), least_rows_(least_rows) {}

  const std::string& device() const override { return placer_.device(); }
  CudaHealth& health() const override { return placer_.health(); }
  bool IsFor(int64_t rows, int) const override { return rows >= least_rows_; }
  int64_t host_bytes(int64_t rows, int dim) const override { return placer_.host_bytes(rows, dim); }
  absl::StatusOr<std::shared_ptr<const DeviceExactIndex>> Place(std::shared_ptr<const VectorFile> vectors,
                                                                std::shared_ptr<const QuantizedVectors> codes,
                                                                std::shared_ptr<const PassageIndex> cpu,
                                                                const std::function<absl::Status(int64_t)>& progress) override {
    ++placed;
    most_rows = std::max(most_rows, vectors->rows());
    auto index = placer_.Place(std::move(vectors), std::move(codes), std::move(cpu), progress);
    if (!index.ok()) return index.status();
    return std::make_shared<const Index>(*std::move(index), this);
  }

  int placed = 0;
  int64_t most_rows = 0;
  bool answers = true;

 private:
  class Index : public DeviceExactIndex {
   public:
    Index(std::shared_ptr<const DeviceExactIndex> index, const SpoilingPlacer* placer) : index_(std::move(index)), placer_(placer) {}
    int64_t row_count() const override { return index_->row_count(); }
    int dim() const override { return index_->dim(); }
    std::string name() const override { return index_->name(); }
    int64_t memory_bytes() const override { return index_->memory_bytes(); }
    int64_t device_bytes() const override { return index_->device_bytes(); }
    Counts counts() const override { return placer_->answers ? index_->counts() : Counts{.left = 5}; }
    bool IsExact(const IndexSearchOptions&, const RowMask&) const override { return true; }
    absl::Status Search(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden, RowHit* hits) const override {
      const absl::Status status = index_->Search(queries, options, hidden, hits);
      if (placer_->spoil_) placer_->spoil_(hits);
      return status;
    }

   private:
    const std::shared_ptr<const DeviceExactIndex> index_;
    const SpoilingPlacer* const placer_;
  };

  ExactPlacer& placer_;
  const Spoil spoil_;
  const int64_t least_rows_;
};

class SearchDeviceTrial : public testing::Test {
 protected:
  ~SearchDeviceTrial() override {
    EXPECT_EQ(device_.fake->device_bytes(), 0);
    EXPECT_EQ(device_.fake->pinned_bytes(), 0);
    EXPECT_EQ(device_.fake->live_handles(), 0);
  }

  SimulatedSearchDevice device_ = Simulated();
  CudaExactPlacer placer_{device_.device, SmallSearch()};
};

TEST_F(SearchDeviceTrial, PassesADeviceThatFindsWhatTheCpuFindsInEachType) {
  SpoilingPlacer seen(placer_, nullptr, 3000);
  const absl::Status status = TrySearchDevice(seen);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(seen.placed, 3);
  EXPECT_EQ(seen.most_rows, 4096) << "as many as the device is for";
  EXPECT_TRUE(placer_.health().Check().ok());
}

TEST_F(SearchDeviceTrial, FailsOneThatFindsOtherHits) {
  SpoilingPlacer other_row(placer_, [](RowHit* hits) { hits[13].row += 1; });
  const absl::Status status = TrySearchDevice(other_row);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("does not find what the CPU finds"), HasSubstr("1024 made-up vectors of 96 float32"), HasSubstr("hit 3 of query 1")));
  SpoilingPlacer other_score(placer_, [](RowHit* hits) { hits[49].score = std::nextafter(hits[49].score, 100.0f); });
  EXPECT_EQ(TrySearchDevice(other_score).code(), absl::StatusCode::kFailedPrecondition);
  SpoilingPlacer idle(placer_, nullptr);
  idle.answers = false;
  EXPECT_THAT(std::string(TrySearchDevice(idle).message()), HasSubstr("left each query"));
  EXPECT_TRUE(placer_.health().Check().ok());
}

TEST_F(SearchDeviceTrial, FailsOneWhoseWorkEndsInAnError) {
  device_.fake->SetFault([](const std::string& call) { return call == "Record" ? absl::InternalError("no kernel image for this device") : absl::OkStatus(); });
  EXPECT_EQ(TrySearchDevice(placer_).code(), absl::StatusCode::kInternal);
  device_.fake->SetFault([](const std::string& call) { return call == "Wait" ? absl::UnavailableError("an illegal memory access") : absl::OkStatus(); });
  EXPECT_EQ(TrySearchDevice(placer_).code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(placer_.health().Check().ok());
}

TEST_F(SearchDeviceTrial, WithoutRoomItSaysNothingOfTheDevice) {
  CudaExactPlacer small(device_.device, SmallSearch(), 1000);
  EXPECT_TRUE(TrySearchDevice(small).ok());
  device_.fake->SetFault([](const std::string& call) { return call == "Allocate" ? absl::ResourceExhaustedError("taken") : absl::OkStatus(); });
  EXPECT_TRUE(TrySearchDevice(placer_).ok());
  EXPECT_TRUE(placer_.health().Check().ok());
}

}  // namespace
}  // namespace loci
