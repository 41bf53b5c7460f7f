#include "index/faiss_index.h"

#include <faiss/impl/AuxIndexStructures.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/file.h"
#include "index/recall.h"

namespace loci {
namespace {

constexpr int kDim = 32;
constexpr int64_t kRows = 2000;

std::vector<float> MakeVectors(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> centres(20 * kDim), vectors(count * kDim);
  std::mt19937_64 fixed(99);
  for (float& value : centres) value = normal(fixed);
  for (int64_t r = 0; r < count; ++r) {
    double squares = 0;
    const float* centre = &centres[random() % 20 * kDim];
    for (int d = 0; d < kDim; ++d) {
      const float value = centre[d] + 0.7f * normal(random);
      vectors[r * kDim + d] = value;
      squares += value * value;
    }
    for (int d = 0; d < kDim; ++d) vectors[r * kDim + d] /= static_cast<float>(std::sqrt(squares));
  }
  return vectors;
}

class FaissIndexTest : public testing::TestWithParam<std::string> {
 protected:
  static std::string Path(const std::string& name) { return JoinPath(testing::TempDir(), "faiss_index_test_" + name); }

  static std::shared_ptr<const VectorFile> MakeFile(int64_t rows, ElementType type = ElementType::kFloat32) {
    const std::vector<float> vectors = MakeVectors(rows, 1);
    auto writer = VectorFileWriter::Create(PosixFileSystem(), Path("vectors"), rows, kDim, type).value();
    for (int64_t r = 0; r < rows; ++r) EXPECT_TRUE(writer->Append(&vectors[r * kDim]).ok());
    EXPECT_TRUE(writer->Finish().ok());
    return VectorFile::Open(PosixFileSystem(), Path("vectors")).value();
  }

  static std::unique_ptr<PassageIndex> Build(const std::string& factory, std::shared_ptr<const VectorFile> file, ThreadPool* pool) {
    const absl::Status built = BuildFaissIndex(PosixFileSystem(), factory, *file, Path("index"), RequestLimits());
    EXPECT_TRUE(built.ok()) << built;
    auto index = OpenFaissIndex(PosixFileSystem(), Path("index"), factory, file, pool);
    EXPECT_TRUE(index.ok()) << index.status();
    return *std::move(index);
  }

