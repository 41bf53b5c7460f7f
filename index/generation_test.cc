#include "index/generation.h"

#include <atomic>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/file.h"
#include "index/exact_index.h"

namespace loci {
namespace {

constexpr int kDim = 20;

class GenerationTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = JoinPath(testing::TempDir(),
                     std::string("generation_test_") + testing::UnitTest::GetInstance()->current_test_info()->name());
    ASSERT_TRUE(fs_.DeleteRecursively(root_).ok());
    ASSERT_TRUE(fs_.CreateDirectories(root_).ok());
  }
  void TearDown() override { EXPECT_TRUE(fs_.DeleteRecursively(root_).ok()); }

  std::string Path(const std::string& name) const { return JoinPath(root_, name); }

  static BuildOptions Options(const std::string& index = "exact", ElementType type = ElementType::kFloat32) {
    BuildOptions options;
    options.index = index;
    options.element_type = type;
    options.dim = kDim;
    options.query_fingerprint = "00112233445566aa";
    options.passage_fingerprint = "8899aabbccddeeff";
    options.base_revision = 41;
    return options;
  }

  static v1::Passage MakePassage(const std::string& id, const std::string& text) {
    v1::Passage passage;
    passage.set_id(id);
    passage.set_text(text);
    return passage;
  }

  static std::vector<float> MakeVector(uint64_t seed) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> vector(kDim);
    double squares = 0;
    for (float& value : vector) {
      value = normal(random);
      squares += value * value;
    }
    for (float& value : vector) value /= static_cast<float>(std::sqrt(squares));
    return vector;
  }

  std::unique_ptr<GenerationBuilder> NewBuilder(const std::string& name, BuildOptions options, FileSystem* fs = nullptr) {
    auto builder = GenerationBuilder::Create(fs == nullptr ? fs_ : *fs, Path(name), "wiki", name, std::move(options));
    EXPECT_TRUE(builder.ok()) << builder.status();
    return builder.ok() ? *std::move(builder) : nullptr;
  }

  // Passages "p<i>" for i in [0, count), added out of order; vector of p<i> from seed i.
  static absl::Status AddMany(GenerationBuilder& builder, int count) {
    for (int i = 0; i < count; ++i) {
      const int n = (i * 37 + 11) % count;
      const v1::Passage passage = MakePassage("p" + std::to_string(n), "text " + std::to_string(n));
      if (absl::Status status = builder.Add({&passage, 1}, MakeVector(n).data()); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  void NamesDamage(const std::string& directory);

  std::string Build(const std::string& name, int count, BuildOptions options = Options()) {
    const auto builder = NewBuilder(name, std::move(options));
    EXPECT_TRUE(AddMany(*builder, count).ok());
    const auto manifest = builder->Finish(RequestLimits(), nullptr);
    EXPECT_TRUE(manifest.ok()) << manifest.status();
    return Path(name);
  }

  static std::map<std::string, std::string> Contents(const std::string& directory) {
    std::map<std::string, std::string> contents;
    const std::vector<std::string> names = PosixFileSystem().List(directory).value();
    for (const std::string& name : names) {
      const std::string path = JoinPath(directory, name);
      if (PosixFileSystem().IsDirectory(path)) {
        for (const auto& [inner, content] : Contents(path)) contents[JoinPath(name, inner)] = content;
      } else {
        contents[name] = PosixFileSystem().ReadFile(path).value();
      }
    }
    return contents;
  }

  FileSystem& fs_ = PosixFileSystem();
  std::string root_;
};

TEST_F(GenerationTest, HoldsWhatWasAddedInTheOrderOfIds) {
  const std::string directory = Build("g1", 101);
  auto generation = Generation::Open(fs_, directory, {});
  ASSERT_TRUE(generation.ok()) << generation.status();
  const Generation& g = **generation;
  EXPECT_EQ(g.id(), "g1");
  EXPECT_EQ(g.row_count(), 101);
  EXPECT_EQ(g.dim(), kDim);
  EXPECT_EQ(g.manifest().store(), "wiki");
  EXPECT_EQ(g.manifest().base_revision(), 41);
  EXPECT_EQ(g.manifest().passage_fingerprint(), "8899aabbccddeeff");
  EXPECT_EQ(g.manifest().recall_at_10(), 1);
  EXPECT_EQ(g.manifest().recall_query_count(), 0);
  EXPECT_GT(g.manifest().probes_size(), 10);
  EXPECT_EQ(&g.index(), &g.exact_index());
  std::string last;
  for (int64_t row = 0; row < 101; ++row) {
    const std::string id = g.passages().ReadId(row).value();
    EXPECT_LT(last, id);
    last = id;
    std::vector<float> vector(kDim);
    g.vectors().CopyRow(row, vector.data());
    EXPECT_EQ(vector, MakeVector(std::stoi(id.substr(1)))) << id;
  }
  g.Warm();
  EXPECT_GT(g.memory_bytes(), 0);
}

TEST_F(GenerationTest, KeepsTheLastOfPassagesWithTheSameId) {
  const auto builder = NewBuilder("g", Options());
  const std::vector<v1::Passage> passages = {MakePassage("a", "old"), MakePassage("b", "b"), MakePassage("a", "newer")};
  std::vector<float> vectors;
  for (const uint64_t seed : {1, 2, 3}) {
    const std::vector<float> vector = MakeVector(seed);
    vectors.insert(vectors.end(), vector.begin(), vector.end());
  }
  ASSERT_TRUE(builder->Add(passages, vectors.data()).ok());
  const v1::Passage newest = MakePassage("a", "newest");
  ASSERT_TRUE(builder->Add({&newest, 1}, MakeVector(4).data()).ok());
  EXPECT_EQ(builder->added_count(), 4);
  ASSERT_TRUE(builder->Finish(RequestLimits(), nullptr).ok());
  EXPECT_EQ(builder->duplicate_count(), 2);
  const auto generation = Generation::Open(fs_, Path("g"), {}).value();
  ASSERT_EQ(generation->row_count(), 2);
  std::vector<v1::Passage> found;
  ASSERT_TRUE(generation->passages().Read(std::vector<int64_t>{0, 1}, &found).ok());
  EXPECT_EQ(found[0].text(), "newest");
  EXPECT_EQ(found[1].text(), "b");
  std::vector<float> vector(kDim);
  generation->vectors().CopyRow(0, vector.data());
  EXPECT_EQ(vector, MakeVector(4));
}

TEST_F(GenerationTest, MayHaveNoPassages) {
  for (const std::string index : {"exact", "exact:int8", "Flat"}) {
    const std::string directory = Build("empty-" + index.substr(index.find(':') + 1), 0, Options(index));
    const auto generation = Generation::Open(fs_, directory, {});
    ASSERT_TRUE(generation.ok()) << generation.status();
    EXPECT_EQ((*generation)->row_count(), 0);
    IndexSearchOptions options;
    options.top_k = 2;
    std::vector<RowHit> hits(2);
    ASSERT_TRUE((*generation)->index().Search({MakeVector(1).data(), 1, kDim}, options, RowMask(), hits.data()).ok());
    EXPECT_EQ(hits[0].row, -1);
  }
}

TEST_F(GenerationTest, StoresTheElementTypeAskedFor) {
  for (const ElementType type : {ElementType::kFloat16, ElementType::kBfloat16}) {
    const std::string name(ElementTypeName(type));
    const auto generation = Generation::Open(fs_, Build(name, 50, Options("exact", type)), {});
    ASSERT_TRUE(generation.ok()) << generation.status();
    EXPECT_EQ((*generation)->vectors().element_type(), type);
  }
}

TEST_F(GenerationTest, BuildsTheSameBytesFromTheSamePassages) {
  // RocksDB's own files carry identities and times.
  auto a = Contents(Build("a", 300, Options("IVF4,Flat")));
  auto b = Contents(Build("b", 300, Options("IVF4,Flat")));
  EXPECT_EQ(a["vectors.bin"], b["vectors.bin"]);
  EXPECT_EQ(a["index.faiss"], b["index.faiss"]);
  EXPECT_FALSE(a["index.faiss"].empty());
}

TEST_F(GenerationTest, LeavesNothingBehindButWhatTheManifestLists) {
  const std::string directory = Build("g", 200);
  const auto manifest = ReadManifest(fs_, directory).value();
  auto contents = Contents(directory);
  EXPECT_EQ(contents.size(), static_cast<size_t>(manifest.files_size()) + 1);
  for (const storage::FileEntry& file : manifest.files()) EXPECT_EQ(contents.count(file.path()), 1u) << file.path();
  // And opening changes none of it.
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(Generation::Open(fs_, directory, {}).ok());
  EXPECT_EQ(Contents(directory), contents);
}

TEST_F(GenerationTest, HasCodesWhereTheyAreAskedFor) {
  constexpr int kCount = 5000;
  const auto plain = Generation::Open(fs_, Build("plain", kCount), {}).value();
  EXPECT_FALSE(HasCodes(plain->manifest()));
  EXPECT_EQ(plain->manifest().format_version(), 2);
  for (const ElementType type : {ElementType::kFloat32, ElementType::kBfloat16}) {
    const std::string name(ElementTypeName(type));
    const std::string directory = Build(name, kCount, Options("exact:int8", type));
    const auto opened = Generation::Open(fs_, directory, {});
    ASSERT_TRUE(opened.ok()) << opened.status();
    const Generation& generation = **opened;
    EXPECT_TRUE(HasCodes(generation.manifest()));
    EXPECT_EQ(generation.manifest().format_version(), 3);
    EXPECT_EQ(generation.manifest().index(), "exact");
    EXPECT_EQ(AskedIndex(generation.manifest()), "exact:int8");
    EXPECT_EQ(&generation.index(), &generation.exact_index());
    const PlacedExactIndex& index = generation.exact_index();
    EXPECT_EQ(index.memory_bytes(), 0);
    generation.Warm();
    const ExactIndex expected_index(generation.shared_vectors(), nullptr);
    IndexSearchOptions options;
    options.top_k = 20;
    EXPECT_TRUE(index.IsExact(options, RowMask()));
    std::vector<RowHit> hits(20), expected(20);
    for (uint64_t seed = 0; seed < 5; ++seed) {
      const std::vector<float> query = MakeVector(1'000'000 + seed);
      ASSERT_TRUE(index.Search({query.data(), 1, kDim}, options, RowMask(), hits.data()).ok());
      ASSERT_TRUE(expected_index.Search({query.data(), 1, kDim}, options, RowMask(), expected.data()).ok());
      for (int i = 0; i < 20; ++i) {
        EXPECT_EQ(hits[i].row, expected[i].row);
        EXPECT_EQ(hits[i].score, expected[i].score);
      }
    }
    EXPECT_EQ(index.cpu()->certified_scan().answered_count(), 5);
  }
  // What opens must fit the vectors, also where nobody reads every byte.
  const std::string directory = Path("float32"), codes = JoinPath(directory, kCodesFile);
  const std::string other = fs_.ReadFile(JoinPath(Build("other", 70, Options("exact:int8")), kCodesFile)).value();
  ASSERT_TRUE(WriteFileAtomically(fs_, codes, other).ok());
  Generation::OpenOptions unread;
  unread.verify_checksums = false;
  EXPECT_EQ(Generation::Open(fs_, directory, unread).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(GenerationTest, NamesTheFileThatIsDamaged) {
  NamesDamage(Build("lists", 200, Options("IVF4,Flat")));
  NamesDamage(Build("codes", 200, Options("exact:int8")));
}

void GenerationTest::NamesDamage(const std::string& directory) {
  for (const auto& [name, content] : Contents(directory)) {
    const std::string path = JoinPath(directory, name);
    std::vector<std::string> damaged = {content.substr(0, content.size() / 2), content + "x", ""};
    damaged.push_back(content);
    damaged.back()[content.size() / 2] ^= 1;
    for (const std::string& bad : damaged) {
      ASSERT_TRUE(WriteFileAtomically(fs_, path, bad).ok());
      for (const absl::Status& status : {Generation::Verify(fs_, directory), Generation::Open(fs_, directory, {}).status()}) {
        EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << name << ": " << status;
        EXPECT_NE(status.message().find(name), std::string::npos) << name << ": " << status;
      }
    }
    ASSERT_TRUE(fs_.DeleteFile(path).ok());
    const absl::Status missing = Generation::Open(fs_, directory, {}).status();
    EXPECT_EQ(missing.code(), name == "MANIFEST" ? absl::StatusCode::kFailedPrecondition : absl::StatusCode::kDataLoss) << missing;
    ASSERT_TRUE(WriteFileAtomically(fs_, path, content).ok());
  }
  EXPECT_TRUE(Generation::Verify(fs_, directory).ok());
  // A file that the manifest does not know could change what RocksDB reads.
  ASSERT_TRUE(WriteFileAtomically(fs_, JoinPath(directory, "passages/000099.log"), "x").ok());
  EXPECT_EQ(Generation::Verify(fs_, directory).code(), absl::StatusCode::kDataLoss);
}

TEST_F(GenerationTest, NeverParsesADamagedFaissIndex) {
  const std::string directory = Build("g", 200, Options("IVF4,Flat"));
  const std::string path = JoinPath(directory, "index.faiss");
  std::string content = fs_.ReadFile(path).value();
  content[content.size() / 2] ^= 1;
  ASSERT_TRUE(WriteFileAtomically(fs_, path, content).ok());
  Generation::OpenOptions options;
  options.verify_checksums = false;
  EXPECT_EQ(Generation::Open(fs_, directory, options).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(GenerationTest, ProbesFindVectorsThatBelongToOtherPassages) {
  const std::string directory = Build("g", 200);
  // Another generation's vectors, with a manifest that agrees.
  const std::string other = JoinPath(directory, "vectors.bin");
  auto writer = VectorFileWriter::Create(fs_, other, 200, kDim, ElementType::kFloat32).value();
  const std::vector<float> same(kDim, 0.25f);
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(writer->Append(same.data()).ok());
  ASSERT_TRUE(writer->Finish().ok());
  Generation::OpenOptions options;
  options.verify_checksums = false;
  EXPECT_EQ(Generation::Open(fs_, directory, options).status().code(), absl::StatusCode::kDataLoss);
  options.run_probes = false;
  EXPECT_TRUE(Generation::Open(fs_, directory, options).ok());
}

TEST_F(GenerationTest, MeasuresRecallWithTheQueriesGiven) {
  BuildOptions options = Options("IVF16,Flat");
  size_t sample_size = 0;
  options.recall_query_source = "first sentences";
  options.recall_queries = [&](const std::vector<v1::Passage>& sample) -> absl::StatusOr<std::vector<float>> {
    sample_size = sample.size();
    std::vector<float> queries;
    for (int q = 0; q < 30; ++q) {
      const std::vector<float> query = MakeVector(10'000 + q);
      queries.insert(queries.end(), query.begin(), query.end());
    }
    return queries;
  };
  const auto manifest = ReadManifest(fs_, Build("given", 700, options)).value();
  EXPECT_EQ(sample_size, 200u);
  EXPECT_EQ(manifest.recall_query_count(), 30);
  EXPECT_EQ(manifest.recall_query_source(), "first sentences");
  EXPECT_GT(manifest.recall_at_10(), 0.3);
  EXPECT_LT(manifest.recall_at_10(), 1.0);  // Random vectors, 8 of 16 lists.
  const auto midpoints = ReadManifest(fs_, Build("midpoints", 700, Options("HNSW16"))).value();
  EXPECT_EQ(midpoints.recall_query_count(), 200);
  EXPECT_NE(midpoints.recall_query_source().find("midpoints"), std::string::npos);
  EXPECT_GT(midpoints.recall_at_10(), 0.9);
}

TEST_F(GenerationTest, RefusesWhatItCannotBuild) {
  const auto create = [&](auto change) {
    BuildOptions options = Options();
    change(options);
    return GenerationBuilder::Create(fs_, Path("refused"), "wiki", "g", options).status().code();
  };
  EXPECT_EQ(create([](BuildOptions& o) { o.dim = 0; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(create([](BuildOptions& o) { o.element_type = ElementType::kInt8; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(create([](BuildOptions& o) { o.index = "nonsense"; }), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(fs_.Exists(Path("refused")));
  ASSERT_TRUE(fs_.CreateDirectories(Path("refused")).ok());
  EXPECT_EQ(create([](BuildOptions&) {}), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(fs_.Exists(Path("refused")));

  const auto builder = NewBuilder("g", Options("exact", ElementType::kFloat16));
  std::vector<float> vectors(2 * kDim, 0.5f);
  std::vector<v1::Passage> passages = {MakePassage("a", "x"), MakePassage("", "x")};
  EXPECT_EQ(builder->Add(passages, vectors.data()).code(), absl::StatusCode::kInvalidArgument);
  passages[1].set_id(std::string(513, 'x'));
  EXPECT_EQ(builder->Add(passages, vectors.data()).code(), absl::StatusCode::kInvalidArgument);
  passages[1] = MakePassage("b", "x");
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity(), -70000.0f}) {
    vectors[kDim + 3] = bad;
    EXPECT_EQ(builder->Add(passages, vectors.data()).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  vectors[kDim + 3] = 0;
  EXPECT_EQ(builder->added_count(), 0);
  const auto manifest = builder->Finish(RequestLimits(), nullptr);
  ASSERT_TRUE(manifest.ok());
  EXPECT_EQ(manifest->passage_count(), 0);  // Nothing of the batches that were refused.
}

TEST_F(GenerationTest, NamesTheLimitOfListsForFewRows) {
  const auto builder = NewBuilder("g", Options("IVF1024,Flat"));
  ASSERT_TRUE(AddMany(*builder, 100).ok());
  const absl::Status status = builder->Finish(RequestLimits(), nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("1024"), std::string::npos) << status;
  EXPECT_NE(status.message().find("100"), std::string::npos) << status;
}

TEST_F(GenerationTest, RemovesTheFolderOfABuildThatDidNotFinish) {
  {
    const auto builder = NewBuilder("g", Options());
    ASSERT_TRUE(AddMany(*builder, 10).ok());
    EXPECT_TRUE(fs_.Exists(Path("g")));
    EXPECT_EQ(Generation::Open(fs_, Path("g"), {}).status().code(), absl::StatusCode::kFailedPrecondition);
  }
  EXPECT_FALSE(fs_.Exists(Path("g")));
  {
    const auto builder = NewBuilder("g", Options());
    ASSERT_TRUE(AddMany(*builder, 10).ok());
    const RequestLimits limits;
    limits.Cancel();
    EXPECT_EQ(builder->Finish(limits, nullptr).status().code(), absl::StatusCode::kCancelled);
  }
  EXPECT_FALSE(fs_.Exists(Path("g")));
}

TEST_F(GenerationTest, ReportsProgressToTheEnd) {
  const auto builder = NewBuilder("g", Options("Flat"));
  ASSERT_TRUE(AddMany(*builder, 2500).ok());
  std::map<std::string, std::pair<int64_t, int64_t>> last;
  const auto progress = [&](std::string_view phase, int64_t done, int64_t total) {
    EXPECT_LE(done, total);
    last[std::string(phase)] = {done, total};
  };
  ASSERT_TRUE(builder->Finish(RequestLimits(), progress).ok());
  EXPECT_EQ(last.size(), 4u);
  EXPECT_EQ(last["write"].second, 2500);
  for (const auto& [phase, numbers] : last) EXPECT_EQ(numbers.first, numbers.second) << phase;
}

// Fails the n-th call that writes.
class FailingFileSystem : public FileSystem {
 public:
  explicit FailingFileSystem(int fail_at) : remaining_(fail_at) {}
  bool failed() const { return remaining_ < 0; }

  absl::StatusOr<std::unique_ptr<WritableFile>> NewWritableFile(const std::string& path) override {
    if (Fails()) return Error();
    auto file = fs_.NewWritableFile(path);
    if (!file.ok()) return file.status();
    return std::make_unique<File>(*this, *std::move(file));
  }
  absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) override { return fs_.Map(path); }
  absl::StatusOr<std::string> ReadFile(const std::string& path) override { return fs_.ReadFile(path); }
  absl::StatusOr<int64_t> FileSize(const std::string& path) override { return fs_.FileSize(path); }
  bool Exists(const std::string& path) override { return fs_.Exists(path); }
  bool IsDirectory(const std::string& path) override { return fs_.IsDirectory(path); }
  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override { return fs_.List(path); }
  absl::Status CreateDirectories(const std::string& path) override { return fs_.CreateDirectories(path); }
  absl::Status Rename(const std::string& from, const std::string& to) override { return Fails() ? Error() : fs_.Rename(from, to); }
  absl::Status SyncDirectory(const std::string& path) override { return Fails() ? Error() : fs_.SyncDirectory(path); }
  absl::Status DeleteFile(const std::string& path) override { return fs_.DeleteFile(path); }
  absl::Status DeleteRecursively(const std::string& path) override { return fs_.DeleteRecursively(path); }
  absl::StatusOr<std::unique_ptr<Lock>> LockFile(const std::string& path) override { return fs_.LockFile(path); }

 private:
  class File : public WritableFile {
   public:
    File(FailingFileSystem& fs, std::unique_ptr<WritableFile> file) : fs_(fs), file_(std::move(file)) {}
    absl::Status Append(std::string_view data) override { return fs_.Fails() ? Error() : file_->Append(data); }
    absl::Status Sync() override { return fs_.Fails() ? Error() : file_->Sync(); }
    absl::Status Close() override { return fs_.Fails() ? Error() : file_->Close(); }

   private:
    FailingFileSystem& fs_;
    std::unique_ptr<WritableFile> file_;
  };

  bool Fails() { return --remaining_ < 0; }
  static absl::Status Error() { return absl::ResourceExhaustedError("no space left on device"); }

  FileSystem& fs_ = PosixFileSystem();
  int remaining_;
};

TEST_F(GenerationTest, ADiskThatFailsLeavesNoGeneration) {
  int fail_at = 0;
  for (;; ++fail_at) {
    ASSERT_LT(fail_at, 100);
    FailingFileSystem fs(fail_at);
    {
      const auto builder = NewBuilder("g", Options("HNSW4"), &fs);
      ASSERT_TRUE(AddMany(*builder, 10).ok());
      const auto manifest = builder->Finish(RequestLimits(), nullptr);
      EXPECT_EQ(manifest.ok(), !fs.failed());
      if (manifest.ok()) break;
      EXPECT_EQ(manifest.status().code(), absl::StatusCode::kResourceExhausted) << manifest.status();
    }
    EXPECT_FALSE(fs_.Exists(Path("g"))) << "failure " << fail_at;
  }
  EXPECT_GE(fail_at, 10);  // Vectors, index, manifest, three folders.
  EXPECT_TRUE(Generation::Open(fs_, Path("g"), {}).ok());
}

}  // namespace
}  // namespace loci
