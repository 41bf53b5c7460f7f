#include "index/manifest.h"

#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/file.h"
#include "index/quantized_vectors.h"

namespace loci {
namespace {

void AddFile(storage::Manifest& manifest, const std::string& path, int64_t size) {
  storage::FileEntry* file = manifest.add_files();
  file->set_path(path);
  file->set_size_bytes(size);
  file->set_sha256(std::string(64, 'a'));
}

storage::Manifest Good() {
  storage::Manifest manifest;
  manifest.set_format_version(1);
  manifest.set_generation("20261121-094142-3f2a");
  manifest.set_store("default");
  manifest.set_query_fingerprint("00112233445566aa");
  manifest.set_passage_fingerprint("8899aabbccddeeff");
  manifest.set_passage_count(3);
  manifest.set_vector_count(3);
  manifest.set_dim(4);
  manifest.set_vector_type(v1::VECTOR_TYPE_FLOAT32);
  manifest.set_metric("inner_product");
  manifest.set_index("exact");
  manifest.set_recall_at_10(1);
  AddFile(manifest, "vectors.bin", 64 + 3 * 4 * 4);
  AddFile(manifest, "passages/CURRENT", 16);
  return manifest;
}

TEST(ParseManifest, ReturnsWhatWasSerialized) {
  const storage::Manifest manifest = Good();
  const auto parsed = ParseManifest(SerializeManifest(manifest));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->SerializeAsString(), manifest.SerializeAsString());
}

TEST(ParseManifest, TakesPrecisionsOfNewerServersForUnknownAndNoneForOlderOnes) {
  storage::Manifest manifest = Good();
  EXPECT_EQ(PrecisionsOf(*ParseManifest(SerializeManifest(manifest))), PrecisionSet(VectorPrecision::kUnknown));
  manifest.add_encoder_precisions("int8");
  EXPECT_EQ(PrecisionsOf(*ParseManifest(SerializeManifest(manifest))), PrecisionSet(VectorPrecision::kInt8));
  manifest.add_encoder_precisions("int3");
  const PrecisionSet two = PrecisionsOf(*ParseManifest(SerializeManifest(manifest)));
  EXPECT_TRUE(two.Contains(VectorPrecision::kInt8) && two.Contains(VectorPrecision::kUnknown));
  for (int i = 0; i < 100; ++i) manifest.add_encoder_precisions("float32");
  EXPECT_EQ(ParseManifest(SerializeManifest(manifest)).status().code(), absl::StatusCode::kDataLoss);
}

TEST(ParseManifest, FindsEveryChangedOrMissingByte) {
  const std::string content = SerializeManifest(Good());
  for (size_t i = 0; i < content.size(); ++i) {
    std::string damaged = content;
    damaged[i] ^= 1;
    EXPECT_EQ(ParseManifest(damaged).status().code(), absl::StatusCode::kDataLoss) << i;
    EXPECT_EQ(ParseManifest(content.substr(0, i)).status().code(), absl::StatusCode::kDataLoss) << i;
  }
  EXPECT_EQ(ParseManifest(content + "0").status().code(), absl::StatusCode::kDataLoss);
}

TEST(ParseManifest, ChecksWhatWasMeasured) {
  storage::Manifest good = Good();
  good.set_index("IVF2,Flat");
  AddFile(good, "index.faiss", 100);
  v1::TuningPoint& step = *good.add_ladder();
  step.set_index("IVF2,Flat");
  step.set_nprobe(1);
  step.set_recall_at_10(0.9);
  step.set_recall_bound(0.8);
  *good.mutable_tuning()->add_front() = step;
  const auto parsed = ParseManifest(SerializeManifest(good));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->ladder(0).nprobe(), 1);
  const std::vector<std::function<void(v1::TuningPoint&)>> changes = {
      [](auto& p) { p.clear_index(); },           [](auto& p) { p.set_index(std::string(257, 'x')); },
      [](auto& p) { p.set_recall_at_10(1.1); },   [](auto& p) { p.set_recall_bound(NAN); },
      [](auto& p) { p.set_latency_us(-1); },      [](auto& p) { p.set_latency_us(INFINITY); },
      [](auto& p) { p.set_memory_bytes(-1); },    [](auto& p) { p.set_build_ms(-1); },
      [](auto& p) { p.set_nprobe(-1); },          [](auto& p) { p.set_ef_search(-1); },
      [](auto& p) { p.set_rescore_factor(-1); }};
  for (size_t i = 0; i < changes.size(); ++i) {
    storage::Manifest bad = good;
    changes[i](*bad.mutable_ladder(0));
    EXPECT_EQ(ParseManifest(SerializeManifest(bad)).status().code(), absl::StatusCode::kDataLoss) << i;
    bad = good;
    changes[i](*bad.mutable_tuning()->mutable_front(0));
    EXPECT_EQ(ParseManifest(SerializeManifest(bad)).status().code(), absl::StatusCode::kDataLoss) << i;
  }
  storage::Manifest exact = Good();
  *exact.add_ladder() = step;
  EXPECT_EQ(ParseManifest(SerializeManifest(exact)).status().code(), absl::StatusCode::kDataLoss) << "an exact index has no parameters";
}

