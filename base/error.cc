#include "base/error.h"

#include <cstdint>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/strings.h"

namespace loci {
namespace {

// The payload is a list of strings, each as its length (8 bytes, this machine's order: it never leaves the process) and its
// bytes: reason, then key and value of each entry of the metadata.
constexpr char kPayloadUrl[] = "loci/error-reason";

void AppendString(std::string_view value, std::string* out) {
  const uint64_t size = value.size();
  out->append(reinterpret_cast<const char*>(&size), sizeof(size));
  out->append(value);
}

std::optional<std::string> TakeString(std::string_view* in) {
  uint64_t size;
  if (in->size() < sizeof(size)) return std::nullopt;
  in->copy(reinterpret_cast<char*>(&size), sizeof(size));
  in->remove_prefix(sizeof(size));
  if (in->size() < size) return std::nullopt;
  std::string value(in->substr(0, size));
  in->remove_prefix(size);
  return value;
}

}  // namespace

absl::Status ErrorWithReason(absl::Status status, std::string_view reason, std::map<std::string, std::string> metadata) {
  std::string payload;
  AppendString(reason, &payload);
  for (const auto& [key, value] : metadata) {
    AppendString(key, &payload);
    AppendString(value, &payload);
  }
  status.SetPayload(kPayloadUrl, absl::Cord(payload));
  return status;
}

std::optional<ErrorReason> GetErrorReason(const absl::Status& status) {
  const auto cord = status.GetPayload(kPayloadUrl);
  if (!cord.has_value()) return std::nullopt;
  const std::string payload(*cord);
  std::string_view rest = payload;
  ErrorReason result;
  std::optional<std::string> reason = TakeString(&rest);
  if (!reason.has_value()) return std::nullopt;
  result.reason = *std::move(reason);
  while (!rest.empty()) {
    std::optional<std::string> key = TakeString(&rest);
    std::optional<std::string> value = TakeString(&rest);
    if (!key.has_value() || !value.has_value()) return std::nullopt;
    result.metadata[*std::move(key)] = *std::move(value);
  }
  return result;
}

absl::Status Annotate(const absl::Status& status, std::string_view prefix) {
  if (status.ok()) return status;
  absl::Status result(status.code(), absl::StrCat(AbslView(prefix), ": ", status.message()));
  status.ForEachPayload([&result](absl::string_view url, const absl::Cord& payload) { result.SetPayload(url, payload); });
  return result;
}

}  // namespace loci
