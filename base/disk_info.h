// How much room a file system has.
#ifndef LOCI_BASE_DISK_INFO_H_
#define LOCI_BASE_DISK_INFO_H_

#include <cstdint>
#include <string>

namespace loci {

// Bytes that a process without privileges can still write to the file system that `path` lies on; -1: not known. Thread-safe.
int64_t AvailableDiskBytes(const std::string& path);

}  // namespace loci

#endif  // LOCI_BASE_DISK_INFO_H_
