// The builds that are under way in a store: what keeps the writes that they will need.
#ifndef LOCI_INDEX_STORE_BUILDS_H_
#define LOCI_INDEX_STORE_BUILDS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <utility>

#include "base/mutex.h"
#include "index/generation.h"

namespace loci {

// Builds that are under way: their writes since may not be trimmed. Thread-safe.
class BuildsUnderWay {
 public:
  // Registers a build whose base is what `base_revision` returns, in one step: a trimming either sees the build, or has chosen its
  // limit before, below any revision that is read now.
  int64_t Add(const std::function<int64_t()>& base_revision);
  void Remove(int64_t base_revision);
  int64_t LowestBase() const;  // INT64_MAX: none is under way.

 private:
  mutable Mutex mutex_;
  std::multiset<int64_t> bases_ ABSL_GUARDED_BY(mutex_);
};

// Keeps a build registered for as long as it lives. Immutable after construction.
class BuildRegistration {
 public:
  BuildRegistration(std::shared_ptr<BuildsUnderWay> builds, const std::function<int64_t()>& base_revision)
      : builds_(std::move(builds)), base_revision_(builds_->Add(base_revision)) {}
  ~BuildRegistration() { builds_->Remove(base_revision_); }
  BuildRegistration(const BuildRegistration&) = delete;
  BuildRegistration& operator=(const BuildRegistration&) = delete;
  int64_t base_revision() const { return base_revision_; }

 private:
  const std::shared_ptr<BuildsUnderWay> builds_;
  const int64_t base_revision_;
};

// `builder`; the build stays registered until this dies.
std::unique_ptr<GenerationBuilder> MakeStoreGenerationBuilder(std::unique_ptr<GenerationBuilder> builder,
                                                              std::unique_ptr<const BuildRegistration> registration);

}  // namespace loci

#endif  // LOCI_INDEX_STORE_BUILDS_H_
