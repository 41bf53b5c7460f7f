// Everything of a server below gRPC, in a folder of its own, with a tiny random encoder.
#ifndef LOCI_RETRIEVER_TESTING_RETRIEVER_FIXTURE_H_
#define LOCI_RETRIEVER_TESTING_RETRIEVER_FIXTURE_H_

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/fake_metrics.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "encoder/testing/tiny_checkpoint.h"
#include "gtest/gtest.h"
#include "retriever/encoder_registry.h"
#include "retriever/generation_manager.h"
#include "retriever/ingester.h"

namespace loci {

inline loci::v1::Passage MakePassage(const std::string& id, const std::string& text, const std::string& title = "") {
  loci::v1::Passage passage;
  passage.set_id(id);
  passage.set_title(title);
  passage.set_text(text);
  return passage;
}

// Used by one thread, but for what it holds.
class RetrieverFixture : public testing::Test {
 protected:
  static constexpr int kDim = 32;

  RetrieverFixture() {
    std::string pattern = testing::TempDir() + "/retriever_XXXXXX";
    directory_ = mkdtemp(pattern.data());
    EXPECT_TRUE(WriteTinyCheckpoint(fs_, CheckpointDirectory(1), {.seed = 1}).ok());
  }
  ~RetrieverFixture() override {
    Stop();
    EXPECT_TRUE(fs_.DeleteRecursively(directory_).ok());
  }

  std::string CheckpointDirectory(int seed) const { return JoinPath(directory_, "checkpoint-" + std::to_string(seed)); }
  std::string DataDirectory() const { return JoinPath(directory_, "data"); }

  // Opens what is in DataDirectory(), as a server's start would.
  void Start(bool import_encoder = true) {
    absl::StatusOr<std::unique_ptr<EncoderRegistry>> registry = EncoderRegistry::Open({.directory = JoinPath(DataDirectory(), "encoders"), .metrics = &metrics_});
    ASSERT_TRUE(registry.ok()) << registry.status();
    registry_ = *std::move(registry);
    if (import_encoder) {
      const auto imported = registry_->Import(CheckpointDirectory(1));
      ASSERT_TRUE(imported.ok()) << imported.status();
    }
    absl::StatusOr<std::unique_ptr<GenerationManager>> manager =
        GenerationManager::Open({.data_directory = DataDirectory(), .encoders = registry_.get(), .search_pool = &pool_});
    ASSERT_TRUE(manager.ok()) << manager.status();
    manager_ = *std::move(manager);
  }
  void Stop() {
    manager_.reset();
    registry_.reset();
  }

  // The passages as a new generation.
  absl::StatusOr<IngestResult> Ingest(const std::string& store, std::vector<loci::v1::Passage> passages, IngestOptions options = {}) {
    options.store = store;
    absl::StatusOr<std::unique_ptr<Ingester>> ingester = Ingester::Start(*manager_, std::move(options));
    if (!ingester.ok()) return ingester.status();
    const absl::Status added = (*ingester)->Add(std::move(passages), {}, 0);
    if (!added.ok()) return added;
    return (*ingester)->Finish();
  }

  // Ids of the best hits for a text, exactly, best first.
  std::vector<std::string> SearchIds(const std::string& store, const std::string& text, int top_k) {
    const auto set = manager_->Capture(store, "");
    EXPECT_TRUE(set.ok()) << set.status();
    if (!set.ok()) return {};
    const auto encoded = (*set)->encoder->EncodeAndWait({text}, {.role = TextRole::kQuery});
    EXPECT_TRUE(encoded.ok()) << encoded.status();
    const auto found = (*set)->view->Search({encoded->vectors.data(), 1, (*set)->view->dim()}, {.top_k = top_k, .exact = true});
    EXPECT_TRUE(found.ok()) << found.status();
    std::vector<std::string> ids;
    for (const ViewHit& hit : found->hits[0]) ids.push_back(hit.id);
    return ids;
  }

  FileSystem& fs_ = PosixFileSystem();
  std::string directory_;
  ThreadPool pool_{"test", 2, 4096};
  FakeMetrics metrics_;  // Of the encoders.
  std::unique_ptr<EncoderRegistry> registry_;
  std::unique_ptr<GenerationManager> manager_;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_TESTING_RETRIEVER_FIXTURE_H_
