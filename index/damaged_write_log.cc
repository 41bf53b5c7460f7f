#include "index/damaged_write_log.h"

#include <mutex>
#include <utility>

#include "base/status_macros.h"

namespace loci {

DamagedWriteLog::DamagedWriteLog(FileSystem& fs, std::string directory, WriteLogOptions options, absl::Status damage)
    : fs_(fs), directory_(std::move(directory)), options_(std::move(options)), damage_(std::move(damage)) {}

WriteLog* DamagedWriteLog::renewed() const {
  const std::shared_lock<std::shared_mutex> lock(mutex_);
  return renewed_.get();
}

absl::Status DamagedWriteLog::damage() const { return renewed() != nullptr ? absl::OkStatus() : damage_; }

absl::Status DamagedWriteLog::StartAnew(const std::string& aside) {
  if (renewed() != nullptr) return absl::OkStatus();
  const std::string parent = ParentPath(directory_);
  // Not there where an earlier try came that far.
  if (fs_.Exists(directory_)) LOCI_RETURN_IF_ERROR(fs_.Rename(directory_, JoinPath(parent, aside)));
  LOCI_RETURN_IF_ERROR(fs_.SyncDirectory(parent));
  WriteLogOptions options = options_;
  options.create_if_missing = true;
  LOCI_ASSIGN_OR_RETURN(std::unique_ptr<WriteLog> log, WriteLog::Open(directory_, std::move(options)));
  LOCI_RETURN_IF_ERROR(fs_.SyncDirectory(parent));  // The new folder's name, before anything is acknowledged in it.
  const std::unique_lock<std::shared_mutex> lock(mutex_);
  renewed_ = std::move(log);
  return absl::OkStatus();
}

int64_t DamagedWriteLog::last_revision() const {
  const WriteLog* const log = renewed();
  return log == nullptr ? 0 : log->last_revision();
}

absl::Status DamagedWriteLog::Append(int64_t revision, const std::vector<storage::WriteRecord>& records) {
  WriteLog* const log = renewed();
  return log == nullptr ? damage_ : log->Append(revision, records);
}

absl::Status DamagedWriteLog::AddVectors(std::span<const WritePlace> places, std::span<const storage::WriteVector> vectors) {
  WriteLog* const log = renewed();
  return log == nullptr ? damage_ : log->AddVectors(places, vectors);
}

absl::Status DamagedWriteLog::Recover() {
  WriteLog* const log = renewed();
  return log == nullptr ? damage_ : log->Recover();
}

absl::Status DamagedWriteLog::Read(int64_t after, int64_t upto,
                                   const std::function<absl::Status(const storage::WriteRecord&)>& visit) const {
  const WriteLog* const log = renewed();
  return log == nullptr ? damage_ : log->Read(after, upto, visit);
}

absl::StatusOr<int64_t> DamagedWriteLog::CountRequests(int64_t after, int64_t upto) const {
  const WriteLog* const log = renewed();
  if (log == nullptr) return damage_;
  return log->CountRequests(after, upto);
}

absl::Status DamagedWriteLog::Trim(int64_t upto) {
  WriteLog* const log = renewed();
  return log == nullptr ? damage_ : log->Trim(upto);
}

}  // namespace loci
