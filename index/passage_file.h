// passages/: row -> passage of a generation's body, and id -> row. A RocksDB that is closed after the build and opened read-only.
#ifndef LOCI_INDEX_PASSAGE_FILE_H_
#define LOCI_INDEX_PASSAGE_FILE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"
#include "proto/loci/v1/common.pb.h"

namespace rocksdb {
class FileSystem;
}  // namespace rocksdb

namespace loci {

// The most memory that the tables of one open PassageFile take for blocks, their own indexes and filters included.
inline constexpr int64_t kPassageCacheBytes = 32 << 20;
// What an open PassageFile takes beside its blocks: RocksDB's objects and the empty cache, as malloc counts them (RocksDB 7.8).
inline constexpr int64_t kPassageFileBytes = 100 << 10;

// Keys: "r" + row (8 bytes, big-endian) -> record := XXH3 of the rest (8 bytes, little-endian) + serialised loci.v1.Passage, whose
//       first field is its id (0x0a, length as varint, bytes), so that an id is read without parsing or checking what follows;
//       "i" + id -> row (8 bytes, big-endian). Row order is id order.
// Thread-safe.
class PassageFile {
 public:
  // Opens every table, so that what is open can be read after the folder is deleted. DATA_LOSS where the folder is damaged,
  // RESOURCE_EXHAUSTED where the process has no file descriptors left.
  static absl::StatusOr<std::unique_ptr<PassageFile>> Open(const std::string& directory, int64_t row_count);
  virtual ~PassageFile() = default;

  virtual int64_t row_count() const = 0;
  // `rows` each in [0, row_count()). Fills `passages` in their order. DATA_LOSS for a record whose checksum fails.
  virtual absl::Status Read(std::span<const int64_t> rows, std::vector<loci::v1::Passage>* passages) const = 0;
  // The ids of `rows` in their order, without parsing the passages, nor checking the XXH3 of their records (the tables' blocks have
  // checksums of their own). In one batch: give a few hundred rows at a time.
  virtual absl::Status ReadIds(std::span<const int64_t> rows, std::vector<std::string>* ids) const = 0;
  absl::StatusOr<std::string> ReadId(int64_t row) const;
  virtual absl::StatusOr<std::optional<int64_t>> FindRow(std::string_view id) const = 0;
  virtual int64_t memory_bytes() const = 0;
  // Reads all of it, or as much as the cache has room for, into the cache, ids first. What memory_bytes() then is, with the ids and with all.
  struct Filled {
    int64_t ids_bytes = 0;
    int64_t all_bytes = 0;
  };
  virtual absl::StatusOr<Filled> FillCache() const = 0;
};

// Fills a new passage file. Passages must come in the order of their ids, bytewise, each id once.
// Used by one thread: the builder's.
class PassageFileWriter {
 public:
  // A table is ended when it is larger than `table_bytes`. An open passage file takes a file descriptor a table.
  static constexpr int64_t kTableBytes = 256 << 20;
  // `fs` is borrowed. `rocksdb_files` are RocksDB's, over the same files as `fs`; null: the operating system's.
  static absl::StatusOr<std::unique_ptr<PassageFileWriter>> Create(FileSystem& fs, const std::string& directory,
                                                                   std::shared_ptr<rocksdb::FileSystem> rocksdb_files,
                                                                   int64_t table_bytes = kTableBytes);
  static absl::StatusOr<std::unique_ptr<PassageFileWriter>> Create(const std::string& directory, int64_t table_bytes = kTableBytes) {
    return Create(PosixFileSystem(), directory, nullptr, table_bytes);
  }
  virtual ~PassageFileWriter() = default;
  virtual absl::Status Append(const loci::v1::Passage& passage) = 0;
  // Flushes, syncs, compacts and closes. The folder then holds only files that may be listed in a manifest.
  virtual absl::Status Finish() = 0;
};

}  // namespace loci

#endif  // LOCI_INDEX_PASSAGE_FILE_H_
