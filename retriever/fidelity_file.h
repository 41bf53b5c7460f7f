// stores/<store>/INT8_FIDELITY: how near int8 was found to be to float32 over the store's passages, and when.
//
// Content: a serialised storage.EncoderFidelity followed by its XXH3 as 16 lower-case hex digits. Absent: nothing was measured.
#ifndef LOCI_RETRIEVER_FIDELITY_FILE_H_
#define LOCI_RETRIEVER_FIDELITY_FILE_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"
#include "proto/loci/storage/fidelity.pb.h"

namespace loci {

inline constexpr char kInt8FidelityRecord[] = "INT8_FIDELITY";

// DATA_LOSS for a file that is not what was written, FAILED_PRECONDITION for that of a newer server.
absl::StatusOr<std::optional<storage::EncoderFidelity>> ReadInt8Fidelity(FileSystem& fs, const std::string& store_directory);
// Atomically, synced, in the place of what was there. After an error a crash finds the old record or the new one.
absl::Status WriteInt8Fidelity(FileSystem& fs, const std::string& store_directory, storage::EncoderFidelity fidelity);

}  // namespace loci

#endif  // LOCI_RETRIEVER_FIDELITY_FILE_H_
