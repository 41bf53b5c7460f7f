#include "retriever/query_halves.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/checksum.h"
#include "base/error.h"
#include "base/hex.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "base/strings.h"

namespace loci {
namespace {

constexpr std::string_view kHeader = "loci query halves 1\n";
constexpr std::string_view kAnyHeader = "loci query halves ";

absl::Status Damaged(const std::string& path, std::string_view what) {
  return ErrorWithReason(absl::DataLossError(absl::StrCat(path, " is damaged: ", AbslView(what), "; publish an encoder to the store again")),
                         "FILE_DAMAGED", {{"file", path}});
}

}  // namespace

absl::StatusOr<std::vector<Fingerprint>> ReadQueryHalves(FileSystem& fs, const std::string& store_directory) {
  const std::string path = JoinPath(store_directory, kQueryHalvesFile);
  const absl::StatusOr<std::string> content = fs.ReadFile(path);
  if (absl::IsNotFound(content.status())) return std::vector<Fingerprint>();
  LOCI_RETURN_IF_ERROR(content.status());
  const absl::StatusOr<std::string_view> body = Unsealed(*content);
  if (!body.ok()) return Damaged(path, StdView(body.status().message()));
  if (!body->starts_with(kHeader)) {
    if (!body->starts_with(kAnyHeader)) return Damaged(path, "it does not begin as such a file does");
    return absl::FailedPreconditionError(absl::StrCat(path, " is of a newer server"));
  }
  std::vector<Fingerprint> halves;
  for (const absl::string_view line : absl::StrSplit(AbslView(body->substr(kHeader.size())), '\n', absl::SkipEmpty())) {
    const std::vector<std::string> pair = absl::StrSplit(line, ':');
    if (pair.size() != 2 || !IsHex(pair[0], kHalfDigits) || !IsHex(pair[1], kHalfDigits)) return Damaged(path, "a line is not QUERY:PASSAGE");
    halves.push_back({.query = pair[0], .passage = pair[1]});
  }
  return halves;
}

absl::StatusOr<Fingerprint> PublishedFor(FileSystem& fs, const std::string& store_directory, const Fingerprint& made_by) {
  LOCI_ASSIGN_OR_RETURN(const std::vector<Fingerprint> halves, ReadQueryHalves(fs, store_directory));
  for (const Fingerprint& half : halves) {
    if (half.passage == made_by.passage) return half;
  }
  return made_by;
}

absl::Status WriteQueryHalf(FileSystem& fs, const std::string& store_directory, const Fingerprint& encoder,
                            const std::optional<std::set<std::string>>& built) {
  absl::StatusOr<std::vector<Fingerprint>> halves = ReadQueryHalves(fs, store_directory);
  if (absl::IsDataLoss(halves.status())) {
    LogWarning("query_halves", absl::StrCat("replaced: ", halves.status().message()));
    halves = std::vector<Fingerprint>();
  }
  LOCI_RETURN_IF_ERROR(halves.status());
  if (!halves->empty() && halves->back() == encoder) return absl::OkStatus();
  std::erase_if(*halves, [&](const Fingerprint& half) { return half.passage == encoder.passage; });
  halves->push_back(encoder);
  if (built.has_value()) {
    size_t unbuilt = 0;
    for (auto half = halves->end(); half != halves->begin();) {
      --half;
      if (!built->contains(half->passage) && ++unbuilt > kKeptUnbuilt) half = halves->erase(half);
    }
  }
  std::string body(kHeader);
  for (const Fingerprint& half : *halves) absl::StrAppend(&body, half.ToString(), "\n");
  return WriteFileAtomically(fs, JoinPath(store_directory, kQueryHalvesFile), Sealed(std::move(body)));
}

}  // namespace loci
