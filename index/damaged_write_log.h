// Stands for a write log that could not be opened, until an operator gives its writes up.
#ifndef LOCI_INDEX_DAMAGED_WRITE_LOG_H_
#define LOCI_INDEX_DAMAGED_WRITE_LOG_H_

#include <memory>
#include <shared_mutex>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"
#include "index/write_log.h"

namespace loci {

// Everything is the damage, until StartAnew; then a new log. Synchronised as WriteLog is; StartAnew is the writer's.
class DamagedWriteLog final : public WriteLog {
 public:
  // `directory` is the log's, `options` are what it is made anew with. `fs` is borrowed.
  DamagedWriteLog(FileSystem& fs, std::string directory, WriteLogOptions options, absl::Status damage);

  // OK once there is a new log.
  absl::Status damage() const;
  // Sets the damaged files aside, as `aside` beside them, and makes an empty log. Does nothing where there is one. After an error, or a crash, the
  // log is damaged still and this can be called again.
  absl::Status StartAnew(const std::string& aside);

  int64_t last_revision() const override;  // 0 while damaged.
  absl::Status Append(int64_t revision, const std::vector<storage::WriteRecord>& records) override;
  absl::Status AddVectors(std::span<const WritePlace> places, std::span<const storage::WriteVector> vectors) override;
  absl::Status Recover() override;
  absl::Status Read(int64_t after, int64_t upto, const std::function<absl::Status(const storage::WriteRecord&)>& visit) const override;
  absl::StatusOr<int64_t> CountRequests(int64_t after, int64_t upto) const override;
  absl::Status Trim(int64_t upto) override;

 private:
  // The new log, or null. It is never taken back.
  WriteLog* renewed() const;

  FileSystem& fs_;
  const std::string directory_;
  const WriteLogOptions options_;
  const absl::Status damage_;
  mutable std::shared_mutex mutex_;
  std::unique_ptr<WriteLog> renewed_;  // Guarded by mutex_ until it is set.
};

}  // namespace loci

#endif  // LOCI_INDEX_DAMAGED_WRITE_LOG_H_
