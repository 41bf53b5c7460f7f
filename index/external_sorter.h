// Sorts more records than memory should hold: sorted runs on disk, merged when they are read.
//
//   ExternalSorter sorter(fs, directory, 64 << 20);
//   LOCI_RETURN_IF_ERROR(sorter.Add(record));
//   LOCI_RETURN_IF_ERROR(sorter.ForEachSorted([&](std::string_view record) { ... }));
#ifndef LOCI_INDEX_EXTERNAL_SORTER_H_
#define LOCI_INDEX_EXTERNAL_SORTER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/file.h"

namespace loci {

// Used by one thread: the builder's.
class ExternalSorter {
 public:
  // Runs go to files in `directory`, which is made when the first is written and is the caller's to remove. `fs` is borrowed.
  ExternalSorter(FileSystem& fs, std::string directory, int64_t memory_bytes);

  // Any bytes, less than 2 GiB.
  absl::Status Add(std::string_view record);
  // Every record that was added, in the order of their bytes; equal ones each. Called once, after the last Add. An error of `visit` ends
  // it, and is returned. A record is valid while it is visited.
  absl::Status ForEachSorted(const std::function<absl::Status(std::string_view record)>& visit);

 private:
  void SortRecords();
  absl::Status WriteRun();

  FileSystem& fs_;
  const std::string directory_;
  const int64_t memory_bytes_;
  std::string bytes_;                                // Of the records in memory, one behind the other.
  std::vector<std::pair<size_t, size_t>> records_;  // Place and length of each.
  std::vector<std::string> runs_;                    // Paths.
};

}  // namespace loci

#endif  // LOCI_INDEX_EXTERNAL_SORTER_H_
