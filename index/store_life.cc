#include "index/store_life.h"

#include <algorithm>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "index/archive.h"
#include "index/view_copy.h"

namespace loci {
namespace {

constexpr int kDim = 8;
constexpr size_t kTableBytes = 4 << 10;
constexpr size_t kTitleBytes = 1500;  // So that a few of them fill a table.
constexpr char kIds[] = "abcdefgz";  // An axis each.

std::vector<float> VectorOf(const std::string& id, const std::string& half) {
  std::vector<float> vector(kDim);
  vector[(std::string(kIds).find(id) + (half == kOtherHalf ? 3 : 0)) % kDim] = 1;
  return vector;
}

const std::string& HalfOf(const Generation& generation) { return generation.manifest().passage_fingerprint(); }

// Of an archive, into a build.
class BuildingSink final : public ArchiveSink {
 public:
  BuildingSink(Store& store, std::string half) : store_(store), half_(std::move(half)) {}
  absl::Status TakeHeader(const storage::ArchiveHeader& header) override {
    BuildOptions options;
    options.dim = header.dim();
    options.passage_fingerprint = half_;
    options.base_revision = -1;
    LOCI_ASSIGN_OR_RETURN(builder_, store_.NewGeneration(std::move(options)));
    return absl::OkStatus();
  }
  absl::Status TakeBlock(std::vector<loci::v1::Passage> passages, std::vector<float> vectors) override {
    return builder_->Add(passages, vectors.data());
  }
  GenerationBuilder& builder() { return *builder_; }

