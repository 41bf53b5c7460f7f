#include "base/byte_size.h"

#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "base/strings.h"

namespace loci {

std::optional<int64_t> ParseByteSize(std::string_view text) {
  constexpr std::pair<std::string_view, int64_t> kUnits[] = {
      {"KiB", int64_t{1} << 10}, {"MiB", int64_t{1} << 20}, {"GiB", int64_t{1} << 30}, {"TiB", int64_t{1} << 40},
      {"KB", 1'000},             {"MB", 1'000'000},         {"GB", 1'000'000'000},     {"TB", 1'000'000'000'000}};
  int64_t unit = 1;
  for (const auto& [name, bytes] : kUnits) {
    if (text.size() <= name.size() || text.substr(text.size() - name.size()) != name) continue;
    unit = bytes;
    text.remove_suffix(name.size());
    break;
  }
  int64_t count = 0;
  if (text.empty() || text.find_first_not_of("0123456789") != std::string_view::npos || !absl::SimpleAtoi(AbslView(text), &count)) return std::nullopt;
  if (count > std::numeric_limits<int64_t>::max() / unit) return std::nullopt;
  return count * unit;
}

}  // namespace loci
