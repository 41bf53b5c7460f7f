// Lets each sync of a store's life lie, one at a time, and expects that some power cut shows it; also after kills with a restart.
// Every sync that Loci asks for must be noticed. Where one of RocksDB's own is not, all that a cut could make of it was tried.
// LOCI_POWER_CUT_POINTS=500: more cuts by chance.
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/strings/match.h"
#include "base/file.h"
#include "gtest/gtest.h"
#include "index/disk_model.h"
#include "index/store.h"
#include "index/store_life.h"
#include "index/store_testing.h"

namespace loci {
namespace {

using Kind = DiskOperation::Kind;
using Survival = DiskModel::Survival;

bool IsLongRun() {
  const char* const points = ::getenv("LOCI_POWER_CUT_POINTS");
  return points != nullptr && ::atoll(points) >= 500;
}

constexpr char kAcknowledged[] = "/ACKNOWLEDGED";

// Whether Loci asks for the sync, be it through RocksDB's interface: of a build's tables, of the log for each write, of ACKNOWLEDGED.
bool IsOurs(const DiskOperation& sync) {
  return !sync.rocksdb || absl::StrContains(sync.path, "/passages/") || absl::EndsWith(sync.path, kAcknowledged) ||
         absl::EndsWith(sync.path, ".log");
}

// What comes of a sync that lies.
enum class Lie {
  kNoticed,        // A cut shows it.
  kNothingToSync,  // All was synced before.
  kCovered,        // Until another sync did its work, or the file was gone, no cut shows it, whatever the cut leaves.
  kHarmless,       // To the end no cut shows it, whatever the cut leaves.
};

class LyingSync : public ::testing::Test {
 protected:
  // What Check says of an image; each is opened once.
  std::string CheckImage(const DiskImage& image, const std::vector<StoreState>& allowed) {
    const uint64_t key = Digest(image);
    auto found = states_.find(key);
    if (found == states_.end()) {
      WriteImage(image, left());
      found = states_.emplace(key, StateUnder(left())).first;
    }
    return Compare(found->second, allowed);
  }
  size_t images() const { return states_.size(); }

  // Whether a log that also loses its end opens: what ACKNOWLEDGED is for.
  bool OpensWithoutTheEndOfItsLog(DiskImage image) {
    std::string* last = nullptr;
    for (auto& [name, content] : image) {
      if (absl::StrContains(name, "/writes/") && absl::EndsWith(name, ".log") && !content.empty()) last = &content;
    }
    if (last == nullptr) return false;
    last->resize(last->size() - 1);
    WriteImage(image, left());
    return OpenPlain(left()).ok();
  }

  // Without `prove` kCovered and kHarmless only say that the cuts that mostly show a lie did not.
  Lie LetLie(const Recording& recording, const DiskModel& before, size_t lie, bool prove = true) {
    const auto& operations = recording.operations;
    DiskModel now = before, lying = before;
    now.Play(operations[lie]);
    if (now.SameOnDisk(before)) return Lie::kNothingToSync;
    if (absl::EndsWith(operations[lie].path, kAcknowledged)) {
      const bool told = !OpensWithoutTheEndOfItsLog(now.Image(Survival::kOnlySynced));
      if (told && OpensWithoutTheEndOfItsLog(lying.Image(Survival::kOnlySynced))) return Lie::kNoticed;
    }
    const int node = before.NodeOf(operations[lie]);
    std::mt19937 random(static_cast<uint32_t>(lie));
    // Where it shows it mostly shows soon, and in one of these.
    for (const bool thorough : {false, true}) {
      DiskModel honest = now, torn = lying;
      for (size_t i = lie + 1;; ++i) {
        if (honest.SameOnDisk(torn)) {
          if (thorough || !prove) return Lie::kCovered;
          break;
        }
        const bool end = i == operations.size();
        const bool telling = end || operations[i].is_sync() || operations[i].kind == Kind::kMark || operations[i - 1].kind == Kind::kMark ||
                             operations[i - 1].kind == Kind::kRename || operations[i - 1].kind == Kind::kDelete;
        std::vector<DiskImage> images;
        if (!thorough && telling) images.push_back(torn.Image(Survival::kOnlySynced));
        if (thorough && telling) {
          images = torn.ImagesOfTorn(node);
          for (int attempt = 0; attempt < (IsLongRun() ? 3 : 0); ++attempt) images.push_back(torn.Image(Survival::kAny, &random));
        }
        for (const DiskImage& image : images) {
          if (!CheckImage(image, recording.AllowedAt(i)).empty()) return Lie::kNoticed;
        }
        if (end) {
          if (thorough || !prove) return Lie::kHarmless;
          break;
        }
        honest.Play(operations[i]);
        torn.Play(operations[i]);
      }
    }
    return Lie::kHarmless;
  }

  DiskModel Empty() {
    EXPECT_TRUE(PosixFileSystem().CreateDirectories(JoinPath(directory_.path(), "empty")).ok());
    return DiskModel(JoinPath(directory_.path(), "empty"));
  }
  std::string left() const { return JoinPath(directory_.path(), "left"); }