 private:
  Store& store_;
  const std::string half_;
  std::unique_ptr<GenerationBuilder> builder_;
};

}  // namespace

PassageWrite Put(const std::string& id, const std::string& text, const std::string& half) { return Upsert(id, {text, VectorOf(id, half)}); }

std::string StoreState::ToString() const {
  return absl::StrCat("generation ", generation, " revision ", revision, " texts ", ::testing::PrintToString(texts), " listed ",
                      absl::StrJoin(complete, " "), " previous ", previous, " settings ", settings);
}

absl::StatusOr<StoreState> ReadState(const Store& store) {
  StoreState state;
  state.revision = store.revision();
  state.previous = store.PreviousGeneration();
  storage::StoreSettings settings = store.settings();
  settings.clear_format_version();  // Of the file.
  state.settings = settings.ShortDebugString();
  auto manifests = store.ListGenerations();
  if (!manifests.ok()) return manifests.status();
  for (const storage::Manifest& manifest : *manifests) {
    if (auto opened = store.OpenGeneration(manifest.generation(), /*verify=*/true); !opened.ok()) return opened.status();
    state.complete.insert(manifest.generation());
  }
  const auto view = store.view();
  if (view == nullptr) return state;
  state.generation = view->generation().id();
  std::vector<std::string> ids;
  for (size_t i = 0; i < kDim; ++i) ids.push_back(std::string(1, kIds[i]));
  auto contents = ReadContents(*view, ids);
  if (!contents.ok()) return contents.status();
  state.texts = contents->texts;
  if (contents->passage_count != static_cast<int64_t>(state.texts.size())) return absl::InternalError("the count of passages differs");
  for (const std::string& id : ids) {
    const std::vector<float> query = VectorOf(id, HalfOf(view->generation()));
    IndexSearchOptions options;
    options.top_k = kDim;
    auto found = view->Search({query.data(), 1, kDim}, options);
    if (!found.ok()) return found.status();
    if (found->hits[0].size() != state.texts.size()) return absl::InternalError(absl::StrCat("a search found ", found->hits[0].size()));
    if (state.texts.count(id) > 0 && found->hits[0][0].id != id) return absl::InternalError(absl::StrCat("the search for ", id));
  }
  return state;
}

std::string StorePath(const std::string& root) { return JoinPath(root, "stores/s"); }

absl::StatusOr<std::unique_ptr<Store>> OpenPlain(const std::string& root) {
  LOCI_ASSIGN_OR_RETURN(std::unique_ptr<Store> store, Store::Open(StorePath(root), "s", StoreOptions()));
  LOCI_RETURN_IF_ERROR(store->active_error());  // It opens, so that an operator can mend it.
  return store;
}

absl::StatusOr<StoreState> StateUnder(const std::string& root) {
  auto store = OpenPlain(root);
  if (!store.ok()) return store.status();
  return ReadState(**store);
}

std::string Compare(const absl::StatusOr<StoreState>& found, const std::vector<StoreState>& allowed) {
  if (!found.ok()) return found.status().ToString();
  if (std::find(allowed.begin(), allowed.end(), *found) != allowed.end()) return "";
  std::string text = absl::StrCat("found ", found->ToString(), ", but allowed is");
  for (const StoreState& state : allowed) absl::StrAppend(&text, "\n  ", state.ToString());
  return text;
}

std::string Check(const std::string& root, const std::vector<StoreState>& allowed, bool go_on) {
  StoreState found;
  {
    auto store = OpenPlain(root);
    if (!store.ok()) return absl::StrCat("opening: ", store.status().ToString());
    auto read = ReadState(**store);
    if (std::string wrong = Compare(read, allowed); !wrong.empty()) return wrong;
    found = *read;
    if (!go_on || found.generation.empty()) return "";
    auto written = (*store)->Write({Put("z", "after", HalfOf((*store)->view()->generation()))});
    if (!written.ok()) return absl::StrCat("writing after it: ", written.status().ToString());
    found.texts["z"] = "after";
    found.revision = written->view->revision();
  }
  return Check(root, {found}, false);
}

std::vector<StoreState> Recording::AllowedAt(size_t at) const {
  size_t begun = 0, done = 0;
  for (size_t i = 0; i < at; ++i) {
    if (operations[i].kind != DiskOperation::Kind::kMark) continue;
    (operations[i].offset % 2 == 0 ? begun : done) = static_cast<size_t>(operations[i].offset / 2);
  }
  return {states.begin() + static_cast<int64_t>(done), states.begin() + static_cast<int64_t>(std::max(begun, done)) + 1};
}

const std::string& Recording::StepAt(size_t at) const {
  size_t step = 0;
  for (size_t i = 0; i < at; ++i) {
    if (operations[i].kind == DiskOperation::Kind::kMark) step = static_cast<size_t>(operations[i].offset / 2);
  }
  return steps[step];
}

void StoreLife::Open() {
  Step("open", [&] {
    store_.reset();
    StoreOptions options;
    options.fs = &disk_;
    options.rocksdb_file_system = disk_.rocksdb_files();
    options.write_log_table_bytes = flushes_ ? kTableBytes : 0;
    auto store = Store::Open(StorePath(root_), "s", options);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  });
}

std::string StoreLife::Build(const Texts& texts, const std::string& index) {
  std::string id;
  Step("build", [&] {
    TestContents contents;
    for (const auto& [name, text] : texts) contents[name] = {text, VectorOf(name, "")};
    BuildOptions options;
    options.dim = kDim;
    options.base_revision = -1;
    options.index = index;
    auto built = BuildGeneration(*store_, contents, options);
    ASSERT_TRUE(built.ok()) << built.status();
    id = *built;
  });
  return id;
}

void StoreLife::Activate(const std::string& id, WritesPolicy policy, bool roll_back) {
  Step("activate", [&] {
    auto generation = store_->OpenGeneration(id, true);
    ASSERT_TRUE(generation.ok()) << generation.status();
    ASSERT_TRUE(store_->Activate(*generation, policy, roll_back).ok());
  });
}

void StoreLife::Pin(const std::string& id, bool pinned) {
  Step("pin", [&] { ASSERT_TRUE(store_->SetPinned(id, pinned).ok()); });
}

void StoreLife::Keep(int32_t count) {
  Step("keep", [&] { ASSERT_TRUE(store_->SetKeepGenerations(count).ok()); });
}

void StoreLife::Write(std::vector<PassageWrite> writes) {
  for (PassageWrite& write : writes) {
    if (flushes_ && !write.deleted) write.passage.set_title(std::string(kTitleBytes, 't'));
  }
  Step("write", [&] { ASSERT_TRUE(store_->Write(std::move(writes)).ok()); });
}

void StoreLife::Delete(const std::string& id) {
  Step("delete", [&] { ASSERT_TRUE(store_->DeleteGeneration(id).ok()); });
}

void StoreLife::Fold() {
  Step("fold", [&] {
    const auto source = store_->BeginFold();
    ASSERT_TRUE(source.ok()) << source.status();
    BuildOptions options;
    options.dim = kDim;
    options.base_revision = source->view->revision();
    options.folded_from = source->view->generation().id();
    const auto builder = store_->NewGeneration(std::move(options));
    ASSERT_TRUE(builder.ok()) << builder.status();
    ASSERT_TRUE(CopyView(*source->view, **builder, [](int64_t) { return absl::OkStatus(); }).ok());
    const auto manifest = (*builder)->Finish({}, nullptr);
    ASSERT_TRUE(manifest.ok()) << manifest.status();
    const auto generation = store_->OpenGeneration(manifest->generation(), true);
    ASSERT_TRUE(generation.ok()) << generation.status();
    const auto fold = store_->PrepareFold(*source, *generation);
    ASSERT_TRUE(fold.ok()) << fold.status();
    ASSERT_TRUE(store_->SwitchToFold(**fold).ok());
  });
}

std::string StoreLife::BuildReembedded() {
  std::string id;
  Step("re-embedding: build", [&] {
    auto source = store_->BeginFold();
    ASSERT_TRUE(source.ok()) << source.status();
    reembedded_ = *std::move(source);
    BuildOptions options;
    options.dim = kDim;
    options.passage_fingerprint = kOtherHalf;
    options.base_revision = reembedded_.view->revision();
    const auto builder = store_->NewGeneration(std::move(options));
    ASSERT_TRUE(builder.ok()) << builder.status();
    const auto add = [&](const std::vector<ViewRow>&, std::vector<loci::v1::Passage>& passages) {
      std::vector<float> vectors;
      for (const loci::v1::Passage& passage : passages) {
        const std::vector<float> vector = VectorOf(passage.id(), kOtherHalf);
        vectors.insert(vectors.end(), vector.begin(), vector.end());
      }
      return (*builder)->Add(passages, vectors.data());
    };
    ASSERT_TRUE(VisitPassages(*reembedded_.view, 2, add).ok());
    const auto manifest = (*builder)->Finish({}, nullptr);
    ASSERT_TRUE(manifest.ok()) << manifest.status();
    id = manifest->generation();
  });
  return id;
}

void StoreLife::Encode(const std::string& id, bool roll_back) {
  Step("encode", [&] {
    const auto generation = store_->OpenGeneration(id, true);
    ASSERT_TRUE(generation.ok()) << generation.status();
    const int64_t base = (*generation)->manifest().base_revision(), after = roll_back ? std::max(base, store_->RollbackFloor(id)) : base;
    const auto places = store_->FindUnencoded(**generation, after, store_->revision(), /*all=*/false);
    ASSERT_TRUE(places.ok()) << places.status();
    ASSERT_FALSE(places->empty());
    const auto passages = store_->ReadUpserts(*places);
    ASSERT_TRUE(passages.ok()) << passages.status();
    for (size_t i = 0; i < places->size(); ++i) {
      const std::vector<float> vector = VectorOf((*passages)[i].id(), HalfOf(**generation));
      ASSERT_TRUE(store_->AddVectors(**generation, std::span(*places).subspan(i, 1), vector.data()).ok());
    }
  });
}

void StoreLife::SwitchToReembedded(const std::string& id) {
  Step("re-embedding: switch", [&] {
    const auto generation = store_->OpenGeneration(id, true);
    ASSERT_TRUE(generation.ok()) << generation.status();
    const auto prepared = store_->PrepareReembedded(reembedded_, *generation, store_->revision());
    ASSERT_TRUE(prepared.ok()) << prepared.status();
    const auto switched = store_->SwitchToReembedded(**prepared);
    ASSERT_TRUE(switched.ok()) << switched.status();
  });
}

std::string StoreLife::Import() {
  std::string id;
  Step("import", [&] {
    const auto view = store_->view();
    storage::ArchiveHeader header;
    header.set_store("s");
    header.set_dim(kDim);
    header.set_vector_type(loci::v1::VECTOR_TYPE_FLOAT32);
    header.set_metric("inner_product");
    header.set_index("exact");
    header.set_query_fingerprint("0123456789abcdef");  // An archive has hex digits there, a life's halves are not.
    header.set_passage_fingerprint("0123456789abcdef");
    header.set_passage_count(view->passage_count());
    ArchiveWriter writer(header);
    std::string archive = writer.Begin();
    std::map<std::string, loci::v1::Passage> by_id;
    ASSERT_TRUE(VisitPassages(*view, 3, [&](const std::vector<ViewRow>&, std::vector<loci::v1::Passage>& passages) {
      for (loci::v1::Passage& passage : passages) by_id[passage.id()] = std::move(passage);
      return absl::OkStatus();
    }).ok());
    for (const auto& [name, passage] : by_id) {
      const auto block = writer.Block({&passage, 1}, VectorOf(name, HalfOf(view->generation())).data());
      ASSERT_TRUE(block.ok()) << block.status();
      archive += *block;
    }
    archive += writer.End();
    BuildingSink sink(*store_, HalfOf(view->generation()));
    ArchiveReader reader(&sink);
    ASSERT_TRUE(reader.Feed(archive).ok() && reader.Finish().ok());
    const auto manifest = sink.builder().Finish({}, nullptr);
    ASSERT_TRUE(manifest.ok()) << manifest.status();
    id = manifest->generation();
  });
  return id;
}

Recording StoreLife::Finish() {
  store_.reset();
  recording_.operations = disk_.operations();
  return std::move(recording_);
}

Recording RecordLife(const std::string& root, bool rebuilds) {
  StoreLife life(root, /*flushes=*/rebuilds);
  life.Open();
  const std::string g1 = life.Build({{"a", "a1"}, {"b", "b1"}}, "exact");
  life.Activate(g1, WritesPolicy::kRefuse);
  life.Write({Put("c", "c1")});
  life.Write({Put("b", "b2"), Deletion("a")});
  const std::string g2 = life.Build({{"a", "a3"}, {"d", "d3"}}, "HNSW8");
  life.Write({Put("e", "e1")});
  life.Activate(g2, WritesPolicy::kReplay);
  life.Write({Put("f", "f1"), Put("a", "a4")});
  life.Keep(3);
  life.Pin(g2, true);
  life.Open();
  life.Write({Put("f", "f2")});
  life.Activate(g1, WritesPolicy::kDiscard, /*roll_back=*/true);
  life.Write({Put("g", "g1")});
  life.Pin(g2, false);
  life.Delete(g2);
  life.Write({Deletion("b")});
  life.Fold();
  life.Write({Put("c", "c9")});
  const std::string g3 = life.Build({{"a", "a9"}}, "exact");
  life.Activate(g3, WritesPolicy::kReplay);
  life.Open();
  life.Write({Put("g", "g2")});
  if (!rebuilds) return life.Finish();
  const std::string g4 = life.BuildReembedded();
  life.Write({Put("f", "f9"), Put("a", "a10")});
  life.Write({Put("f", "f10"), Deletion("g")});
  life.Encode(g4);
  life.SwitchToReembedded(g4);
  life.Write({Put("d", "d10", kOtherHalf)});
  life.Open();
  life.Write({Put("e", "e10", kOtherHalf)});
  life.Encode(g3, /*roll_back=*/true);
  life.Activate(g3, WritesPolicy::kReplay, /*roll_back=*/true);
  life.Write({Put("b", "b10")});
  const std::string g5 = life.Import();
  life.Write({Put("b", "b11")});
  life.Activate(g5, WritesPolicy::kReplay);
  life.Open();
  return life.Finish();
}

}  // namespace loci
