// A file that is there whole or not at all.
//
//   LOCI_ASSIGN_OR_RETURN(auto file, OutputFile::Create("movies.archive", /*replace=*/false));
//   LOCI_RETURN_IF_ERROR(file->Write(bytes)); ...
//   LOCI_RETURN_IF_ERROR(file->Commit());
#ifndef LOCI_CLIENTS_CLI_OUTPUT_FILE_H_
#define LOCI_CLIENTS_CLI_OUTPUT_FILE_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace loci {

// Until Commit the file has no name where the file system knows such files, so that nothing stays of a program that is killed; elsewhere it
// has a temporary one beside `path`, which the destructor deletes. Used by one thread.
class OutputFile {
 public:
  // ALREADY_EXISTS where `path` is there, unless `replace`; FAILED_PRECONDITION where it is no regular file; the message names it.
  static absl::StatusOr<std::unique_ptr<OutputFile>> Create(const std::string& path, bool replace);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  absl::Status Write(std::string_view bytes);
  // Syncs, and gives it its name. ALREADY_EXISTS where one came in between, unless `replace`.
  absl::Status Commit();

 private:
  OutputFile(std::string path, bool replace) : path_(std::move(path)), replace_(replace) {}
  absl::Status Error(const char* what) const;  // Of errno.
  absl::Status Link(const std::string& name) const;

  const std::string path_;
  const bool replace_;
  int fd_ = -1;
  std::string temporary_;  // Empty: it has no name.
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_OUTPUT_FILE_H_
