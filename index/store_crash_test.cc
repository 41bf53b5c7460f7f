// Kills a process that builds, activates, writes and deletes, at random moments, and looks at what it left. The process is this
// program itself with --child. LOCI_CRASH_ITERATIONS sets the number of kills, LOCI_CRASH_SEED the seed.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "gtest/gtest.h"
#include "index/store.h"
#include "index/store_testing.h"

namespace loci {
namespace {

constexpr int kIds = 40;
constexpr int kOperationsPerLife = 300;
using Texts = std::map<std::string, std::string>;

// Everything that operation `number` does follows from it and the seed, so that the parent knows it too.
std::mt19937 RandomOf(uint32_t seed, int64_t number) { return std::mt19937(seed * 1'000'003u + static_cast<uint32_t>(number)); }
std::string IdOf(uint32_t i) { return absl::StrCat("p", i % kIds); }
std::vector<std::string> AllIds() {
  std::vector<std::string> ids;
  for (int i = 0; i < kIds; ++i) ids.push_back(IdOf(i));
  return ids;
}

std::vector<PassageWrite> WritesOf(uint32_t seed, int64_t number) {
  std::mt19937 random = RandomOf(seed, number);
  std::vector<PassageWrite> writes(1 + random() % 5);
  for (size_t i = 0; i < writes.size(); ++i) {
    const std::string id = IdOf(random());
    if (random() % 3 == 0) {
      writes[i] = Deletion(id);
    } else {
      // Some are long, so that a kill falls into the middle of them.
      std::string text = absl::StrCat("write ", number, ".", i, " ");
      if (random() % 4 == 0) text += std::string(random() % 200'000, 'x');
      writes[i] = Upsert(id, {text, {static_cast<float>(number), 1}});
    }
  }
  return writes;
}

TestContents ContentsOf(uint32_t seed, int64_t number) {
  std::mt19937 random = RandomOf(seed, number);
  TestContents contents;
  for (uint32_t i = random() % kIds; i > 0; --i) contents[IdOf(random())] = {absl::StrCat("body ", number), {1, 2}};
  return contents;
}

// ---- The child ----

void Say(const std::string& line) {
  const std::string text = line + "\n";
  if (::write(STDOUT_FILENO, text.data(), text.size()) != static_cast<ssize_t>(text.size())) ::_exit(3);
}

[[noreturn]] void Die(const absl::Status& status) {
  Say("error " + status.ToString());
  ::_exit(2);
}

int RunChild(const std::string& path, uint32_t seed, int64_t number) {
  auto opened = Store::Open(path, "s", StoreOptions());
  if (!opened.ok()) Die(opened.status());
  Store& store = **opened;
  Say("open");
  for (int64_t end = number + kOperationsPerLife; number < end; ++number) {
    std::mt19937 random = RandomOf(seed, ~number);
    const auto generations = store.ListGenerations();
    if (!generations.ok()) Die(generations.status());
    uint32_t kind = random() % 20;
    if (store.view() == nullptr && kind < 13) kind = 16;
    if (generations->empty()) kind = 13;
    if (generations->size() > 5 && kind < 16) kind = 19;
    if (kind < 13) {
      Say(absl::StrCat("begin write ", number));
      const auto result = store.Write(WritesOf(seed, number));
      if (!result.ok()) Die(result.status());
      Say(absl::StrCat("did write ", result->view->revision()));
    } else if (kind < 16) {
      Say(absl::StrCat("begin build ", number));
      BuildOptions options;
      options.dim = 2;
      options.base_revision = -1;
      options.query_fingerprint = absl::StrFormat("%016x", number);  // Tells the parent what is in it.
      const auto id = BuildGeneration(store, ContentsOf(seed, number), options);
      if (!id.ok()) Die(id.status());
      Say(absl::StrCat("did build ", *id));
    } else {
      const std::string id = (*generations)[random() % generations->size()].generation();
      if (kind < 19) {
        const uint32_t policy = random() % 3;
        Say(absl::StrCat("begin activate ", number, " ", id, " ", policy));
        const auto generation = store.OpenGeneration(id, true);
        if (!generation.ok()) Die(generation.status());
        const auto result = store.Activate(*generation, static_cast<WritesPolicy>(policy));
        if (!result.ok() && !(absl::IsFailedPrecondition(result.status()) && policy == 0)) Die(result.status());
        Say(absl::StrCat("did activate ", result.ok() ? result->view->revision() : -1));
      } else if (store.view() == nullptr || id != store.view()->generation().id()) {
        Say(absl::StrCat("begin delete ", number, " ", id));
        if (const absl::Status status = store.DeleteGeneration(id); !status.ok()) Die(status);
        Say("did delete");
      }
    }
  }
  return 0;
}

// ---- The parent ----

struct Operation {
  std::string kind;  // Empty: none is under way.
  int64_t number = 0;
  std::string generation;
  WritesPolicy policy = WritesPolicy::kRefuse;
};

// What the store must be, by what was acknowledged.
class Model {
 public:
  explicit Model(uint32_t seed) : seed_(seed) {}

  void Begin(Operation operation) { pending_ = std::move(operation); }
  int64_t next_number() const { return next_number_; }

  void Acknowledge(std::istringstream& line) {
    if (pending_.kind == "write") {
      int64_t revision = 0;
      line >> revision;
      ASSERT_GT(revision, revision_);
      ApplyWrite(revision);
    } else if (pending_.kind == "activate") {
      int64_t revision = 0;
      line >> revision;
      if (revision > revision_) ApplyActivation(revision);
    } else if (pending_.kind == "build") {
      std::string id;
      line >> id;
      generations_[id] = {pending_.number, revision_};
    } else if (pending_.kind == "delete") {
      generations_.erase(pending_.generation);
    }
    Settle();
  }

  // The store was opened after a kill: it is as acknowledged, or with the operation that was under way; then this is as well.
  void Check(const std::string& path, const Store& store) {
    const auto manifests = store.ListGenerations();
    ASSERT_TRUE(manifests.ok()) << manifests.status();
    std::map<std::string, Built> found;
    for (const storage::Manifest& manifest : *manifests) {
      const Built built{static_cast<int64_t>(::strtoll(manifest.query_fingerprint().c_str(), nullptr, 16)), manifest.base_revision()};
      found[manifest.generation()] = built;
      const auto opened = store.OpenGeneration(manifest.generation(), true);
      ASSERT_TRUE(opened.ok()) << opened.status();
      ASSERT_EQ((*opened)->row_count(), static_cast<int64_t>(ContentsOf(seed_, built.number).size()));
      if (generations_.count(manifest.generation())) {
        ASSERT_EQ(built.base_revision, generations_[manifest.generation()].base_revision);
      } else {
        ASSERT_TRUE(pending_.kind == "build" && built.number == pending_.number) << manifest.generation() << " is not known";
      }
    }
    for (const auto& [id, built] : generations_) {
      ASSERT_TRUE(found.count(id) || (pending_.kind == "delete" && pending_.generation == id)) << id << " is lost";
    }
    const auto names = PosixFileSystem().List(path);
    ASSERT_TRUE(names.ok());
    for (const std::string& name : *names) {
      ASSERT_TRUE(found.count(name) || name == "CURRENT" || name == "LOCK" || name == "writes") << name << " was left";
    }
    generations_ = std::move(found);

    ASSERT_GE(store.revision(), revision_);
    if (store.revision() > revision_) {
      ASSERT_TRUE(pending_.kind == "write" || pending_.kind == "activate") << store.revision() << " after " << revision_;
      pending_.kind == "write" ? ApplyWrite(store.revision()) : ApplyActivation(store.revision());
      ++taken_;
    } else {
      dropped_ += pending_.kind != "";
    }
    Settle();
    const auto view = store.view();
    ASSERT_EQ(view == nullptr ? "" : view->generation().id(), active_);
    if (view == nullptr) return;
    ASSERT_EQ(view->revision(), revision_);
    const Texts expected = ExpectedTexts();
    const auto contents = ReadContents(*view, AllIds());
    ASSERT_TRUE(contents.ok()) << contents.status();
    ASSERT_EQ(contents->passage_count, static_cast<int64_t>(expected.size()));
    ASSERT_TRUE(contents->texts == expected) << "at revision " << revision_ << " of " << active_ << ", floor " << floor_;
    IndexSearchOptions options;
    options.top_k = 2 * kIds;
    const float query[] = {1, 1};
    const auto result = view->Search({query, 1, 2}, options);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->hits[0].size(), expected.size());
    for (const ViewHit& hit : result->hits[0]) ASSERT_TRUE(expected.count(hit.id)) << hit.id;
  }

  int taken() const { return taken_; }
  int dropped() const { return dropped_; }

 private:
  struct Built {
    int64_t number = 0;
    int64_t base_revision = 0;
  };

  void Settle() {
    if (pending_.kind != "") next_number_ = pending_.number + 1;
    pending_ = Operation();
  }
  void ApplyWrite(int64_t revision) { writes_[revision_ = revision] = pending_.number; }
  void ApplyActivation(int64_t revision) {
    const bool again = pending_.generation == active_;
    const int64_t base = generations_[pending_.generation].base_revision;
    const bool writes_since = writes_.upper_bound(again ? floor_ : base) != writes_.end();
    active_ = pending_.generation;
    revision_ = revision;
    floor_ = writes_since && pending_.policy == WritesPolicy::kDiscard ? revision : base;
  }
  Texts ExpectedTexts() const {
    Texts texts;
    for (const auto& [id, passage] : ContentsOf(seed_, generations_.at(active_).number)) texts[id] = passage.text;
    for (auto it = writes_.upper_bound(floor_); it != writes_.end(); ++it) {
      for (const PassageWrite& write : WritesOf(seed_, it->second)) {
        if (write.deleted) {
          texts.erase(write.id);
        } else {
          texts[write.id] = write.passage.text();
        }
      }
    }
    return texts;
  }

  const uint32_t seed_;
  std::map<std::string, Built> generations_;
  std::map<int64_t, int64_t> writes_;  // Revision -> number of the operation.
  std::string active_;
  int64_t floor_ = 0;
  int64_t revision_ = 0;
  int64_t next_number_ = 1;
  Operation pending_;
  int taken_ = 0, dropped_ = 0;
};

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  const char* const value = ::getenv(name);
  return value == nullptr ? otherwise : ::atoll(value);
}

TEST(StoreCrash, AKillLosesNothingAcknowledgedAndLeavesTheOldStateOrTheNewOne) {
  const uint32_t seed = static_cast<uint32_t>(FromEnvironment("LOCI_CRASH_SEED", 20261121));
  const int64_t iterations = FromEnvironment("LOCI_CRASH_ITERATIONS", 20);
  SCOPED_TRACE(absl::StrCat("LOCI_CRASH_SEED=", seed));
  std::mt19937 random(seed);
  const TestDirectory directory("store_crash");
  const std::string path = JoinPath(directory.path(), "s");
  Model model(seed);
  int acknowledged = 0;
  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
    SCOPED_TRACE(absl::StrCat("kill ", iteration));
    int pipe_ends[2];
    ASSERT_EQ(::pipe(pipe_ends), 0);
    const std::string seed_text = absl::StrCat(seed), number_text = absl::StrCat(model.next_number());
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::dup2(pipe_ends[1], STDOUT_FILENO);
      ::close(pipe_ends[0]);
      ::close(pipe_ends[1]);
      ::execl("/proc/self/exe", "store_crash_test", "--child", path.c_str(), seed_text.c_str(), number_text.c_str(), nullptr);
      ::_exit(4);
    }
    ::close(pipe_ends[1]);
    FILE* const lines = ::fdopen(pipe_ends[0], "r");
    // Some are killed while they open the store.
    int until_kill = random() % 8 == 0 ? 0 : 1 + static_cast<int>(random() % 25);
    const useconds_t delay_us = random() % (until_kill == 0 ? 60'000 : 6'000);
    const auto kill_if_due = [&] {
      if (until_kill-- != 0) return;
      ::usleep(delay_us);
      ::kill(child, SIGKILL);
    };
    kill_if_due();
    char* buffer = nullptr;
    size_t capacity = 0;
    while (::getline(&buffer, &capacity, lines) > 0) {
      std::istringstream line(buffer);
      std::string word;
      line >> word;
      if (word == "error") {
        ADD_FAILURE() << buffer;
      } else if (word == "begin") {
        Operation operation;
        int policy = 0;
        line >> operation.kind >> operation.number >> operation.generation >> policy;
        operation.policy = static_cast<WritesPolicy>(policy);
        model.Begin(std::move(operation));
      } else {
        if (word == "did") {
          line >> word;
          model.Acknowledge(line);
          ++acknowledged;
        }
        kill_if_due();
      }
    }
    ::free(buffer);
    ::fclose(lines);
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself, status " << status;
    ASSERT_FALSE(::testing::Test::HasFailure());

    auto store = Store::Open(path, "s", StoreOptions());
    ASSERT_TRUE(store.ok()) << store.status();
    model.Check(path, **store);
    ASSERT_FALSE(::testing::Test::HasFailure());
  }
  printf("%lld kills, %d operations acknowledged; of those under way %d were there afterwards, %d were not\n",
         static_cast<long long>(iterations), acknowledged, model.taken(), model.dropped());
  EXPECT_GT(acknowledged, iterations);
}

}  // namespace
}  // namespace loci

int main(int argc, char** argv) {
  if (argc == 5 && std::string(argv[1]) == "--child") {
    return loci::RunChild(argv[2], static_cast<uint32_t>(::strtoul(argv[3], nullptr, 10)), ::atoll(argv[4]));
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
