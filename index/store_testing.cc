#include "index/store_testing.h"

#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

class FaultyFile : public WritableFile {
 public:
  FaultyFile(std::unique_ptr<WritableFile> file, FaultyFileSystem& fs, std::string path)
      : file_(std::move(file)), fs_(fs), path_(std::move(path)) {}
  absl::Status Append(std::string_view data) override {
    if (absl::Status status = fs_.Count("append to " + path_); !status.ok()) {
      (void)file_->Append(data.substr(0, data.size() / 2));
      return status;
    }
    return file_->Append(data);
  }
  absl::Status Sync() override {
    LOCI_RETURN_IF_ERROR(fs_.Count("sync " + path_));
    return file_->Sync();
  }
  absl::Status Close() override { return file_->Close(); }

 private:
  const std::unique_ptr<WritableFile> file_;
  FaultyFileSystem& fs_;
  const std::string path_;
};

loci::v1::Passage MakePassage(const std::string& id, const std::string& text) {
  loci::v1::Passage passage;
  passage.set_id(id);
  passage.set_text(text);
  return passage;
}

// LOCI_TEST_DIRECTORY, else in memory where the machine has such a folder: these tests sync thousands of times, and none of them
// cuts the power.
std::string TestRoot() {
  if (const char* const given = ::getenv("LOCI_TEST_DIRECTORY")) return given;
  return ::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : ::testing::TempDir();
}

}  // namespace

TestDirectory::TestDirectory(const std::string& name) : path_(JoinPath(TestRoot(), absl::StrCat("loci_", name, "_", ::getpid()))) {
  std::filesystem::remove_all(path_);
  std::filesystem::create_directories(path_);
}
TestDirectory::~TestDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

PassageWrite Upsert(const std::string& id, const TestPassage& passage) {
  PassageWrite write;
  write.id = id;
  write.passage = MakePassage(id, passage.text);
  write.vector = passage.vector;
  return write;
}

PassageWrite Deletion(const std::string& id) {
  PassageWrite write;
  write.id = id;
  write.deleted = true;
  return write;
}

absl::StatusOr<std::string> BuildGeneration(Store& store, const TestContents& contents, BuildOptions options) {
  LOCI_ASSIGN_OR_RETURN(auto builder, store.NewGeneration(std::move(options)));
  std::vector<loci::v1::Passage> passages;
  std::vector<float> vectors;
  for (const auto& [id, passage] : contents) {
    passages.push_back(MakePassage(id, passage.text));
    vectors.insert(vectors.end(), passage.vector.begin(), passage.vector.end());
  }
  if (!passages.empty()) LOCI_RETURN_IF_ERROR(builder->Add(passages, vectors.data()));
  LOCI_ASSIGN_OR_RETURN(const storage::Manifest manifest, builder->Finish(RequestLimits(), [](std::string_view, int64_t, int64_t) {}));
  return manifest.generation();
}

absl::StatusOr<ViewContents> ReadContents(const View& view, const std::vector<std::string>& ids) {
  ViewContents contents;
  contents.passage_count = view.passage_count();
  std::vector<ViewRow> rows;
  std::vector<std::string> found;
  for (const std::string& id : ids) {
    LOCI_ASSIGN_OR_RETURN(const std::optional<ViewRow> row, view.Find(id));
    if (!row) continue;
    rows.push_back(*row);
    found.push_back(id);
  }
  std::vector<loci::v1::Passage> passages;
  LOCI_RETURN_IF_ERROR(view.Read(rows, &passages));
  for (size_t i = 0; i < rows.size(); ++i) {
    if (passages[i].id() != found[i]) return absl::InternalError(absl::StrCat("asked for ", found[i], ", got ", passages[i].id()));
    contents.texts[found[i]] = passages[i].text();
  }
  return contents;
}

absl::Status FaultyFileSystem::Count(const std::string& what) {
  const int64_t number = operations.fetch_add(1);
  if (number < fail_from || number >= fail_to) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("injected: ", what));
}

absl::StatusOr<std::unique_ptr<WritableFile>> FaultyFileSystem::NewWritableFile(const std::string& path) {
  LOCI_RETURN_IF_ERROR(Count("create " + path));
  LOCI_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, base_.NewWritableFile(path));
  return std::make_unique<FaultyFile>(std::move(file), *this, path);
}
absl::Status FaultyFileSystem::CreateDirectories(const std::string& directory) {
  LOCI_RETURN_IF_ERROR(Count("mkdir " + directory));
  return base_.CreateDirectories(directory);
}
absl::Status FaultyFileSystem::Rename(const std::string& from, const std::string& to) {
  LOCI_RETURN_IF_ERROR(Count("rename " + from));
  return base_.Rename(from, to);
}
absl::Status FaultyFileSystem::SyncDirectory(const std::string& directory) {
  LOCI_RETURN_IF_ERROR(Count("sync folder " + directory));
  return base_.SyncDirectory(directory);
}
absl::Status FaultyFileSystem::DeleteFile(const std::string& path) {
  LOCI_RETURN_IF_ERROR(Count("delete " + path));
  return base_.DeleteFile(path);
}
absl::Status FaultyFileSystem::DeleteRecursively(const std::string& path) {
  LOCI_RETURN_IF_ERROR(Count("delete all of " + path));
  return base_.DeleteRecursively(path);
}

}  // namespace loci
