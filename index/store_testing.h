// Small worlds for the tests of views and stores.
#ifndef LOCI_INDEX_STORE_TESTING_H_
#define LOCI_INDEX_STORE_TESTING_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "index/forwarding_file_system.h"
#include "index/store.h"

namespace loci {

// What a passage of a test holds beside its id.
struct TestPassage {
  std::string text;
  std::vector<float> vector;
};
using TestContents = std::map<std::string, TestPassage>;

// A folder of the running test, made empty, and removed with this. Used by one thread.
class TestDirectory {
 public:
  explicit TestDirectory(const std::string& name);
  ~TestDirectory();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

PassageWrite Upsert(const std::string& id, const TestPassage& passage);
PassageWrite Deletion(const std::string& id);

// Builds a generation of `contents`; not activated. The id of it, or why not.
absl::StatusOr<std::string> BuildGeneration(Store& store, const TestContents& contents, BuildOptions options);

// What a view holds, by Find and Read of `ids`, and how many passages it says it has.
struct ViewContents {
  std::map<std::string, std::string> texts;
  int64_t passage_count = 0;
};
absl::StatusOr<ViewContents> ReadContents(const View& view, const std::vector<std::string>& ids);

// The operating system's files, but operations [fail_from, fail_to) fail. Counts what changes files. Thread-safe.
class FaultyFileSystem : public ForwardingFileSystem {
 public:
  std::atomic<int64_t> operations{0};
  std::atomic<int64_t> fail_from{INT64_MAX};
  std::atomic<int64_t> fail_to{INT64_MAX};
  void Heal() { fail_from = INT64_MAX; }

  absl::StatusOr<std::unique_ptr<WritableFile>> NewWritableFile(const std::string& path) override;
  absl::Status CreateDirectories(const std::string& directory) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status SyncDirectory(const std::string& directory) override;
  absl::Status DeleteFile(const std::string& path) override;
  absl::Status DeleteRecursively(const std::string& path) override;

  // Counts one operation. OK, or the failure.
  absl::Status Count(const std::string& what);
};

}  // namespace loci

#endif  // LOCI_INDEX_STORE_TESTING_H_