 private:
  TestDirectory directory_{"lying_sync"};
  std::unordered_map<uint64_t, absl::StatusOr<StoreState>> states_;
};

// What a killed process renamed but did not sync, a restart serves and builds on; a power cut must not take it away then.
Recording RecordRestart(const std::string& root) {
  StoreLife life(root);
  life.Open();
  std::string newest;
  const auto manifests = life.store().ListGenerations();
  if (manifests.ok() && !manifests->empty()) newest = manifests->back().generation();
  if (newest.empty()) newest = life.Build({{"a", "after"}}, "exact");
  if (newest != life.store().active_generation()) life.Activate(newest, WritesPolicy::kReplay);
  life.Write({Put("z", "after")});
  return life.Finish();
}

TEST_F(LyingSync, EverySyncOfLociIsNoticedAndOfRocksDbNoneIsMissed) {
  TestDirectory world("lying_sync_life");
  const Recording recording = RecordLife(world.path(), /*rebuilds=*/false);  // They sync in the same ways.
  const auto& operations = recording.operations;
  std::map<Lie, int> total;
  std::map<std::string, std::map<Lie, int>> by_label;
  std::set<std::string> of_starts;  // That find nothing to do here: they are there for what a kill leaves.

  DiskModel model = Empty();
  for (size_t i = 0; i < operations.size(); model.Play(operations[i++])) {
    if (!operations[i].is_sync()) continue;
    const std::string label = operations[i].Label();
    const Lie lie = LetLie(recording, model, i);
    ++total[lie];
    ++by_label[(IsOurs(operations[i]) ? "Loci's " : "RocksDB's ") + label][lie];
    if (!IsOurs(operations[i]) || lie == Lie::kNoticed) continue;
    EXPECT_EQ(recording.StepAt(i), "open") << "no cut shows that operation " << i << " lied: " << label;
    of_starts.insert(label);
  }
  for (auto& [label, counts] : by_label) {
    printf("  %-62s noticed %2d, nothing to sync %2d, covered %2d, harmless %2d\n", label.c_str(), counts[Lie::kNoticed],
           counts[Lie::kNothingToSync], counts[Lie::kCovered], counts[Lie::kHarmless]);
  }
  printf("syncs that lied %d: noticed %d, nothing to sync %d, covered by another %d, harmless %d (disks looked at: %zu)\n",
         total[Lie::kNoticed] + total[Lie::kNothingToSync] + total[Lie::kCovered] + total[Lie::kHarmless], total[Lie::kNoticed],
         total[Lie::kNothingToSync], total[Lie::kCovered], total[Lie::kHarmless], images());

  // Kills before each sync, each with a restart.
  std::set<DiskImage> kills;
  std::map<std::string, std::map<Lie, int>> after_kills;
  model = Empty();
  for (size_t i = 0; i < operations.size(); model.Play(operations[i++])) {
    if (!operations[i].is_sync()) continue;
    DiskImage image = model.Image(Survival::kAll);
    WriteImage(image, left());
    if (!kills.insert(std::move(image)).second) continue;
    const Recording after = RecordRestart(left());
    if (HasFatalFailure()) FAIL() << "killed at operation " << i << ": " << operations[i].Label();
    DiskModel cut = model;  // With all that the killed process had not synced.
    for (size_t j = 0; j < after.operations.size(); cut.Play(after.operations[j++])) {
      const DiskOperation& sync = after.operations[j];
      if (sync.kind == Kind::kMark && sync.offset > 2) {
        EXPECT_EQ(CheckImage(cut.Image(Survival::kOnlySynced), after.AllowedAt(j + 1)), "")
            << "killed at operation " << i << ": " << operations[i].Label() << ", then cut in step " << after.StepAt(j);
      }
      if (!sync.is_sync() || sync.rocksdb || after.StepAt(j) != "open") continue;
      auto& counts = after_kills[sync.Label()];
      if (counts[Lie::kNoticed] > 0 && !IsLongRun()) continue;
      ++counts[LetLie(after, cut, j, /*prove=*/IsLongRun())];
    }
  }
  for (auto& [label, counts] : after_kills) {
    printf("  after kills: %-62s noticed %2d, nothing to sync %2d, covered or harmless %2d\n", label.c_str(), counts[Lie::kNoticed],
           counts[Lie::kNothingToSync], counts[Lie::kCovered] + counts[Lie::kHarmless]);
    EXPECT_GT(counts[Lie::kNoticed], 0) << "a start does not need it: " << label;
  }
  for (const std::string& label : of_starts) EXPECT_GT(after_kills[label][Lie::kNoticed], 0) << label;
  printf("kills with a restart %zu (disks looked at: %zu)\n", kills.size(), images());
}

// Where one sync covers for another, all of them can't be left out.
TEST_F(LyingSync, AllSyncsOfTheLogsFolderThatLieAreNoticed) {
  TestDirectory world("lying_sync_all");
  const Recording recording = RecordLife(world.path(), /*rebuilds=*/false);  // They sync in the same ways.
  DiskModel model = Empty();
  int lies = 0;
  bool noticed = false;
  for (size_t i = 0; i < recording.operations.size() && !noticed; ++i) {
    const DiskOperation& operation = recording.operations[i];
    if (operation.Label() == "rocksdb sync folder stores/s/writes") {
      ++lies;
      continue;
    }
    model.Play(operation);
    if (operation.kind == Kind::kMark) noticed = !CheckImage(model.Image(Survival::kOnlySynced), recording.AllowedAt(i + 1)).empty();
  }
  EXPECT_TRUE(noticed && lies > 0) << lies;
}

}  // namespace
}  // namespace loci
