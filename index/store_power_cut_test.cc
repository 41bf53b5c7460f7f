// Cuts the power at every sync point, and at random operations, of a store's life, and looks at what the disk is left with; then lets each
// sync lie, and expects that some cut shows it. LOCI_POWER_CUT_POINTS sets the number of random cuts, LOCI_POWER_CUT_SEED the seed.
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "gtest/gtest.h"
#include "index/disk_model.h"
#include "index/store.h"
#include "index/store_testing.h"

namespace loci {
namespace {

using Texts = std::map<std::string, std::string>;
using Survival = DiskModel::Survival;
constexpr int kDim = 8;
constexpr char kIds[] = "abcdefgz";  // An axis each.

std::vector<float> VectorOf(const std::string& id) {
  std::vector<float> vector(kDim);
  vector[std::string(kIds).find(id)] = 1;
  return vector;
}
PassageWrite Put(const std::string& id, const std::string& text) { return Upsert(id, {text, VectorOf(id)}); }

struct State {
  std::string generation;  // Active.
  int64_t revision = 0;
  Texts texts;
  std::set<std::string> complete;  // Generations that are listed.
  std::string previous;            // That a roll-back would activate.
  std::string settings;            // As text.
  bool operator==(const State& other) const {
    return generation == other.generation && revision == other.revision && texts == other.texts && complete == other.complete &&
           previous == other.previous && settings == other.settings;
  }
  std::string ToString() const {
    return absl::StrCat("generation ", generation, " revision ", revision, " texts ", ::testing::PrintToString(texts), " listed ",
                        absl::StrJoin(complete, " "), " previous ", previous, " settings ", settings);
  }
};

// Reads all of a store by every way there is. An error where anything of it is not whole.
absl::StatusOr<State> Read(const Store& store) {
  State state;
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
    const std::vector<float> query = VectorOf(id);
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

absl::StatusOr<std::unique_ptr<Store>> OpenPlain(const std::string& root) { return Store::Open(StorePath(root), "s", StoreOptions()); }

// "" where the store under `root` opens and holds one of `allowed`; else what is wrong. With `go_on` it must then take a write that the
// next start finds.
std::string Check(const std::string& root, const std::vector<State>& allowed, bool go_on) {
  State found;
  {
    auto store = OpenPlain(root);
    if (!store.ok()) return absl::StrCat("opening: ", store.status().ToString());
    auto read = Read(**store);
    if (!read.ok()) return absl::StrCat("reading: ", read.status().ToString());
    found = *read;
    if (std::find(allowed.begin(), allowed.end(), found) == allowed.end()) {
      std::string text = absl::StrCat("found ", found.ToString(), ", but allowed is");
      for (const State& state : allowed) absl::StrAppend(&text, "\n  ", state.ToString());
      return text;
    }
    if (!go_on || found.generation.empty()) return "";
    auto written = (*store)->Write({Put("z", "after")});
    if (!written.ok()) return absl::StrCat("writing after it: ", written.status().ToString());
    found.texts["z"] = "after";
    found.revision = written->view->revision();
  }
  return Check(root, {found}, false);
}

// What a program did to a disk, and the states that it went through.
struct Recording {
  std::vector<DiskOperation> operations;
  std::vector<State> states;  // [i]: after step i; Mark(2 i) begins step i, Mark(2 i + 1) ends it. [0]: before all; no marks.

  // What a cut before operation `at` may leave.
  std::vector<State> AllowedAt(size_t at) const {
    size_t begun = 0, done = 0;
    for (size_t i = 0; i < at; ++i) {
      if (operations[i].kind != DiskOperation::Kind::kMark) continue;
      (operations[i].offset % 2 == 0 ? begun : done) = static_cast<size_t>(operations[i].offset / 2);
    }
    return {states.begin() + static_cast<int64_t>(done), states.begin() + static_cast<int64_t>(std::max(begun, done)) + 1};
  }
  size_t SyncCount() const {
    return static_cast<size_t>(std::count_if(operations.begin(), operations.end(), [](const DiskOperation& o) { return o.is_sync(); }));
  }
};

// The life of a store, over a RecordingDisk. Every step must succeed.
class Life {
 public:
  explicit Life(const std::string& root) : root_(root), disk_(root) { recording_.states.emplace_back(); }

  RecordingDisk& disk() { return disk_; }
  Store& store() { return *store_; }

  template <typename Function>
  void Step(const Function& function) {
    const int64_t number = static_cast<int64_t>(recording_.states.size());
    disk_.Mark(2 * number);
    function();
    disk_.Mark(2 * number + 1);
    auto state = Read(*store_);
    ASSERT_TRUE(state.ok()) << state.status();
    recording_.states.push_back(*state);
  }
  void Open() {
    Step([&] {
      store_.reset();
      StoreOptions options;
      options.fs = &disk_;
      options.rocksdb_file_system = disk_.rocksdb_files();
      auto store = Store::Open(StorePath(root_), "s", options);
      ASSERT_TRUE(store.ok()) << store.status();
      store_ = *std::move(store);
    });
  }
  std::string Build(const Texts& texts, const std::string& index) {
    std::string id;
    Step([&] {
      TestContents contents;
      for (const auto& [name, text] : texts) contents[name] = {text, VectorOf(name)};
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
  void Activate(const std::string& id, WritesPolicy policy, bool roll_back = false) {
    Step([&] {
      auto generation = store_->OpenGeneration(id, true);
      ASSERT_TRUE(generation.ok()) << generation.status();
      ASSERT_TRUE(store_->Activate(*generation, policy, roll_back).ok());
    });
  }
  void Pin(const std::string& id, bool pinned) {
    Step([&] { ASSERT_TRUE(store_->SetPinned(id, pinned).ok()); });
  }
  void Keep(int32_t count) {
    Step([&] { ASSERT_TRUE(store_->SetKeepGenerations(count).ok()); });
  }
  void Write(std::vector<PassageWrite> writes) {
    Step([&] { ASSERT_TRUE(store_->Write(std::move(writes)).ok()); });
  }
  void Delete(const std::string& id) {
    Step([&] { ASSERT_TRUE(store_->DeleteGeneration(id).ok()); });
  }
  Recording Finish() {
    store_.reset();
    recording_.operations = disk_.operations();
    return std::move(recording_);
  }

 private:
  const std::string root_;
  RecordingDisk disk_;
  std::unique_ptr<Store> store_;
  Recording recording_;
};

// Ingest, activation, upserts, deletion, activation that replays, settings, restart, roll-back that discards, deletion of a generation,
// restart.
Recording RecordLife(const std::string& root) {
  Life life(root);
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
  life.Open();
  life.Write({Put("g", "g2")});
  return life.Finish();
}

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  const char* const value = ::getenv(name);
  return value == nullptr ? otherwise : ::atoll(value);
}

class PowerCut : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    TestDirectory directory("power_cut_life");
    recording_ = new Recording(RecordLife(directory.path()));
  }
  static const Recording& recording() { return *recording_; }
  std::string left() const { return JoinPath(directory_.path(), "left"); }
  std::string empty() {
    EXPECT_TRUE(PosixFileSystem().CreateDirectories(JoinPath(directory_.path(), "empty")).ok());
    return JoinPath(directory_.path(), "empty");
  }

 private:
  static Recording* recording_;
  TestDirectory directory_{"power_cut"};
};
Recording* PowerCut::recording_ = nullptr;

TEST_F(PowerCut, BeforeEverySyncTheOldStateOrTheNewOneIsThere) {
  const auto& operations = recording().operations;
  DiskModel model(empty());
  std::mt19937 random(1);
  int points = 0, cuts = 0;
  for (size_t i = 0; i <= operations.size(); ++i) {
    if (i == operations.size() || operations[i].is_sync()) {
      points += i < operations.size();
      for (const Survival survival : {Survival::kOnlySynced, Survival::kAny, Survival::kAll}) {
        model.WriteTo(left(), survival, &random);
        ++cuts;
        EXPECT_EQ(Check(left(), recording().AllowedAt(i), /*go_on=*/survival == Survival::kOnlySynced), "")
            << "operation " << i << ": " << (i < operations.size() ? operations[i].Label() : "the end") << ", survival "
            << static_cast<int>(survival);
      }
    }
    if (i < operations.size()) model.Play(operations[i]);
  }
  EXPECT_GT(points, 60);
  printf("sync points %d, cuts at them %d, operations %zu, steps %zu\n", points, cuts, operations.size(), recording().states.size() - 1);
}

TEST_F(PowerCut, AtRandomOperationsTheOldStateOrTheNewOneIsThere) {
  const auto& operations = recording().operations;
  const int64_t points = FromEnvironment("LOCI_POWER_CUT_POINTS", 60);
  std::mt19937 random(static_cast<uint32_t>(FromEnvironment("LOCI_POWER_CUT_SEED", 7)));
  std::multiset<size_t> moments;
  for (int64_t i = 0; i < points; ++i) moments.insert(random() % (operations.size() + 1));
  DiskModel model(empty());
  size_t at = 0;
  for (const size_t moment : moments) {
    for (; at < moment; ++at) model.Play(operations[at]);
    model.WriteTo(left(), Survival::kAny, &random);
    ASSERT_EQ(Check(left(), recording().AllowedAt(moment), /*go_on=*/true), "")
        << "operation " << moment << (moment < operations.size() ? ": " + operations[moment].Label() : "");
  }
  printf("random cuts %zu\n", moments.size());
}

// What a killed process renamed but did not sync, a restart serves; a write to that must not outlive it.
TEST_F(PowerCut, AfterAKillAndARestartNothingAcknowledgedIsLost) {
  const auto& operations = recording().operations;
  DiskModel model(empty());
  int points = 0;
  for (size_t i = 0; i < operations.size(); model.Play(operations[i++])) {
    if (!operations[i].is_sync()) continue;
    model.WriteTo(left(), Survival::kAll, nullptr);
    Life life(left());
    life.Open();
    if (life.store().view() != nullptr) life.Write({Put("z", "after")});
    if (HasFatalFailure()) FAIL() << "killed at operation " << i << ": " << operations[i].Label();
    life.disk().Mark(0);
    const Recording after = life.Finish();
    DiskModel cut = model;  // With all that the killed process had not synced.
    for (const DiskOperation& operation : after.operations) {
      if (operation.kind == DiskOperation::Kind::kMark && operation.offset == 0) break;
      cut.Play(operation);
    }
    cut.WriteTo(left(), Survival::kOnlySynced, nullptr);
    ++points;
    EXPECT_EQ(Check(left(), {after.states.back()}, false), "") << "killed at operation " << i << ": " << operations[i].Label();
  }
  printf("kills with a restart and a cut %d\n", points);
}

// What comes of a sync that lies.
enum class Lie {
  kNoticed,        // A cut shows it.
  kNothingToSync,  // All was synced before.
  kCovered,        // Before a step ended, another sync did its work or the file was gone, and no cut until then shows it.
  kHidden,         // A step ended, and no cut shows it.
};
Lie LetLie(const Recording& recording, const DiskModel& before, size_t lie, int max_checks, const std::string& left) {
  using Kind = DiskOperation::Kind;
  const auto& operations = recording.operations;
  DiskModel honest = before;
  honest.Play(operations[lie]);
  if (honest.SameOnDisk(before)) return Lie::kNothingToSync;
  Lie result = Lie::kHidden;
  for (const bool by_chance : {false, true}) {
    DiskModel now = honest, lying = before;
    std::mt19937 random(static_cast<uint32_t>(lie));
    bool ended = false;
    int checks = 0;
    for (size_t i = lie + 1;; ++i) {
      if (now.SameOnDisk(lying)) {
        result = ended ? Lie::kHidden : Lie::kCovered;
        break;
      }
      const bool end = i == operations.size();
      const bool telling = end || operations[i].is_sync() || operations[i - 1].kind == Kind::kMark;
      const bool renamed = operations[i - 1].kind == Kind::kRename || operations[i - 1].kind == Kind::kDelete;
      for (int attempt = 0; attempt < (!by_chance ? (telling ? 1 : 0) : telling || renamed ? 3 : 0); ++attempt) {
        if (++checks > max_checks) break;
        lying.WriteTo(left, by_chance ? Survival::kAny : Survival::kOnlySynced, &random);
        if (!Check(left, recording.AllowedAt(i), false).empty()) return Lie::kNoticed;
      }
      if (end) break;
      ended = ended || (operations[i].kind == Kind::kMark && operations[i].offset % 2 == 1);
      now.Play(operations[i]);
      lying.Play(operations[i]);
    }
  }
  return result;
}

// Syncs by RocksDB that no cut shows, and why that is no gap.
const char* ReasonToStayHidden(const std::string& label) {
  static const auto* const reasons = new std::map<std::string, const char*>{
      {"rocksdb sync stores/s/writes/ACKNOWLEDGED", "holds the log to its end where that is damaged; may lag"},
      {"rocksdb sync stores/s/writes/OPTIONS-#.dbtmp", "RocksDB never reads it to open"},
      {"rocksdb sync stores/s/writes/#.dbtmp", "IDENTITY, which RocksDB makes anew"},
      {"rocksdb sync folder stores/s/writes", "names of OPTIONS, deletions; another one covers the log before it is written to"},
      {"sync folder stores/s", "of a start: that of a build covers it before any write; of a deletion: the next start repeats it"},
  };
  const auto found = reasons->find(label);
  return found == reasons->end() ? nullptr : found->second;
}

// Every one of these is all that stands between a cut and damage.
constexpr const char* kAlwaysNoticed[] = {
    "sync stores/s/CURRENT.tmp",
    "sync stores/s/SETTINGS.tmp",
    "sync stores/s/<generation>/MANIFEST.tmp",
    "sync stores/s/<generation>/index.faiss",
    "sync stores/s/<generation>/vectors.bin",
    "sync folder stores/s/<generation>/passages",
    "rocksdb sync stores/s/writes/#.log",
    "rocksdb sync stores/s/writes/#.sst",
    "rocksdb sync stores/s/writes/MANIFEST-#",
};

TEST_F(PowerCut, AnySyncThatLiesIsNoticedOrCoveredByAnother) {
  const auto& operations = recording().operations;
  DiskModel model(empty());
  const bool long_run = FromEnvironment("LOCI_POWER_CUT_POINTS", 60) >= 500;
  int syncs = 0, thrown_away = 0;
  std::map<Lie, int> total;
  std::map<std::string, std::map<Lie, int>> by_label;
  for (size_t i = 0; i < operations.size(); model.Play(operations[i++])) {
    if (!operations[i].is_sync()) continue;
    const std::string label = operations[i].Label();
    // A generation without a manifest is removed at the next start, and has one only when its staging is gone.
    if (!long_run && label.find("/staging") != std::string::npos) {
      ++thrown_away;
      continue;
    }
    ++syncs;
    const Lie lie = LetLie(recording(), model, i, long_run || ReasonToStayHidden(label) == nullptr ? 1000 : 20, left());
    EXPECT_TRUE(lie != Lie::kHidden || ReasonToStayHidden(label) != nullptr) << "no cut shows that operation " << i << " lied: " << label;
    ++total[lie];
    ++by_label[label][lie];
  }
  for (auto& [label, counts] : by_label) {
    printf("  %-60s noticed %2d, nothing to sync %2d, covered %2d, hidden %2d\n", label.c_str(), counts[Lie::kNoticed],
           counts[Lie::kNothingToSync], counts[Lie::kCovered], counts[Lie::kHidden]);
  }
  printf("syncs that lied %d: noticed %d, nothing to sync %d, covered by another before a step ended %d, hidden %d "
         "(of staging, not tried: %d)\n",
         syncs, total[Lie::kNoticed], total[Lie::kNothingToSync], total[Lie::kCovered], total[Lie::kHidden], thrown_away);
  for (const char* const label : kAlwaysNoticed) {
    const auto& counts = by_label[label];
    EXPECT_TRUE(counts.size() == 4 && counts.at(Lie::kNoticed) > 0 && counts.at(Lie::kNothingToSync) == 0 &&
                counts.at(Lie::kCovered) == 0 && counts.at(Lie::kHidden) == 0)
        << label;
  }
}

// Where one sync covers for another, both of them can't be left out.
TEST_F(PowerCut, AllSyncsOfAKindThatLieAreNoticed) {
  const std::vector<std::vector<std::string>> groups = {
      {"rocksdb sync stores/s/<generation>/passages/ids#.new", "rocksdb sync stores/s/<generation>/passages/rows#.new",
       "rocksdb sync stores/s/<generation>/passages/#.sst"},
      {"rocksdb sync stores/s/<generation>/passages/MANIFEST-#"},
      {"rocksdb sync stores/s/<generation>/passages/#.dbtmp"},
      {"rocksdb sync folder stores/s/<generation>/passages", "sync folder stores/s/<generation>/passages"},
      {"rocksdb sync folder stores/s/writes"},
      {"sync folder stores"},
      {"sync folder stores/s"},
      {"sync folder stores/s/<generation>"},
  };
  const auto& operations = recording().operations;
  for (const std::vector<std::string>& group : groups) {
    DiskModel model(empty());
    bool noticed = false;
    int lies = 0;
    for (size_t i = 0; i < operations.size() && !noticed; ++i) {
      if (operations[i].is_sync() && std::count(group.begin(), group.end(), operations[i].Label()) > 0) {
        ++lies;
        continue;
      }
      model.Play(operations[i]);
      if (lies == 0 || operations[i].kind != DiskOperation::Kind::kMark) continue;
      model.WriteTo(left(), Survival::kOnlySynced, nullptr);
      noticed = !Check(left(), recording().AllowedAt(i + 1), false).empty();
    }
    EXPECT_TRUE(noticed && lies > 0) << absl::StrJoin(group, ", ");
  }
  printf("kinds of syncs that all lied and were noticed: %zu\n", groups.size());
}

}  // namespace
}  // namespace loci
