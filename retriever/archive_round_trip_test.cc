// Archives of stores, and what comes of importing them.
#include <atomic>
#include <cstring>
#include <functional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "gmock/gmock.h"
#include "retriever/archive_exporter.h"
#include "retriever/archive_importer.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string ReasonOf(const absl::Status& status) {
  const std::optional<ErrorReason> reason = GetErrorReason(status);
  return reason.has_value() ? reason->reason : "";
}

class ArchiveRoundTrip : public RetrieverFixture {
 protected:
  void SetUp() override { Start(); }

  static std::vector<loci::v1::Passage> MakePassages(int count, int step = 1) {
    std::vector<loci::v1::Passage> passages;
    for (int i = 0; i < count; ++i) {
      loci::v1::Passage passage = MakePassage(absl::StrCat("p", 10'000 + i * step), absl::StrCat("number ", i, " and ", i * i), absl::StrCat("title ", i % 7));
      (*passage.mutable_metadata())["year"].set_int64_value(1900 + i);
      (*passage.mutable_metadata())["tags"].mutable_string_list_value()->add_values("x");
      passage.set_document_id("d");
      passage.set_chunk_index(i);
      passages.push_back(std::move(passage));
    }
    return passages;
  }
  std::shared_ptr<const View> ViewOf(const std::string& store) {
    const auto set = manager_->Capture(store, "");
    EXPECT_TRUE(set.ok()) << set.status();
    return set.ok() ? (*set)->view : nullptr;
  }
  static std::string Export(std::shared_ptr<const View> view) {
    ArchiveExporter exporter(std::move(view), 1);
    std::string archive;
    while (true) {
      const absl::StatusOr<std::string> bytes = exporter.Next(RequestLimits());
      EXPECT_TRUE(bytes.ok()) << bytes.status();
      if (!bytes.ok() || bytes->empty()) break;
      archive += *bytes;
    }
    EXPECT_EQ(exporter.done_count(), exporter.view().passage_count());
    return archive;
  }
  absl::StatusOr<ImportResult> Import(const std::string& store, std::string_view archive, ImportOptions options = {}, size_t piece = 100'000) {
    options.store = store;
    ArchiveImporter importer(*manager_, std::move(options));
    for (size_t at = 0; at < archive.size(); at += piece) {
      if (absl::Status status = importer.Add(archive.substr(at, piece)); !status.ok()) return status;
    }
    return importer.Finish();
  }
  // That two views hold the same passages, vectors, and answer exact searches by the same bits.
  void ExpectSame(const View& a, const View& b) {
    ASSERT_EQ(a.passage_count(), b.passage_count());
    ASSERT_EQ(a.dim(), b.dim());
    std::vector<float> left(a.dim()), right(a.dim());
    for (int64_t row = 0; row < b.generation().row_count(); ++row) {
      std::vector<loci::v1::Passage> mine, other;
      ASSERT_TRUE(b.Read(std::vector<ViewRow>{{false, row}}, &other).ok());
      const auto found = a.Find(other[0].id());
      ASSERT_TRUE(found.ok() && found->has_value()) << other[0].id();
      ASSERT_TRUE(a.Read(std::vector<ViewRow>{**found}, &mine).ok());
      ASSERT_EQ(mine[0].ShortDebugString(), other[0].ShortDebugString());
      ASSERT_TRUE(a.CopyVector(**found, left.data()).ok());
      ASSERT_TRUE(b.CopyVector({false, row}, right.data()).ok());
      ASSERT_EQ(std::memcmp(left.data(), right.data(), left.size() * sizeof(float)), 0) << other[0].id();
    }
    for (int q = 0; q < 5; ++q) {
      const auto set = manager_->encoders().Get("");
      const auto encoded = (*set)->EncodeAndWait({absl::StrCat("number ", q * 3)}, {.role = TextRole::kQuery});
      const IndexSearchOptions options{.top_k = 20, .exact = true};
      const auto in_a = a.Search({encoded->vectors.data(), 1, a.dim()}, options);
      const auto in_b = b.Search({encoded->vectors.data(), 1, b.dim()}, options);
      ASSERT_TRUE(in_a.ok() && in_b.ok());
      ASSERT_EQ(in_a->hits[0].size(), in_b->hits[0].size());
      for (size_t i = 0; i < in_a->hits[0].size(); ++i) {
        EXPECT_EQ(in_a->hits[0][i].id, in_b->hits[0][i].id);
        EXPECT_EQ(std::memcmp(&in_a->hits[0][i].score, &in_b->hits[0][i].score, sizeof(float)), 0);
      }
    }
  }
  // No generation, no folder of one.
  void ExpectNothingIn(const std::string& store) {
    const auto list = manager_->ListGenerations(store);
    if (list.ok()) {
      EXPECT_THAT(list->generations, IsEmpty());
    }
    const auto names = fs_.List(manager_->StoreDirectory(store));
    if (!names.ok()) return;
    for (const std::string& name : *names) EXPECT_THAT(name, ::testing::AnyOf("CURRENT", "LOCK", "writes", "SETTINGS")) << "left behind";
  }
};

TEST_F(ArchiveRoundTrip, BringsAGenerationBackBitForBit) {
  for (const auto type : {ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16}) {
    const std::string store = absl::StrCat("a", static_cast<int>(type));
    ASSERT_TRUE(Ingest(store, MakePassages(300), {.element_type = type}).ok());
    const auto view = ViewOf(store);
    const absl::StatusOr<ImportResult> imported = Import(store + "-copy", Export(view));
    ASSERT_TRUE(imported.ok()) << imported.status();
    EXPECT_EQ(imported->passage_count, 300);
    EXPECT_EQ(imported->header.store(), store);
    const auto copy = ViewOf(store + "-copy");
    EXPECT_EQ(copy->generation().id(), imported->generation);
    EXPECT_EQ(copy->generation().vectors().element_type(), type);
    ExpectSame(*view, *copy);
  }
}

TEST_F(ArchiveRoundTrip, HoldsAViewAsIfItsWritesHadBeenFolded) {
  ASSERT_TRUE(Ingest("s", MakePassages(200, 2), {.element_type = ElementType::kFloat16}).ok());
  // Between, before and after the rows of the body; one replaced, some deleted, one of them of the overlay.
  std::vector<loci::v1::Passage> upserts = {MakePassage("a", "first"), MakePassage("p10001", "between"), MakePassage("p10004", "replaced"),
                                            MakePassage("z", "last"), MakePassage("p10007", "soon gone")};
  ASSERT_TRUE(manager_->Upsert("s", upserts, RequestLimits()).ok());
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("a", "first again")}, RequestLimits()).ok());
  ASSERT_TRUE(manager_->Delete("s", {"p10000", "p10398", "p10007", "p10100"}).ok());
  const auto view = ViewOf("s");
  EXPECT_EQ(view->passage_count(), 200 + 3 - 3);
  const std::string archive = Export(view);
  const absl::StatusOr<ImportResult> imported = Import("copy", archive, {}, 1'000);
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(imported->header.revision(), view->revision());
  const auto copy = ViewOf("copy");
  EXPECT_EQ(copy->overlay_count(), 0);
  ExpectSame(*view, *copy);
  EXPECT_FALSE((*copy->Find("p10007")).has_value());
}

