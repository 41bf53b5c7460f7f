#include "index/store_builds.h"

#include <utility>

namespace loci {
namespace {

class StoreGenerationBuilder : public GenerationBuilder {
 public:
  StoreGenerationBuilder(std::unique_ptr<GenerationBuilder> builder, std::unique_ptr<const BuildRegistration> registration)
      : registration_(std::move(registration)), builder_(std::move(builder)) {}

  absl::Status Add(std::span<const loci::v1::Passage> passages, const float* vectors) override {
    return builder_->Add(passages, vectors);
  }
  absl::Status Remove(std::span<const std::string> ids) override { return builder_->Remove(ids); }
  void AddPrecisions(PrecisionSet precisions) override { builder_->AddPrecisions(precisions); }
  int64_t added_count() const override { return builder_->added_count(); }
  int64_t duplicate_count() const override { return builder_->duplicate_count(); }
  absl::StatusOr<storage::Manifest> Finish(
      const RequestLimits& limits,
      const std::function<void(std::string_view phase, int64_t done, int64_t total)>& progress) override {
    return builder_->Finish(limits, progress);
  }

 private:
  const std::unique_ptr<const BuildRegistration> registration_;
  const std::unique_ptr<GenerationBuilder> builder_;
};

}  // namespace

int64_t BuildsUnderWay::Add(const std::function<int64_t()>& base_revision) {
  MutexLock lock(&mutex_);
  return *bases_.insert(base_revision());
}

void BuildsUnderWay::Remove(int64_t base_revision) {
  MutexLock lock(&mutex_);
  bases_.erase(bases_.find(base_revision));
}

int64_t BuildsUnderWay::LowestBase() const {
  MutexLock lock(&mutex_);
  return bases_.empty() ? INT64_MAX : *bases_.begin();
}

std::unique_ptr<GenerationBuilder> MakeStoreGenerationBuilder(std::unique_ptr<GenerationBuilder> builder,
                                                              std::unique_ptr<const BuildRegistration> registration) {
  return std::make_unique<StoreGenerationBuilder>(std::move(builder), std::move(registration));
}

}  // namespace loci
