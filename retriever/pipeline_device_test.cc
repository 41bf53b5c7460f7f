// Searches of a view that a device searches, one pass at a time.
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/thread_pool.h"
#include "gtest/gtest.h"
#include "index/placed_exact_index.h"
#include "retriever/pipeline.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

// The CPU's index as a device's, whose searches wait while the gate is held.
class GatedIndex : public DeviceExactIndex {
 public:
  explicit GatedIndex(std::shared_ptr<const PassageIndex> cpu) : cpu_(std::move(cpu)) {}
  int64_t row_count() const override { return cpu_->row_count(); }
  int dim() const override { return cpu_->dim(); }
  std::string name() const override { return cpu_->name(); }
  int64_t memory_bytes() const override { return 0; }
  int64_t device_bytes() const override { return 0; }
  Counts counts() const override { return {}; }
  bool IsExact(const IndexSearchOptions&, const RowMask&) const override { return true; }
  absl::Status Search(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden, RowHit* hits) const override {
    ++searches;
    MutexLock lock(&gate);
    return cpu_->Search(queries, options, hidden, hits);
  }

  mutable std::atomic<int> searches{0};
  mutable Mutex gate;

 private:
  const std::shared_ptr<const PassageIndex> cpu_;
};

class PipelineDeviceTest : public RetrieverFixture {
 protected:
  void SetUp() override { Start(); }
};

TEST_F(PipelineDeviceTest, WhoWaitsForADeviceHoldsNoThreadAndSharesThePass) {
  std::unique_ptr<Pipeline> pipeline;  // Outlives what the pool does.
  ThreadPool pool("work", 2, 64);
  ASSERT_TRUE(Ingest("s", {MakePassage("a", "the red fox"), MakePassage("b", "a blue whale"), MakePassage("c", "green tea")}).ok());
  pipeline = std::make_unique<Pipeline>(Pipeline::Options{.manager = manager_.get(), .pool = &pool});
  const auto view = (*manager_->Capture("s", ""))->view;
  const PlacedExactIndex& exact = view->generation().exact_index();
  const auto device = std::make_shared<const GatedIndex>(exact.cpu());
  exact.SetDevice(device);
  const auto encoded = (*registry_->Get(""))->EncodeAndWait({"green tea"}, {.role = TextRole::kQuery});
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  const auto ask = [&] {
    const auto reply = std::make_shared<std::promise<absl::StatusOr<SearchReply>>>();
    pipeline->Search({.store = "s", .queries = {encoded->vectors}, .options = {.top_k = 1}},
                     [reply](absl::StatusOr<SearchReply> answer) { reply->set_value(std::move(answer)); });
    return reply->get_future();
  };
  for (int round = 0; round < 2; ++round) {
    const int before = device->searches;
    std::vector<std::future<absl::StatusOr<SearchReply>>> replies;
    bool is_free = false;
    int during = 0;
    {
      MutexLock lock(&device->gate);
      replies.push_back(ask());
      while (device->searches == before) std::this_thread::yield();
      for (int i = 0; i < 7; ++i) replies.push_back(ask());
      // What came before in the queue has had its turn: the other thread is free for what is not a search.
      const auto free = std::make_shared<std::promise<void>>();
      ASSERT_TRUE(pool.TrySubmit([free] { free->set_value(); }));
      is_free = free->get_future().wait_for(std::chrono::seconds(20)) == std::future_status::ready;
      EXPECT_TRUE(is_free) << "threads wait for the device";
      during = device->searches;
    }
    for (auto& reply : replies) {
      const auto got = reply.get();
      ASSERT_TRUE(got.ok()) << got.status();
      EXPECT_EQ(got->results[0][0].id, "c");
    }
    EXPECT_EQ(during, before + 1);
    EXPECT_EQ(device->searches, before + 2) << "one, and the others together";
    if (!is_free) break;
  }
  exact.SetDevice(nullptr);
}

}  // namespace
}  // namespace loci
