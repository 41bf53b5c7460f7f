// The life of a store over a RecordingDisk, and what a disk that a power cut left holds of it. For tests.
#ifndef LOCI_INDEX_STORE_LIFE_H_
#define LOCI_INDEX_STORE_LIFE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "index/disk_model.h"
#include "index/store.h"
#include "index/store_testing.h"

namespace loci {

using Texts = std::map<std::string, std::string>;

// The passage half of generations that were re-embedded; the others' is empty.
inline constexpr char kOtherHalf[] = "0ther0ther0ther0";

// A passage whose vector is an axis of its own, another one in each half. `id`: a letter of "abcdefgz".
PassageWrite Put(const std::string& id, const std::string& text, const std::string& half = "");

struct StoreState {
  std::string generation;  // Active.
  int64_t revision = 0;
  Texts texts;
  std::set<std::string> complete;  // Generations that are listed.
  std::string previous;            // That a roll-back would activate.
  std::string settings;            // As text.
  bool operator==(const StoreState& other) const = default;
  std::string ToString() const;
};

// Reads all of a store by every way there is. An error where anything of it is not whole.
absl::StatusOr<StoreState> ReadState(const Store& store);

std::string StorePath(const std::string& root);
absl::StatusOr<std::unique_ptr<Store>> OpenPlain(const std::string& root);

// The state of the store under `root`; an error where it does not open or is not whole.
absl::StatusOr<StoreState> StateUnder(const std::string& root);
// "" where that is one of `allowed`; else what is wrong.
std::string Compare(const absl::StatusOr<StoreState>& found, const std::vector<StoreState>& allowed);
// The same of the store under `root`. With `go_on` it must then take a write that the next start finds.
std::string Check(const std::string& root, const std::vector<StoreState>& allowed, bool go_on);

// What a program did to a disk, and the states that it went through.
struct Recording {
  std::vector<DiskOperation> operations;
  // [i]: after step i; Mark(2 i) begins step i, Mark(2 i + 1) ends it. [0]: before all; no marks.
  std::vector<StoreState> states;
  std::vector<std::string> steps;  // What they are, "" for [0].

  // What a cut before operation `at` may leave.
  std::vector<StoreState> AllowedAt(size_t at) const;
  // Of the step that operation `at` is in.
  const std::string& StepAt(size_t at) const;
};

// Every step must succeed. Used by one thread.
class StoreLife {
 public:
  // With `flushes` the write log flushes every few writes, and compacts what that makes.
  explicit StoreLife(const std::string& root, bool flushes = false) : root_(root), flushes_(flushes), disk_(root) {
    recording_.states.emplace_back();
    recording_.steps.emplace_back();
  }

  Store& store() { return *store_; }

  void Open();
  std::string Build(const Texts& texts, const std::string& index);
  void Activate(const std::string& id, WritesPolicy policy, bool roll_back = false);
  void Pin(const std::string& id, bool pinned);
  void Keep(int32_t count);
  void Write(std::vector<PassageWrite> writes);
  void Delete(const std::string& id);
  // What is active and its overlay as a generation, which takes its place.
  void Fold();
  // The same with vectors of kOtherHalf, in three steps, so that writes come between: the build, the encoding of writes, the switch.
  std::string BuildReembedded();
  void SwitchToReembedded(const std::string& id);
  // Gives the writes that a replay onto the generation would lay its half's vectors. `roll_back`: as Activate's.
  void Encode(const std::string& id, bool roll_back = false);
  // What is active as an archive, and that as a generation.
  std::string Import();
  // Closes the store.
  Recording Finish();

 private:
  template <typename Function>
  void Step(const std::string& name, const Function& function) {
    const int64_t number = static_cast<int64_t>(recording_.states.size());
    disk_.Mark(2 * number);
    function();
    disk_.Mark(2 * number + 1);
    auto state = ReadState(*store_);
    ASSERT_TRUE(state.ok()) << name << ": " << state.status();
    recording_.states.push_back(*state);
    recording_.steps.push_back(name);
  }

  const std::string root_;
  const bool flushes_;
  RecordingDisk disk_;
  std::unique_ptr<Store> store_;
  FoldSource reembedded_;  // What the last one was built from.
  Recording recording_;
};

// Ingest, activation, upserts, deletion, activation that replays, settings, restart, roll-back that discards, deletion of a generation, fold,
// activation of another, restart; then, with `rebuilds`, re-embedding with writes meanwhile, restart, roll-back from it, import, restart;
// the write log of such a life flushes and compacts.
Recording RecordLife(const std::string& root, bool rebuilds = true);

}  // namespace loci

#endif  // LOCI_INDEX_STORE_LIFE_H_
