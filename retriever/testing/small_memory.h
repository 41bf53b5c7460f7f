// For tests of what a machine with little memory refuses.
#ifndef LOCI_RETRIEVER_TESTING_SMALL_MEMORY_H_
#define LOCI_RETRIEVER_TESTING_SMALL_MEMORY_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "index/forwarding_file_system.h"

namespace loci {

// A machine that has so much memory.
class SmallMemory : public ForwardingFileSystem {
 public:
  explicit SmallMemory(int64_t available_bytes) : available_bytes_(available_bytes) {}
  absl::StatusOr<std::string> ReadFile(const std::string& path) override {
    if (path == "/proc/meminfo") return absl::StrCat("MemAvailable: ", available_bytes_ / 1024, " kB\n");
    if (path == "/proc/self/cgroup") return absl::NotFoundError(path);
    return base_.ReadFile(path);
  }

 private:
  const int64_t available_bytes_;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_TESTING_SMALL_MEMORY_H_