TEST_F(ArchiveRoundTrip, KeepsItsRevisionWhileOthersWrite) {
  ASSERT_TRUE(Ingest("s", MakePassages(500)).ok());
  const auto view = ViewOf("s");
  ArchiveExporter exporter(view, 1);
  std::string archive;
  for (int i = 0;; ++i) {
    const auto bytes = exporter.Next(RequestLimits());
    ASSERT_TRUE(bytes.ok());
    if (bytes->empty()) break;
    archive += *bytes;
    ASSERT_TRUE(manager_->Upsert("s", {MakePassage(absl::StrCat("new", i), "written meanwhile"), MakePassage("p10499", "replaced meanwhile")}, RequestLimits()).ok());
    ASSERT_TRUE(manager_->Delete("s", {absl::StrCat("p", 10'000 + i)}).ok());
    if (i == 0) {
      ASSERT_TRUE(Ingest("s", MakePassages(2), {.writes_since = WritesPolicy::kDiscard}).ok()) << "and the whole store goes";
    }
  }
  ASSERT_TRUE(Import("copy", archive).ok());
  ExpectSame(*view, *ViewOf("copy"));
  EXPECT_EQ(ViewOf("copy")->passage_count(), 500);
}

TEST_F(ArchiveRoundTrip, BuildsTheIndexFromTheVectors) {
  ASSERT_TRUE(Ingest("s", MakePassages(400), {.index = "IVF4,Flat"}).ok());
  const std::string archive = Export(ViewOf("s"));
  ASSERT_TRUE(Import("copy", archive).ok());
  EXPECT_EQ(ViewOf("copy")->generation().manifest().index(), "IVF4,Flat");
  EXPECT_GT(ViewOf("copy")->generation().manifest().recall_query_count(), 0);
  ASSERT_TRUE(Import("other", archive, {.index = "exact", .element_type = ElementType::kFloat16}).ok());
  EXPECT_EQ(ViewOf("other")->generation().manifest().index(), "exact");
  EXPECT_EQ(ViewOf("other")->generation().vectors().element_type(), ElementType::kFloat16);
}

TEST_F(ArchiveRoundTrip, TakesTheEmptyStoreToo) {
  ASSERT_TRUE(Ingest("s", MakePassages(1)).ok());
  ASSERT_TRUE(manager_->Delete("s", {"p10000"}).ok());
  const absl::StatusOr<ImportResult> imported = Import("copy", Export(ViewOf("s")));
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(ViewOf("copy")->passage_count(), 0);
}

TEST_F(ArchiveRoundTrip, RefusesDamageAndLeavesNothing) {
  ASSERT_TRUE(Ingest("s", MakePassages(50)).ok());
  const std::string archive = Export(ViewOf("s"));
  for (size_t i = kArchiveMagic.size(); i < archive.size(); i += archive.size() / 23) {
    std::string damaged = archive;
    damaged[i] = static_cast<char>(damaged[i] ^ 4);
    const absl::Status status = Import("copy", damaged).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << i << ": " << status;
    EXPECT_TRUE(GetErrorReason(status)->metadata.contains("offset"));
    EXPECT_TRUE(absl::IsDataLoss(Import("copy", std::string_view(archive).substr(0, i)).status())) << "cut short at " << i;
  }
  ExpectNothingIn("copy");
  EXPECT_TRUE(absl::IsInvalidArgument(Import("copy", "").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Import("copy", "PK\x03\x04 not one of ours").status()));
  EXPECT_TRUE(absl::IsNotFound(manager_->GetStore("never").status()));
  EXPECT_FALSE(Import("never", "").ok());
  EXPECT_TRUE(absl::IsNotFound(manager_->GetStore("never").status())) << "no store is made for what has no header";
}

TEST_F(ArchiveRoundTrip, LeavesWhatServesUntouchedWhereItFails) {
  ASSERT_TRUE(Ingest("s", MakePassages(50)).ok());
  const std::string archive = Export(ViewOf("s"));
  ASSERT_TRUE(Ingest("t", MakePassages(3)).ok());
  const std::string before = ViewOf("t")->generation().id();
  EXPECT_FALSE(Import("t", std::string_view(archive).substr(0, archive.size() - 1)).ok());
  RequestLimits limits;
  ImportOptions options;
  options.limits = limits;
  options.store = "t";
  {
    ArchiveImporter importer(*manager_, options);
    ASSERT_TRUE(importer.Add(archive).ok());
    limits.Cancel();
    EXPECT_TRUE(absl::IsCancelled(importer.Finish().status()));
  }
  EXPECT_EQ(ViewOf("t")->generation().id(), before);
  EXPECT_EQ(manager_->ListGenerations("t")->generations.size(), 1u);
}

TEST_F(ArchiveRoundTrip, RefusesWritesMadeSinceUnlessItIsTold) {
  ASSERT_TRUE(Ingest("s", MakePassages(5)).ok());
  const std::string archive = Export(ViewOf("s"));
  ArchiveImporter importer(*manager_, {.store = "s"});
  ASSERT_TRUE(importer.Add(archive).ok());
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("new", "written since")}, RequestLimits()).ok());
  const absl::Status refused = importer.Finish().status();
  EXPECT_EQ(ReasonOf(refused), "WRITES_SINCE");
  EXPECT_THAT(std::string(refused.message()), HasSubstr("was built but not activated"));
}

// The header of `archive` changed, all checksums made to fit.
std::string WithHeader(std::string_view archive, const std::function<void(storage::ArchiveHeader*)>& change) {
  struct Rewriter final : ArchiveSink {
    absl::Status TakeHeader(const storage::ArchiveHeader& header) override {
      storage::ArchiveHeader changed = header;
      (*change)(&changed);
      writer = std::make_unique<ArchiveWriter>(changed);
      out = writer->Begin();
      return absl::OkStatus();
    }
    absl::Status TakeBlock(std::vector<loci::v1::Passage> passages, std::vector<float> vectors) override {
      out += *writer->Block(passages, vectors.data());
      return absl::OkStatus();
    }
    const std::function<void(storage::ArchiveHeader*)>* change = nullptr;
    std::unique_ptr<ArchiveWriter> writer;
    std::string out;
  } rewriter;
  rewriter.change = &change;
  ArchiveReader reader(&rewriter);
  EXPECT_TRUE(reader.Feed(archive).ok());
  EXPECT_TRUE(reader.Finish().ok());
  return rewriter.out + rewriter.writer->End();
}

TEST_F(ArchiveRoundTrip, RefusesVectorsThatNoEncoderServesUnlessItIsTold) {
  ASSERT_TRUE(Ingest("s", MakePassages(5)).ok());
  const std::string foreign = WithHeader(Export(ViewOf("s")), [](auto* header) { header->set_passage_fingerprint("0123456789abcdef"); });
  const absl::Status refused = Import("copy", foreign).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_EQ(ReasonOf(refused), "ENCODER_MISMATCH");
  EXPECT_TRUE(absl::IsNotFound(manager_->GetStore("copy").status()));
  const auto imported = Import("copy", foreign, {.activate = false, .allow_unknown_encoder = true});
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(ReasonOf(manager_->Activate("copy", imported->generation, WritesPolicy::kRefuse, false).status()), "ENCODER_MISMATCH");
  EXPECT_EQ(manager_->ListGenerations("copy")->generations[0].state, GenerationState::kReady) << "it is whole, and its encoder may come";
}

TEST_F(ArchiveRoundTrip, RefusesAnotherDimensionAndAnIndexThatCantBe) {
  ASSERT_TRUE(Ingest("s", {}).status().code() != absl::StatusCode::kOk);
  ASSERT_TRUE(Ingest("s", MakePassages(5)).ok());
  const std::string archive = Export(ViewOf("s"));
  ArchiveWriter writer([&] {
    storage::ArchiveHeader header;
    const std::string same = WithHeader(archive, [&](auto* h) { header = *h; });
    header.set_dim(kDim * 2);
    return header;
  }());
  EXPECT_EQ(ReasonOf(Import("copy", writer.Begin()).status()), "ENCODER_MISMATCH");
  for (const char* index : {"IVF999999999,Flat", "nonsense", "PQ7", "../../index.faiss"}) {
    const absl::Status status = Import("copy", WithHeader(archive, [&](auto* header) { header->set_index(index); })).status();
    EXPECT_FALSE(status.ok()) << index;
  }
  ExpectNothingIn("copy");
}

TEST_F(ArchiveRoundTrip, RefusesAPassageThatAnIngestWouldNotTake) {
  ASSERT_TRUE(Ingest("s", MakePassages(1)).ok());
  storage::ArchiveHeader header;
  (void)WithHeader(Export(ViewOf("s")), [&](auto* h) { header = *h; });
  const auto archive_of = [&](const loci::v1::Passage& passage) {
    ArchiveWriter writer(header);
    std::string archive = writer.Begin();
    const std::vector<float> vector(kDim, 0.1f);
    archive += *writer.Block(std::vector<loci::v1::Passage>{passage}, vector.data());
    return archive + writer.End();
  };
  const absl::Status status = Import("copy", archive_of(MakePassage("a", ""))).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(ReasonOf(status), "BAD_LINE");
  ExpectNothingIn("copy");
  loci::v1::Passage of_earlier = MakePassage("a", "a text");
  (*of_earlier.mutable_metadata())["year"];
  EXPECT_FALSE(manager_->Upsert("s", {of_earlier}, RequestLimits()).ok());
  EXPECT_EQ(Import("copy", archive_of(of_earlier)).status(), absl::OkStatus()) << "metadata without a value: earlier versions took it";
}

}  // namespace
}  // namespace loci
