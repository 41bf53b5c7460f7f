#include "base/memory_info.h"

#include <malloc.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <optional>
#include <string_view>

namespace loci {
namespace {

std::optional<int64_t> ParseNumber(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())) != 0) text.remove_prefix(1);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end == text.data() || value < 0) return std::nullopt;
  return value;
}

// The number after `key` at the start of a line.
std::optional<int64_t> NumberOf(std::string_view content, std::string_view key) {
  while (!content.empty()) {
    const std::string_view line = content.substr(0, content.find('\n'));
    if (line.substr(0, key.size()) == key) return ParseNumber(line.substr(key.size()));
    content.remove_prefix(std::min(content.size(), line.size() + 1));
  }
  return std::nullopt;
}

std::optional<int64_t> NumberIn(FileSystem& fs, const std::string& path) {
  const absl::StatusOr<std::string> content = fs.ReadFile(path);
  return content.ok() ? ParseNumber(*content) : std::nullopt;  // "max": no limit.
}

struct GroupFiles {
  const char* limit;
  const char* usage;
  const char* droppable[2];  // Lines of memory.stat: pages of files, those used lately too.
};
constexpr GroupFiles kVersion2 = {"memory.max", "memory.current", {"inactive_file ", "active_file "}};
constexpr GroupFiles kVersion1 = {"memory.limit_in_bytes", "memory.usage_in_bytes", {"total_inactive_file ", "total_active_file "}};

// What is left in the group at `path` below `mount` and in those above it.
std::optional<int64_t> LeftInGroups(FileSystem& fs, const std::string& mount, std::string path, const GroupFiles& files) {
  std::optional<int64_t> least;
  while (true) {
    const std::string directory = JoinPath(mount, path);
    const std::optional<int64_t> limit = NumberIn(fs, JoinPath(directory, files.limit));
    const std::optional<int64_t> usage = NumberIn(fs, JoinPath(directory, files.usage));
    if (limit.has_value() && usage.has_value()) {
      const absl::StatusOr<std::string> stat = fs.ReadFile(JoinPath(directory, "memory.stat"));
      int64_t droppable = 0;
      for (const char* line : files.droppable) droppable += stat.ok() ? NumberOf(*stat, line).value_or(0) : 0;
      const int64_t left = std::max<int64_t>(0, *limit - std::max<int64_t>(0, *usage - droppable));
      least = std::min(least.value_or(left), left);
    }
    if (path.empty() || path == "/") return least;
    path = ParentPath(path);
  }
}

}  // namespace

int64_t AvailableMemoryBytes(FileSystem& fs, const std::string& root) {
  std::optional<int64_t> available;
  if (const absl::StatusOr<std::string> meminfo = fs.ReadFile(JoinPath(root, "proc/meminfo")); meminfo.ok()) {
    available = NumberOf(*meminfo, "MemAvailable:");
    if (available.has_value()) *available *= 1024;
  }
  const auto limit_to = [&](std::optional<int64_t> left) {
    if (left.has_value()) available = std::min(available.value_or(*left), *left);
  };
  const std::string groups = JoinPath(root, "sys/fs/cgroup");
  if (const absl::StatusOr<std::string> own = fs.ReadFile(JoinPath(root, "proc/self/cgroup")); own.ok()) {
    std::string_view rest = *own;
    while (!rest.empty()) {
      const std::string_view line = rest.substr(0, rest.find('\n'));
      rest.remove_prefix(std::min(rest.size(), line.size() + 1));
      // "0::/system.slice/loci.service" or "9:memory:/..."
      const size_t first = line.find(':');
      const size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
      if (second == std::string_view::npos) continue;
      const std::string_view controllers = line.substr(first + 1, second - first - 1);
      const std::string path(line.substr(second + 1));
      if (path.empty() || path[0] != '/') continue;
      if (controllers.empty()) limit_to(LeftInGroups(fs, groups, path, kVersion2));
      if (controllers == "memory") limit_to(LeftInGroups(fs, JoinPath(groups, "memory"), path, kVersion1));
    }
  }
  return available.value_or(-1);
}

ProcessUsage ReadProcessUsage(FileSystem& fs, const std::string& root) {
  ProcessUsage usage;
  if (const absl::StatusOr<std::string> status = fs.ReadFile(JoinPath(root, "proc/self/status")); status.ok()) {
    const auto bytes_of = [&](std::string_view key) {
      const std::optional<int64_t> kilobytes = NumberOf(*status, key);
      return kilobytes.has_value() ? *kilobytes * 1024 : -1;
    };
    usage.resident_bytes = bytes_of("VmRSS:");
    usage.anonymous_bytes = bytes_of("RssAnon:");
  }
  if (const auto files = fs.List(JoinPath(root, "proc/self/fd")); files.ok()) usage.open_files = static_cast<int64_t>(files->size());
  return usage;
}

void ReleaseFreeMemory() { (void)malloc_trim(0); }

}  // namespace loci
