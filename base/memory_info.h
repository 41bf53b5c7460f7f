// How much memory a process may still take.
#ifndef LOCI_BASE_MEMORY_INFO_H_
#define LOCI_BASE_MEMORY_INFO_H_

#include <cstdint>
#include <string>

#include "base/file.h"

namespace loci {

// Bytes that this process can take without swapping or being ended: MemAvailable of the machine or, where that is less, what is left
// of the limit of its control group (version 2, or the memory controller of version 1) and of those above it; file cache that can be
// dropped counts as available in both. -1: not known. `root` is where /proc and /sys lie, for tests. Thread-safe.
int64_t AvailableMemoryBytes(FileSystem& fs, const std::string& root = "/");

// What this process has now; -1: not known.
struct ProcessUsage {
  int64_t resident_bytes = -1;
  int64_t anonymous_bytes = -1;  // Resident, mapped files left out.
  int64_t open_files = -1;
};
ProcessUsage ReadProcessUsage(FileSystem& fs, const std::string& root = "/");

// Gives the system back what the allocator keeps of memory that was freed. Takes milliseconds, in which other threads' allocations may wait.
void ReleaseFreeMemory();

}  // namespace loci

#endif  // LOCI_BASE_MEMORY_INFO_H_