  static IndexSearchOptions TopK(int top_k) {
    IndexSearchOptions options;
    options.top_k = top_k;
    return options;
  }
};

TEST_P(FaissIndexTest, FindsWhatIsNearAndScoresItExactly) {
  ThreadPool pool("search", 2, 16);
  const std::shared_ptr<const VectorFile> file = MakeFile(kRows);
  const auto index = Build(GetParam(), file, &pool);
  EXPECT_EQ(index->name(), GetParam());
  EXPECT_EQ(index->row_count(), kRows);
  EXPECT_GT(index->memory_bytes(), 0);
  EXPECT_FALSE(index->IsExact(TopK(10), RowMask()));
  const std::vector<float> queries = MakeVectors(40, 2);
  const MatrixView<const float> view = {queries.data(), 40, kDim};
  const ExactIndex exact(file, nullptr);
  EXPECT_GE(MeasureRecall(*index, exact, view, 10, RequestLimits()).value(), 0.85);
  std::vector<RowHit> hits(40 * 10);
  ASSERT_TRUE(index->Search(view, TopK(10), RowMask(), hits.data()).ok());
  for (int q = 0; q < 40; ++q) {
    std::set<int64_t> rows;
    for (int i = 0; i < 10; ++i) {
      const RowHit& hit = hits[q * 10 + i];
      ASSERT_TRUE(rows.insert(hit.row).second);
      ASSERT_EQ(std::bit_cast<uint32_t>(hit.score),
                std::bit_cast<uint32_t>(ExactScore(view.row(q), file->row(hit.row), ElementType::kFloat32, kDim)));
      if (i > 0) {
        const RowHit& before = hits[q * 10 + i - 1];
        ASSERT_TRUE(before.score > hit.score || (before.score == hit.score && before.row < hit.row));
      }
    }
  }
}

TEST_P(FaissIndexTest, ReturnsEveryVisibleRowWhereFewAreLeft) {
  const std::shared_ptr<const VectorFile> file = MakeFile(kRows);
  const auto index = Build(GetParam(), file, nullptr);
  const std::vector<float> queries = MakeVectors(3, 2);
  for (const int64_t visible : {0, 3, 40, 1000, 1999}) {
    std::vector<int64_t> hidden;
    for (int64_t r = 0; r < kRows; ++r) {
      if (r * 7 % kRows >= visible) hidden.push_back(r);
    }
    const RowMask mask = RowMask().WithHidden(hidden);
    for (const int top_k : {1, 20, 100, 3000}) {
      std::vector<RowHit> hits(3 * top_k);
      ASSERT_TRUE(index->Search({queries.data(), 3, kDim}, TopK(top_k), mask, hits.data()).ok());
      for (int q = 0; q < 3; ++q) {
        std::set<int64_t> rows;
        for (int i = 0; i < top_k; ++i) {
          const RowHit& hit = hits[q * top_k + i];
          if (i < visible) {
            ASSERT_GE(hit.row, 0) << visible << " visible, top_k " << top_k << ", hit " << i;
            ASSERT_FALSE(mask.hidden(hit.row));
            ASSERT_TRUE(rows.insert(hit.row).second);
          } else {
            ASSERT_EQ(hit.row, -1);
            ASSERT_EQ(hit.score, -std::numeric_limits<float>::infinity());
          }
        }
      }
    }
  }
}

TEST_P(FaissIndexTest, IsExactWhenToldTo) {
  const std::shared_ptr<const VectorFile> file = MakeFile(kRows, ElementType::kFloat16);
  const auto index = Build(GetParam(), file, nullptr);
  const std::vector<float> queries = MakeVectors(7, 2);
  IndexSearchOptions options = TopK(50);
  options.exact = true;
  EXPECT_TRUE(index->IsExact(options, RowMask()));
  std::vector<RowHit> hits(7 * 50), expected(7 * 50);
  ASSERT_TRUE(index->Search({queries.data(), 7, kDim}, options, RowMask(), hits.data()).ok());
  ASSERT_TRUE(ExactIndex(file, nullptr).Search({queries.data(), 7, kDim}, options, RowMask(), expected.data()).ok());
  for (size_t i = 0; i < hits.size(); ++i) {
    ASSERT_EQ(hits[i].row, expected[i].row);
    ASSERT_EQ(hits[i].score, expected[i].score);
  }
}

TEST_P(FaissIndexTest, GivesTheSameAloneAndInABatch) {
  ThreadPool pool("search", 2, 16);
  const std::shared_ptr<const VectorFile> file = MakeFile(kRows);
  const auto index = Build(GetParam(), file, &pool);
  const std::vector<float> queries = MakeVectors(33, 2);
  std::vector<RowHit> batch(33 * 5), alone(5);
  ASSERT_TRUE(index->Search({queries.data(), 33, kDim}, TopK(5), RowMask(), batch.data()).ok());
  for (int q = 0; q < 33; ++q) {
    ASSERT_TRUE(index->Search({&queries[q * kDim], 1, kDim}, TopK(5), RowMask(), alone.data()).ok());
    for (int i = 0; i < 5; ++i) ASSERT_EQ(alone[i].row, batch[q * 5 + i].row) << q;
  }
}

TEST_P(FaissIndexTest, FindsTheSameForQueriesOfAnyLength) {
  const std::shared_ptr<const VectorFile> file = MakeFile(kRows);
  const auto index = Build(GetParam(), file, nullptr);
  const std::vector<float> queries = MakeVectors(5, 2);
  std::vector<RowHit> expected(5 * 10), hits(5 * 10);
  ASSERT_TRUE(index->Search({queries.data(), 5, kDim}, TopK(10), RowMask(), expected.data()).ok());
  for (const float factor : {0x1p-110f, 0x1p-100f, 0x1p40f}) {
    std::vector<float> scaled = queries;
    for (float& value : scaled) value *= factor;
    ASSERT_TRUE(index->Search({scaled.data(), 5, kDim}, TopK(10), RowMask(), hits.data()).ok());
    for (size_t i = 0; i < hits.size(); ++i) ASSERT_EQ(hits[i].row, expected[i].row) << "factor " << factor << ", hit " << i;
  }
}

TEST_P(FaissIndexTest, IsTheSameFileForTheSameVectors) {
  const std::shared_ptr<const VectorFile> file = MakeFile(kRows);
  ASSERT_TRUE(BuildFaissIndex(PosixFileSystem(), GetParam(), *file, Path("a"), RequestLimits()).ok());
  ASSERT_TRUE(BuildFaissIndex(PosixFileSystem(), GetParam(), *file, Path("b"), RequestLimits()).ok());
  EXPECT_EQ(PosixFileSystem().ReadFile(Path("a")).value(), PosixFileSystem().ReadFile(Path("b")).value());
}

TEST_P(FaissIndexTest, StopsWhenCancelled) {
  const std::shared_ptr<const VectorFile> file = MakeFile(kRows);
  RequestLimits limits;
  limits.Cancel();
  EXPECT_EQ(BuildFaissIndex(PosixFileSystem(), GetParam(), *file, Path("c"), limits).code(), absl::StatusCode::kCancelled);
  const auto index = Build(GetParam(), file, nullptr);
  IndexSearchOptions options = TopK(5);
  options.limits = limits;
  std::vector<RowHit> hits(5);
  const std::vector<float> query = MakeVectors(1, 2);
  EXPECT_EQ(index->Search({query.data(), 1, kDim}, options, RowMask(), hits.data()).code(), absl::StatusCode::kCancelled);
}

// Cancels at FAISS's first question of a search, then answers as before.
class CancelWhenAsked : public faiss::InterruptCallback {
 public:
  CancelWhenAsked(std::unique_ptr<faiss::InterruptCallback> before, RequestLimits limits)
      : before_(std::move(before)), limits_(std::move(limits)) {}
  bool want_interrupt() override {
    ++asked_count_;
    limits_.Cancel();
    return before_->want_interrupt();
  }
  std::unique_ptr<faiss::InterruptCallback> before() { return std::move(before_); }
  int asked_count() const { return asked_count_; }

