// stores/<store>/SETTINGS: what operators have set of a store.
//
// Content: a serialised storage.StoreSettings followed by its XXH3 as 16 lower-case hex digits.
#ifndef LOCI_INDEX_SETTINGS_FILE_H_
#define LOCI_INDEX_SETTINGS_FILE_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"
#include "proto/loci/storage/storage.pb.h"

namespace loci {

inline constexpr char kSettingsFile[] = "SETTINGS";
inline constexpr int kMaxKeepGenerations = 1'000;
inline constexpr char kInt8Setting[] = "int8";  // Of encoder_precision.

// DATA_LOSS where the checksum or a field is wrong, FAILED_PRECONDITION for a newer format. Parses hostile bytes safely.
absl::StatusOr<storage::StoreSettings> ParseSettings(std::string_view content);
std::string SerializeSettings(const storage::StoreSettings& settings);

// Nothing is set where the file is absent.
absl::StatusOr<storage::StoreSettings> ReadSettings(FileSystem& fs, const std::string& store_directory);
// Atomically, synced. After an error a crash finds the old settings or the new ones.
absl::Status WriteSettings(FileSystem& fs, const std::string& store_directory, const storage::StoreSettings& settings);

}  // namespace loci

#endif  // LOCI_INDEX_SETTINGS_FILE_H_
