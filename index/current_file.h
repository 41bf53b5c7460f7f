// stores/<store>/CURRENT: which generation is active, and from which revision on writes lie over it.
//
// Content: a serialised storage.Current followed by its XXH3 as 16 lower-case hex digits.
#ifndef LOCI_INDEX_CURRENT_FILE_H_
#define LOCI_INDEX_CURRENT_FILE_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"
#include "proto/loci/storage/storage.pb.h"

namespace loci {

inline constexpr char kCurrentFile[] = "CURRENT";

// DATA_LOSS where the checksum or a field is wrong, FAILED_PRECONDITION for a newer format. Parses hostile bytes safely.
absl::StatusOr<storage::Current> ParseCurrent(std::string_view content);
std::string SerializeCurrent(const storage::Current& current);

// The CURRENT of one store, with the care that a failed replacement needs: after it nobody knows which content a crash would
// leave, so nothing may be acknowledged before the old content is known to be back.
// Used by one thread at a time: the store's writer.
class CurrentFile {
 public:
  CurrentFile(FileSystem& fs, const std::string& store_directory);

  // Reads the file; without one, value() says that no generation is active and exists() is false. Where it is damaged value() says the same,
  // and damage() (DATA_LOSS) what is wrong, until it is replaced.
  absl::Status Load();

  const storage::Current& value() const { return value_; }
  bool exists() const { return exists_; }
  const absl::Status& damage() const { return damage_; }

  // Replaces the content, atomically and synced. On an error value() stays; the old content is put back, now or by Settle.
  absl::Status Replace(const storage::Current& next);

  // OK once the file is known to hold value(), or its old damage. At once where no Replace failed.
  absl::Status Settle();

 private:
  FileSystem& fs_;
  const std::string directory_;
  const std::string path_;
  storage::Current value_;
  bool exists_ = false;
  std::string content_;  // Of the file, where it exists.
  absl::Status damage_;
  bool uncertain_ = false;
};

}  // namespace loci

#endif  // LOCI_INDEX_CURRENT_FILE_H_