 private:
  std::unique_ptr<faiss::InterruptCallback> before_;
  RequestLimits limits_;
  int asked_count_ = 0;
};

// Not only between queries. Of lists that FAISS goes through.
TEST_F(FaissIndexTest, StopsWhenCancelledWithinAQuery) {
  const std::shared_ptr<const VectorFile> file = MakeFile(kRows);
  const std::vector<float> query = MakeVectors(1, 2);
  for (const char* const factory : {"IVF16,SQ8", "IVF16,SQfp16", "IVF16,PQ4", "IVF16_HNSW8,SQ8"}) {
    const auto index = Build(factory, file, nullptr);
    IndexSearchOptions options = TopK(5);
    options.nprobe = 16;
    std::vector<RowHit> hits(5);
    ASSERT_TRUE(index->Search({query.data(), 1, kDim}, options, RowMask(), hits.data()).ok()) << factory;
    auto callback = std::make_unique<CancelWhenAsked>(std::move(faiss::InterruptCallback::instance), options.limits);
    CancelWhenAsked* const asked = callback.get();
    faiss::InterruptCallback::instance = std::move(callback);
    const absl::Status status = index->Search({query.data(), 1, kDim}, options, RowMask(), hits.data());
    EXPECT_EQ(asked->asked_count(), 1) << factory;  // It went no farther.
    faiss::InterruptCallback::instance = asked->before();
    EXPECT_EQ(status.code(), absl::StatusCode::kCancelled) << factory << ": " << status;
  }
}

TEST_F(FaissIndexTest, OpeningAGraphEndsWhenItIsToldTo) {
  const std::shared_ptr<const VectorFile> file = MakeFile(9000);
  ASSERT_TRUE(BuildFaissIndex(PosixFileSystem(), "HNSW4", *file, Path("index"), RequestLimits()).ok());
  const auto open = [&](int end_at) {
    int asked_count = 0;
    const auto check = [&] { return ++asked_count == end_at ? absl::CancelledError("enough") : absl::OkStatus(); };
    return OpenFaissIndex(PosixFileSystem(), Path("index"), "HNSW4", file, nullptr, {}, check).status();
  };
  EXPECT_EQ(open(1), absl::CancelledError("enough"));
  EXPECT_EQ(open(3), absl::CancelledError("enough"));
  EXPECT_TRUE(open(1000).ok());
}

TEST_F(FaissIndexTest, ExactQueriesAreSearchedInTheIndexThatIsLentForThem) {
  const std::shared_ptr<const VectorFile> file = MakeFile(kRows);
  ASSERT_TRUE(BuildFaissIndex(PosixFileSystem(), "IVF16,Flat", *file, Path("index"), RequestLimits()).ok());
  // Over other vectors, so that its hits are told from those of an own one.
  const std::vector<float> other_vectors = MakeVectors(kRows, 7);
  auto writer = VectorFileWriter::Create(PosixFileSystem(), Path("other_vectors"), kRows, kDim, ElementType::kFloat32).value();
  for (int64_t r = 0; r < kRows; ++r) ASSERT_TRUE(writer->Append(&other_vectors[r * kDim]).ok());
  ASSERT_TRUE(writer->Finish().ok());
  const ExactIndex exact(VectorFile::Open(PosixFileSystem(), Path("other_vectors")).value(), nullptr);
  const auto index = OpenFaissIndex(PosixFileSystem(), Path("index"), "IVF16,Flat", file, nullptr, {}, nullptr, &exact);
  ASSERT_TRUE(index.ok()) << index.status();
  const std::vector<float> query = MakeVectors(1, 2);
  std::vector<RowHit> hits(10), expected(10);
  IndexSearchOptions options = TopK(10);
  options.exact = true;
  ASSERT_TRUE((*index)->Search({query.data(), 1, kDim}, options, RowMask(), hits.data()).ok());
  ASSERT_TRUE(exact.Search({query.data(), 1, kDim}, options, RowMask(), expected.data()).ok());
  for (size_t i = 0; i < hits.size(); ++i) EXPECT_EQ(hits[i].row, expected[i].row);
}

TEST_F(FaissIndexTest, AGraphOfVectorsThatCanNotBeReadIsNotOpened) {
  const std::shared_ptr<const VectorFile> file = MakeFile(kRows);
  ASSERT_TRUE(BuildFaissIndex(PosixFileSystem(), "HNSW4", *file, Path("index"), RequestLimits()).ok());
  ASSERT_EQ(truncate(Path("vectors").c_str(), 4096), 0);
  const absl::Status status = OpenFaissIndex(PosixFileSystem(), Path("index"), "HNSW4", file, nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
}

INSTANTIATE_TEST_SUITE_P(All, FaissIndexTest,
                         testing::Values("Flat", "SQ8", "SQfp16", "PQ16", "IVF16,Flat", "IVF16,SQ8", "IVF16,PQ16x6", "IVF16_HNSW8,Flat",
                                         "HNSW16", "HNSW16,SQ8"),
                         [](const testing::TestParamInfo<std::string>& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == ',' ? '_' : c;
                           return name;
                         });

TEST_F(FaissIndexTest, SaysThatItIsExactWhereItScoresEveryRow) {
  constexpr int64_t kManyRows = 6000;
  const std::shared_ptr<const VectorFile> file = MakeFile(kManyRows);
  const std::vector<float> queries = MakeVectors(9, 2);
  for (const char* factory : {"IVF64,Flat", "HNSW4"}) {
    const auto index = Build(factory, file, nullptr);
    EXPECT_FALSE(index->IsExact(TopK(4000), RowMask()));
    EXPECT_TRUE(index->IsExact(TopK(5000), RowMask())) << "more candidates than are worth asking for";
    std::vector<RowHit> hits(9 * 5000), expected(9 * 5000);
    ASSERT_TRUE(index->Search({queries.data(), 9, kDim}, TopK(5000), RowMask(), hits.data()).ok());
    ASSERT_TRUE(ExactIndex(file, nullptr).Search({queries.data(), 9, kDim}, TopK(5000), RowMask(), expected.data()).ok());
    for (size_t i = 0; i < hits.size(); ++i) ASSERT_EQ(hits[i].row, expected[i].row) << factory << " hit " << i;
  }
  std::vector<int64_t> most;
  for (int64_t row = 10; row < kManyRows; ++row) most.push_back(row);
  const auto hnsw = Build("HNSW4", file, nullptr);
  EXPECT_FALSE(hnsw->IsExact(TopK(10), RowMask()));
  EXPECT_TRUE(hnsw->IsExact(TopK(10), RowMask().WithHidden(most))) << "what is left lies too far off for its graph";
}

TEST_F(FaissIndexTest, LooksFurtherWithLargerParameters) {
  const std::shared_ptr<const VectorFile> file = MakeFile(kRows);
  const ExactIndex exact(file, nullptr);
  const std::vector<float> queries = MakeVectors(50, 2);
  std::vector<RowHit> truth(50 * 10), hits(50 * 10);
  ASSERT_TRUE(exact.Search({queries.data(), 50, kDim}, TopK(10), RowMask(), truth.data()).ok());
  const auto recall = [&](const PassageIndex& index, int nprobe, int ef_search) {
    IndexSearchOptions options = TopK(10);
    options.nprobe = nprobe;
    options.ef_search = ef_search;
    EXPECT_TRUE(index.Search({queries.data(), 50, kDim}, options, RowMask(), hits.data()).ok());
    int found = 0;
    for (int q = 0; q < 50; ++q) {
      for (int i = 0; i < 10; ++i) found += hits[q * 10 + i].score >= truth[q * 10 + 9].score;
    }
    return found / 500.0;
  };
  const auto ivf = Build("IVF64,Flat", file, nullptr);
  EXPECT_LT(recall(*ivf, 1, 0), recall(*ivf, 8, 0));
  EXPECT_EQ(recall(*ivf, 64, 0), 1.0);
  const auto hnsw = Build("HNSW4", file, nullptr);
  EXPECT_LT(recall(*hnsw, 0, 1), recall(*hnsw, 0, 1000));
}

TEST_F(FaissIndexTest, RefusesParametersOfAnotherIndexByName) {
  const std::shared_ptr<const VectorFile> file = MakeFile(kRows);
  const auto ivf = Build("IVF16,Flat", file, nullptr);
  const auto hnsw = Build("HNSW8", file, nullptr);
  const auto flat = Build("Flat", file, nullptr);
  const std::vector<float> query = MakeVectors(1, 2);
  std::vector<RowHit> hits(5);
  const auto search = [&](const PassageIndex& index, int nprobe, int ef_search) {
    IndexSearchOptions options = TopK(5);
    options.nprobe = nprobe;
    options.ef_search = ef_search;
    const absl::Status status = index.Search({query.data(), 1, kDim}, options, RowMask(), hits.data());
    EXPECT_TRUE(status.ok() || status.message().find(index.name()) != std::string::npos) << status;
    return status.code();
  };
  EXPECT_EQ(search(*ivf, 16, 0), absl::StatusCode::kOk);
  EXPECT_EQ(search(*ivf, 17, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(search(*ivf, -1, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(search(*ivf, 0, 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(search(*hnsw, 0, 100'000), absl::StatusCode::kOk);
  EXPECT_EQ(search(*hnsw, 0, 100'001), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(search(*hnsw, 0, -1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(search(*hnsw, 1, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(search(*flat, 1, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(search(*flat, 0, 1), absl::StatusCode::kInvalidArgument);
}

constexpr int64_t kManyRows = 6000;

TEST_F(FaissIndexTest, RescoresAsManyCandidatesAsAreAskedFor) {
  const std::shared_ptr<const VectorFile> file = MakeFile(kManyRows);
  const ExactIndex exact(file, nullptr);
  const std::vector<float> queries = MakeVectors(20, 2);
  std::vector<RowHit> truth(20 * 10), hits(20 * 10);
  ASSERT_TRUE(exact.Search({queries.data(), 20, kDim}, TopK(10), RowMask(), truth.data()).ok());
  const auto index = Build("PQ4x4", file, nullptr);
  const auto found_with = [&](int factor) {
    IndexSearchOptions options = TopK(10);
    options.rescore_factor = factor;
    EXPECT_TRUE(index->Search({queries.data(), 20, kDim}, options, RowMask(), hits.data()).ok());
    int found = 0;
    for (int q = 0; q < 20; ++q) {
      for (int i = 0; i < 10; ++i) found += hits[q * 10 + i].score >= truth[q * 10 + 9].score;
    }
    return found;
  };
  const int one = found_with(1), ten = found_with(10), hundred = found_with(100);
  EXPECT_LT(one, ten);
  EXPECT_LT(ten, hundred);
  IndexSearchOptions options = TopK(10);
  options.rescore_factor = 1000;
  EXPECT_TRUE(index->IsExact(options, RowMask())) << "scoring every row is cheaper";
  EXPECT_EQ(found_with(1000), 200);
  options.rescore_factor = 1001;
  EXPECT_EQ(index->Search({queries.data(), 20, kDim}, options, RowMask(), hits.data()).code(), absl::StatusCode::kInvalidArgument);
  options = TopK(1000);
  options.rescore_factor = 101;
  EXPECT_EQ(index->Search({queries.data(), 1, kDim}, options, RowMask(), nullptr).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(FaissIndexTest, SearchesWithTheCheapestStepThatMeetsTheTarget) {
  const std::shared_ptr<const VectorFile> file = MakeFile(kManyRows);
  ASSERT_TRUE(BuildFaissIndex(PosixFileSystem(), "IVF64,Flat", *file, Path("ladder"), RequestLimits()).ok());
  const SearchLadder ladder{.defaults = {.nprobe = 3},
                            .steps = {{{.nprobe = 40}, 1, 0.99, 40}, {{.nprobe = 20}, 1, 0.9, 20}, {{.nprobe = 2}, 1, 0.5, 2}, {{.nprobe = 30}, 1, 0.95, 50}}};
  const auto index = OpenFaissIndex(PosixFileSystem(), Path("ladder"), "IVF64,Flat", file, nullptr, ladder);
  ASSERT_TRUE(index.ok()) << index.status();
  const std::vector<float> query = MakeVectors(1, 2);
  const auto search = [&](const IndexSearchOptions& options) {
    std::vector<RowHit> hits(options.top_k);
    EXPECT_TRUE((*index)->Search({query.data(), 1, kDim}, options, RowMask(), hits.data()).ok());
    std::vector<int64_t> rows;
    for (const RowHit& hit : hits) rows.push_back(hit.row);
    return rows;
  };
  const auto with_nprobe = [&](int nprobe) { return search({.top_k = 500, .nprobe = nprobe}); };
  const auto with_target = [&](double target) { return search({.top_k = 500, .recall_target = target}); };
  ASSERT_NE(with_nprobe(20), with_nprobe(40));
  EXPECT_EQ(search(TopK(500)), with_nprobe(3)) << "the ladder's default";
  EXPECT_EQ(with_target(0.5), with_nprobe(2));
  EXPECT_EQ(with_target(0.51), with_nprobe(20));
  EXPECT_EQ(with_target(0.91), with_nprobe(40)) << "of two that meet it the cheaper one";
  EXPECT_FALSE((*index)->IsExact({.top_k = 10, .recall_target = 0.99}, RowMask()));
  EXPECT_TRUE((*index)->IsExact({.top_k = 10, .recall_target = 0.991}, RowMask()));
  EXPECT_EQ(with_target(1), search({.top_k = 500, .exact = true})) << "none meets it";
  EXPECT_EQ((*index)->Search({query.data(), 1, kDim}, {.top_k = 10, .nprobe = 1, .recall_target = 0.5}, RowMask(), nullptr).code(),
            absl::StatusCode::kInvalidArgument);
  for (const SearchParameters& wrong : {SearchParameters{.nprobe = 65}, {.ef_search = 100'001}, {.nprobe = -1}, {.ef_search = 10}, {.rescore_factor = 1001}}) {
    EXPECT_EQ(OpenFaissIndex(PosixFileSystem(), Path("ladder"), "IVF64,Flat", file, nullptr, {.steps = {{wrong, 1, 1, 1}}}).status().code(),
              absl::StatusCode::kDataLoss);
  }
}

TEST_F(FaissIndexTest, LooksAtAsManyCandidatesForFewHitsAsTheLadderWasMeasuredWith) {
  const std::shared_ptr<const VectorFile> file = MakeFile(kManyRows);
  ASSERT_TRUE(BuildFaissIndex(PosixFileSystem(), "PQ4x4", *file, Path("ladder"), RequestLimits()).ok());
  const auto index = OpenFaissIndex(PosixFileSystem(), Path("ladder"), "PQ4x4", file, nullptr, {.defaults = {.rescore_factor = 20}});
  ASSERT_TRUE(index.ok()) << index.status();
  const std::vector<float> queries = MakeVectors(50, 2);
  const auto first_rows = [&](IndexSearchOptions options) {
    std::vector<RowHit> hits(50 * options.top_k);
    EXPECT_TRUE((*index)->Search({queries.data(), 50, kDim}, options, RowMask(), hits.data()).ok());
    std::vector<int64_t> rows;
    for (size_t i = 0; i < hits.size(); i += options.top_k) rows.push_back(hits[i].row);
    return rows;
  };
  EXPECT_EQ(first_rows({.top_k = 1}), first_rows({.top_k = 1, .rescore_factor = 200}));
  EXPECT_EQ(first_rows({.top_k = 2}), first_rows({.top_k = 2, .rescore_factor = 100}));
  EXPECT_NE(first_rows({.top_k = 1}), first_rows({.top_k = 1, .rescore_factor = 20})) << "a request's own factor is of its own hits";
}

TEST_F(FaissIndexTest, RefusesAFileThatIsNotTheIndexNamed) {
  const std::shared_ptr<const VectorFile> file = MakeFile(kRows);
  ASSERT_TRUE(BuildFaissIndex(PosixFileSystem(), "IVF16,Flat", *file, Path("other"), RequestLimits()).ok());
  for (const std::string factory : {"IVF17,Flat", "Flat", "HNSW8"}) {
    EXPECT_EQ(OpenFaissIndex(PosixFileSystem(), Path("other"), factory, file, nullptr).status().code(), absl::StatusCode::kDataLoss);
  }
  EXPECT_EQ(OpenFaissIndex(PosixFileSystem(), Path("other"), "IVF16,Flat", MakeFile(kRows - 1), nullptr).status().code(),
            absl::StatusCode::kDataLoss);
  // FAISS leaks what it has made when a file ends too early, which the checksum finds before; here it makes nothing.
  ASSERT_TRUE(WriteFileAtomically(PosixFileSystem(), Path("other"), "not an index").ok());
  EXPECT_EQ(OpenFaissIndex(PosixFileSystem(), Path("other"), "IVF16,Flat", file, nullptr).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace loci
