#include "clients/cli/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace loci {
namespace {

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status Exists(const std::string& path) {
  return absl::AlreadyExistsError(absl::StrCat(path, " exists; give --force to replace it"));
}

}  // namespace

absl::Status OutputFile::Error(const char* what) const {
  const std::string message = absl::StrCat("cannot ", what, " ", path_, ": ", strerror(errno));
  return errno == ENOSPC || errno == EDQUOT ? absl::ResourceExhaustedError(message) : absl::FailedPreconditionError(message);
}

absl::StatusOr<std::unique_ptr<OutputFile>> OutputFile::Create(const std::string& path, bool replace) {
  struct stat info;
  if (stat(path.c_str(), &info) == 0) {
    if (!S_ISREG(info.st_mode)) return absl::FailedPreconditionError(absl::StrCat(path, " is no regular file; - is standard output"));
    if (!replace) return Exists(path);
  }
  auto file = std::unique_ptr<OutputFile>(new OutputFile(path, replace));
  file->fd_ = open(FolderOf(path).c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
  if (file->fd_ < 0) {
    file->temporary_ = absl::StrCat(path, ".", getpid(), ".part");
    file->fd_ = open(file->temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file->fd_ < 0) {
      file->temporary_.clear();
      return file->Error("write");
    }
  }
  return file;
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) close(fd_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

absl::Status OutputFile::Write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Error("write");
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Link(const std::string& name) const {
  const int linked = temporary_.empty() ? linkat(AT_FDCWD, absl::StrCat("/proc/self/fd/", fd_).c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW)
                                        : link(temporary_.c_str(), name.c_str());
  if (linked == 0) return absl::OkStatus();
  return errno == EEXIST ? Exists(name) : Error("name");
}

absl::Status OutputFile::Commit() {
  if (fsync(fd_) != 0) return Error("sync");
  if (!replace_) {
    LOCI_RETURN_IF_ERROR(Link(path_));
  } else {
    if (temporary_.empty()) {
      const std::string name = absl::StrCat(path_, ".", getpid(), ".part");
      LOCI_RETURN_IF_ERROR(Link(name));
      temporary_ = name;
    }
    if (rename(temporary_.c_str(), path_.c_str()) != 0) return Error("name");
    temporary_.clear();
  }
  const int folder = open(FolderOf(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    fsync(folder);
    close(folder);
  }
  return absl::OkStatus();
}

}  // namespace loci
