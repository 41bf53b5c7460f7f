// What opening and searching an index takes of the heap, and what becomes of it where the heap has no more. In a program of its own: it takes the place
// of the allocator.
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "base/file.h"
#include "index/build_forecast.h"
#include "index/faiss_index.h"

namespace {

constexpr size_t kLarge = 1024;  // Smaller allocations are always made.

// Of this thread.
thread_local int64_t live_bytes = 0;
thread_local int64_t most_bytes = 0;
thread_local int64_t large_count = 0;
thread_local int64_t failing = -1;  // That large allocation, from 0, and all later ones are refused; -1: none.

void* Allocate(size_t size, size_t alignment) noexcept {
  if (size >= kLarge && failing >= 0 && large_count++ >= failing) return nullptr;
  void* const memory = alignment == 0 ? std::malloc(size) : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (memory == nullptr) return nullptr;
  live_bytes += static_cast<int64_t>(malloc_usable_size(memory));
  most_bytes = std::max(most_bytes, live_bytes);
  return memory;
}
void* AllocateOrThrow(size_t size, size_t alignment) {
  void* const memory = Allocate(size, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void Free(void* memory) noexcept {
  if (memory != nullptr) live_bytes -= static_cast<int64_t>(malloc_usable_size(memory));
  std::free(memory);
}

}  // namespace

void* operator new(size_t size) { return AllocateOrThrow(size, 0); }
void* operator new[](size_t size) { return AllocateOrThrow(size, 0); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return Allocate(size, 0); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return Allocate(size, 0); }
void* operator new(size_t size, std::align_val_t alignment) { return AllocateOrThrow(size, static_cast<size_t>(alignment)); }
void* operator new[](size_t size, std::align_val_t alignment) { return AllocateOrThrow(size, static_cast<size_t>(alignment)); }
void* operator new(size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return Allocate(size, static_cast<size_t>(alignment));
}
void* operator new[](size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return Allocate(size, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { Free(memory); }
void operator delete[](void* memory) noexcept { Free(memory); }
void operator delete(void* memory, size_t) noexcept { Free(memory); }
void operator delete[](void* memory, size_t) noexcept { Free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { Free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { Free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { Free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { Free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { Free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { Free(memory); }
void operator delete(void* memory, std::align_val_t, const std::nothrow_t&) noexcept { Free(memory); }
void operator delete[](void* memory, std::align_val_t, const std::nothrow_t&) noexcept { Free(memory); }

namespace loci {
namespace {

constexpr int kDim = 188;  // With its scale, a row's codes are three cache lines.
constexpr int64_t kRows = 4000;

class FaissIndexMemoryTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    std::mt19937_64 random(1);
    std::normal_distribution<float> normal;
    const auto next = [&] {
      std::vector<float> vector(kDim);
      for (float& value : vector) value = normal(random);
      return vector;
    };
    auto writer = VectorFileWriter::Create(PosixFileSystem(), Path("vectors"), kRows, kDim, ElementType::kFloat32).value();
    for (int64_t row = 0; row < kRows; ++row) ASSERT_TRUE(writer->Append(next().data()).ok());
    ASSERT_TRUE(writer->Finish().ok());
    vectors_ = VectorFile::Open(PosixFileSystem(), Path("vectors")).value();
    query_ = next();
    const absl::Status built = BuildFaissIndex(PosixFileSystem(), GetParam(), *vectors_, Path("index"), RequestLimits());
    ASSERT_TRUE(built.ok()) << built;
  }

  static std::string Path(const std::string& name) { return JoinPath(testing::TempDir(), "faiss_index_memory_test_" + name); }
  absl::StatusOr<std::unique_ptr<PassageIndex>> Open() const {
    return OpenFaissIndex(PosixFileSystem(), Path("index"), GetParam(), vectors_, nullptr);
  }

  // Refuses the last large allocations of `body`, one more each time, until it needs none of those refused.
  template <typename Body>
  static int64_t RefuseOneAfterTheOther(const Body& body) {
    for (int64_t at = 0;; ++at) {
      large_count = 0;
      failing = at;
      const absl::Status status = body();
      failing = -1;
      if (status.ok()) {
        EXPECT_LE(large_count, at) << "it went on without memory";
        return at;
      }
      EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    }
  }

  std::shared_ptr<const VectorFile> vectors_;
  std::vector<float> query_;
};

TEST_P(FaissIndexMemoryTest, IsBuiltInWhatIsForecast) {
  const int64_t forecast_bytes = ForecastBuild({.passage_count = kRows, .dim = kDim, .index = GetParam()}).memory_bytes;
  const int64_t before_bytes = live_bytes;
  most_bytes = live_bytes;
  ASSERT_TRUE(BuildFaissIndex(PosixFileSystem(), GetParam(), *vectors_, Path("again"), RequestLimits()).ok());
  EXPECT_LE(most_bytes - before_bytes, forecast_bytes);
  constexpr int64_t kWorkBytes = 24 << 20;  // Whatever the rows.
  EXPECT_GE(most_bytes - before_bytes, (forecast_bytes - kWorkBytes) / 2);
}

TEST_P(FaissIndexMemoryTest, IsOpenedInWhatItSaysItTakes) {
  (void)Open();  // What is made once for the process.
  const int64_t before_bytes = live_bytes;
  most_bytes = live_bytes;
  const auto index = Open();
  ASSERT_TRUE(index.ok()) << index.status();
  const int64_t said_bytes = (*index)->memory_bytes();
  EXPECT_LE(live_bytes - before_bytes, said_bytes + said_bytes / 20 + 65536);
  EXPECT_LE(most_bytes - before_bytes, said_bytes + said_bytes / 20 + 65536);
  EXPECT_GE(most_bytes - before_bytes, said_bytes * 9 / 10);
  const int64_t forecast_bytes = ForecastBuild({.passage_count = kRows, .dim = kDim, .index = GetParam()}).opened_bytes;
  EXPECT_GE(forecast_bytes, said_bytes * 19 / 20);
  EXPECT_LE(forecast_bytes, said_bytes + said_bytes / 5);
}

TEST_P(FaissIndexMemoryTest, IsAnErrorWhereThereIsNotSoMuch) {
  EXPECT_GE(RefuseOneAfterTheOther([&] { return Open().status(); }), 4);
  const auto index = Open();
  ASSERT_TRUE(index.ok()) << index.status();
  IndexSearchOptions options;
  options.top_k = 500;
  std::vector<RowHit> hits(500);
  EXPECT_GE(RefuseOneAfterTheOther([&] { return (*index)->Search({query_.data(), 1, kDim}, options, RowMask(), hits.data()); }), 1);
  EXPECT_TRUE((*index)->Search({query_.data(), 1, kDim}, options, RowMask(), hits.data()).ok());
}

INSTANTIATE_TEST_SUITE_P(All, FaissIndexMemoryTest, testing::Values("HNSW8", "IVF128,Flat", "IVF128,SQ8"),
                         [](const testing::TestParamInfo<std::string>& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), ',', '_');
                           return name;
                         });

}  // namespace
}  // namespace loci
