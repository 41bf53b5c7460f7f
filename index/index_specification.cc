#include "index/index_specification.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/byte_size.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "base/strings.h"

namespace loci {
namespace {

constexpr std::string_view kAuto = "auto";
constexpr std::string_view kExact = kExactIndex;

absl::Status Invalid(std::string_view specification, const std::string& why) {
  return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("index \"", AbslView(specification.substr(0, 64)), "\": ", why)),
                         "INVALID_ARGUMENT", {{"field", "index.factory"}});
}

}  // namespace

bool IsExactIndex(std::string_view specification) {
  return specification == kExact || specification.substr(0, kExact.size() + 1) == "exact:";
}

absl::StatusOr<ExactSpecification> ParseExactIndex(std::string_view specification) {
  if (specification == kExact) return ExactSpecification{};
  if (specification == kExactInt8Index) return ExactSpecification{.int8 = true};
  return Invalid(specification, "it is neither exact nor exact:int8");
}

bool IsAutoIndex(std::string_view specification) {
  return specification == kAuto || specification.substr(0, kAuto.size() + 1) == "auto:";
}

absl::StatusOr<AutoIndex> ParseAutoIndex(std::string_view specification) {
  if (!IsAutoIndex(specification)) return Invalid(specification, "it is not auto, nor does it begin with auto:");
  AutoIndex result;
  if (specification == kAuto) return result;
  bool has_recall = false, has_memory = false;
  for (const absl::string_view option : absl::StrSplit(AbslView(specification.substr(kAuto.size() + 1)), ',')) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(option, absl::MaxSplits('=', 1));
    const std::string& value = parts.second;
    if (parts.first == "recall" && !has_recall) {
      has_recall = true;
      if (!absl::SimpleAtod(value, &result.recall_target) || !(result.recall_target > 0 && result.recall_target <= 1)) {
        return Invalid(specification, absl::StrCat("recall is ", value, "; it must be a number above 0 and at most 1"));
      }
    } else if (parts.first == "memory" && !has_memory) {
      has_memory = true;
      const std::optional<int64_t> bytes = ParseByteSize(value);
      if (!bytes.has_value() || *bytes < kMinMemoryBudgetBytes) {
        return Invalid(specification, absl::StrCat("memory is ", value, "; it must be a number of bytes, at least 1 MiB, as 2147483648 or 2GiB"));
      }
      result.memory_budget_bytes = *bytes;
    } else {
      return Invalid(specification, absl::StrCat("\"", parts.first, "\" is no option, or comes twice; auto takes recall=NUMBER and memory=SIZE, with a comma between them"));
    }
  }
  return result;
}

}  // namespace loci