TEST(ParseManifest, RefusesANewerFormat) {
  storage::Manifest manifest = Good();
  manifest.set_format_version(kManifestFormatVersion + 1);
  EXPECT_EQ(ParseManifest(SerializeManifest(manifest)).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(ParseManifest, TakesCodesThatFit) {
  storage::Manifest manifest = Good();
  EXPECT_FALSE(HasCodes(manifest));
  AddFile(manifest, "vectors.int8", QuantizedVectorsBytes(3, 4));
  manifest.set_format_version(3);
  EXPECT_TRUE(ParseManifest(SerializeManifest(manifest)).ok());
  EXPECT_TRUE(HasCodes(manifest));
}

TEST(ParseManifest, RefusesFieldsThatCannotBeTrue) {
  const std::vector<std::pair<std::string, std::function<void(storage::Manifest&)>>> changes = {
      {"version", [](auto& m) { m.set_format_version(0); }},
      {"no generation", [](auto& m) { m.set_generation(""); }},
      {"generation up", [](auto& m) { m.set_generation(".."); }},
      {"generation slash", [](auto& m) { m.set_generation("a/b"); }},
      {"store slash", [](auto& m) { m.set_store("a/b"); }},
      {"fingerprint", [](auto& m) { m.set_passage_fingerprint("a b"); }},
      {"revision", [](auto& m) { m.set_base_revision(-1); }},
      {"passages", [](auto& m) { m.set_passage_count(-1); }},
      {"fewer vectors", [](auto& m) { m.set_vector_count(2); }},
      {"huge", [](auto& m) { m.set_passage_count(INT64_MAX), m.set_vector_count(INT64_MAX); }},
      {"dim 0", [](auto& m) { m.set_dim(0); }},
      {"dim huge", [](auto& m) { m.set_dim(65537); }},
      {"type", [](auto& m) { m.set_vector_type(v1::VECTOR_TYPE_INT8); }},
      {"no type", [](auto& m) { m.set_vector_type(v1::VECTOR_TYPE_UNSPECIFIED); }},
      {"unknown type", [](auto& m) { m.set_vector_type(static_cast<v1::VectorType>(99)); }},
      {"metric", [](auto& m) { m.set_metric("l2"); }},
      {"no index", [](auto& m) { m.set_index(""); }},
      {"base revision", [](auto& m) { m.set_base_revision(-1); }},
      {"base revision that overflows", [](auto& m) { m.set_base_revision((int64_t{1} << 62) + 1); }},
      {"index without file", [](auto& m) { m.set_index("HNSW32"); }},
      {"file without index", [](auto& m) { AddFile(m, "index.faiss", 1); }},
      {"recall", [](auto& m) { m.set_recall_at_10(1.01); }},
      {"recall nan", [](auto& m) { m.set_recall_at_10(std::nan("")); }},
      {"queries", [](auto& m) { m.set_recall_query_count(-1); }},
      {"probe outside", [](auto& m) { m.add_probes()->set_id("a"), m.mutable_probes(0)->set_row(3); }},
      {"probe negative", [](auto& m) { m.add_probes()->set_id("a"), m.mutable_probes(0)->set_row(-1); }},
      {"probe without id", [](auto& m) { m.add_probes(); }},
      {"vectors' size", [](auto& m) { m.mutable_files(0)->set_size_bytes(111); }},
      {"codes' size", [](auto& m) { m.set_format_version(3), AddFile(m, "vectors.int8", QuantizedVectorsBytes(3, 4) + 1); }},
      {"codes in version 1", [](auto& m) { AddFile(m, "vectors.int8", QuantizedVectorsBytes(3, 4)); }},
      {"codes in version 2", [](auto& m) { m.set_format_version(2), AddFile(m, "vectors.int8", QuantizedVectorsBytes(3, 4)); }},
      {"version 3 without codes", [](auto& m) { m.set_format_version(3); }},
      {"negative size", [](auto& m) { m.mutable_files(1)->set_size_bytes(-1); }},
      {"checksum", [](auto& m) { m.mutable_files(1)->set_sha256(std::string(64, 'g')); }},
      {"short checksum", [](auto& m) { m.mutable_files(1)->set_sha256("aa"); }},
      {"blocks of no size", [](auto& m) { m.mutable_files(1)->add_block_xxh3(1); }},
      {"blocks of another size", [](auto& m) { m.mutable_files(1)->set_block_bytes(4095); }},
      {"no blocks", [](auto& m) { m.mutable_files(1)->set_block_bytes(4096); }},
      {"too many blocks", [](auto& m) { m.mutable_files(1)->set_block_bytes(4096), m.mutable_files(1)->mutable_block_xxh3()->Resize(2, 7); }},
      {"twice", [](auto& m) { AddFile(m, "vectors.bin", 64 + 48); }},
      {"no vectors", [](auto& m) { m.mutable_files(0)->set_path("passages/x"); }},
      {"no passages", [](auto& m) { m.mutable_files(1)->set_path("passages/x"); }},
      {"up", [](auto& m) { AddFile(m, "../x", 1); }},
      {"up inside", [](auto& m) { AddFile(m, "passages/../../x", 1); }},
      {"dots", [](auto& m) { AddFile(m, "passages/..", 1); }},
      {"absolute", [](auto& m) { AddFile(m, "/etc/passwd", 1); }},
      {"folder", [](auto& m) { AddFile(m, "passages/", 1); }},
      {"nul", [](auto& m) { AddFile(m, std::string("passages/a\0b", 12), 1); }},
      {"elsewhere", [](auto& m) { AddFile(m, "MANIFEST", 1); }},
  };
  for (const auto& [name, change] : changes) {
    storage::Manifest manifest = Good();
    change(manifest);
    EXPECT_EQ(ParseManifest(SerializeManifest(manifest)).status().code(), absl::StatusCode::kDataLoss) << name;
  }
}

TEST(ReadManifest, NamesTheFolder) {
  FileSystem& fs = PosixFileSystem();
  const std::string directory = JoinPath(testing::TempDir(), "manifest_test_g1");
  ASSERT_TRUE(fs.CreateDirectories(directory).ok());
  fs.DeleteFile(JoinPath(directory, "MANIFEST")).IgnoreError();
  const absl::Status missing = ReadManifest(fs, directory).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(missing.message().find("manifest_test_g1"), std::string::npos);
  ASSERT_TRUE(WriteFileAtomically(fs, JoinPath(directory, "MANIFEST"), "garbage that is long enough").ok());
  const absl::Status damaged = ReadManifest(fs, directory).status();
  EXPECT_EQ(damaged.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(damaged.message().find("manifest_test_g1"), std::string::npos);
  storage::Manifest manifest = Good();
  manifest.set_generation("manifest_test_g1");
  manifest.set_store("wiki");
  manifest.set_base_revision(kMaxRevision);
  ASSERT_TRUE(WriteFileAtomically(fs, JoinPath(directory, "MANIFEST"), SerializeManifest(manifest)).ok());
  EXPECT_TRUE(ReadManifest(fs, directory).ok());
  EXPECT_TRUE(ReadManifest(fs, directory + "/", "wiki").ok());
  const absl::Status other_store = ReadManifest(fs, directory, "wiki2").status();
  EXPECT_EQ(other_store.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(other_store.message().find("wiki2"), std::string::npos);
  manifest.set_generation("manifest_test_g2");
  ASSERT_TRUE(WriteFileAtomically(fs, JoinPath(directory, "MANIFEST"), SerializeManifest(manifest)).ok());
  const absl::Status other_generation = ReadManifest(fs, directory).status();
  EXPECT_EQ(other_generation.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(other_generation.message().find("manifest_test_g2"), std::string::npos);
}

}  // namespace
}  // namespace loci
