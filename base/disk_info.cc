#include "base/disk_info.h"

#include <sys/statvfs.h>

#include <algorithm>

namespace loci {

int64_t AvailableDiskBytes(const std::string& path) {
  struct statvfs stat;
  if (statvfs(path.c_str(), &stat) != 0) return -1;
  const unsigned __int128 bytes = static_cast<unsigned __int128>(stat.f_bavail) * stat.f_frsize;
  return static_cast<int64_t>(std::min<unsigned __int128>(bytes, INT64_MAX));
}

}  // namespace loci
