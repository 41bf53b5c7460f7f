// stores/<store>/QUERY_HALVES: which query half was last published to a store, for each passage half.
//
//   file := "loci query halves 1\n" ( query half ":" passage half "\n" )*  XXH3 of all before, 16 hex digits
//
// A half is 16 hex digits; newest last; each passage half once. Those that generations of the store have all stay; of the others, whose vectors are
// being made or will never be, the newest kKeptUnbuilt. Written by WriteFileAtomically. Absent: none was published.
#ifndef LOCI_RETRIEVER_QUERY_HALVES_H_
#define LOCI_RETRIEVER_QUERY_HALVES_H_

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"
#include "encoder/types.h"

namespace loci {

inline constexpr char kQueryHalvesFile[] = "QUERY_HALVES";
inline constexpr size_t kKeptUnbuilt = 8;

// Oldest first. DATA_LOSS, reason FILE_DAMAGED, for a file that is not what was written; FAILED_PRECONDITION for that of a newer server.
absl::StatusOr<std::vector<Fingerprint>> ReadQueryHalves(FileSystem& fs, const std::string& store_directory);

// The encoder that was published for vectors of `made_by`'s passage half; where none was: `made_by`. Errors as ReadQueryHalves.
absl::StatusOr<Fingerprint> PublishedFor(FileSystem& fs, const std::string& store_directory, const Fingerprint& made_by);

// Makes `encoder` the one that is published for its passage half: durable on return. `built`: the passage halves that the store's generations have;
// nothing: not known, so that none is forgotten. A damaged file is replaced, and what it said is lost. One writer at a time.
absl::Status WriteQueryHalf(FileSystem& fs, const std::string& store_directory, const Fingerprint& encoder,
                            const std::optional<std::set<std::string>>& built);

}  // namespace loci

#endif  // LOCI_RETRIEVER_QUERY_HALVES_H_
