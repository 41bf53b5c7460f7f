// The sums of a generation's files: made once at the end of a build, compared whenever every byte is read.
//
// A file has its SHA-256 and the XXH3 of each of its blocks, so that damage is told by its place. Blocks are of BlockBytes(size), the
// last one is shorter:
//
//   file of          up to 1 MiB   up to 64 MiB   beyond
//   blocks of        4 KiB         64 KiB         1 MiB
#ifndef LOCI_INDEX_FILE_SUMS_H_
#define LOCI_INDEX_FILE_SUMS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"
#include "proto/loci/storage/storage.pb.h"

namespace loci {

int64_t BlockBytes(int64_t size_bytes);

// Called after each piece of at most a MiB; an error ends the reading, and is returned.
using OnBytesRead = std::function<absl::Status(int64_t bytes)>;

// The entry of `path`, a file in `directory`: its size and sums.
absl::StatusOr<storage::FileEntry> SumFile(FileSystem& fs, const std::string& directory, const std::string& path, const OnBytesRead& on_read);

// Compares a file in `directory` with its entry: its size and, with `sums`, every byte. DATA_LOSS, reason FILE_DAMAGED, with `file`,
// `offset` (of the block that differs; where a file ends too early or goes on) and `bytes` (from there on, that hold the damage). Entries
// without sums of blocks, as older builds wrote them, are compared as a whole.
absl::Status CheckFile(FileSystem& fs, const std::string& directory, const storage::FileEntry& entry, bool sums, const OnBytesRead& on_read);

// Compares block number `block` of the entry's file, in `directory`, with its sum; `bytes` are what the file has there. Errors as CheckFile.
absl::Status CheckBlock(const std::string& directory, const storage::FileEntry& entry, int64_t block, std::string_view bytes);

// The error itself: `what` is wrong in `bytes` from `offset` on of `file` (in `directory`).
absl::Status FileDamaged(const std::string& directory, const std::string& file, int64_t offset, int64_t bytes, const std::string& what);

}  // namespace loci

#endif  // LOCI_INDEX_FILE_SUMS_H_
