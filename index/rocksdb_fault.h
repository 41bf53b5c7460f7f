// A RocksDB file system that fails when it is told to. For tests.
#ifndef LOCI_INDEX_ROCKSDB_FAULT_H_
#define LOCI_INDEX_ROCKSDB_FAULT_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "rocksdb/file_system.h"

namespace loci {

// What fails, and when. Counts what changes files: opening to write, append, sync, rename, folder sync. Thread-safe.
struct RocksDbFaults {
  enum class Kind { kIoError, kNoSpace };
  std::atomic<int64_t> operations{0};
  std::atomic<int64_t> fail_from{INT64_MAX};  // Operations [fail_from, fail_to) fail; the first one has number 0.
  std::atomic<int64_t> fail_to{INT64_MAX};
  std::atomic<bool> tear{false};  // A failing append leaves half of its bytes.
  std::atomic<Kind> kind{Kind::kIoError};

  // Fails the next operation, or all from it on.
  void FailNext() { fail_to = (fail_from = operations.load()) + 1; }
  void FailAll() {
    fail_to = INT64_MAX;
    fail_from = operations.load();
  }
  void Heal() { fail_from = INT64_MAX; }
};

// `faults` is borrowed.
std::shared_ptr<rocksdb::FileSystem> NewFaultyRocksDbFileSystem(RocksDbFaults* faults);

}  // namespace loci

#endif  // LOCI_INDEX_ROCKSDB_FAULT_H_
