// The files of a checkpoint that come from a client, into the registry. They may be anybody's.
//
//   LOCI_ASSIGN_OR_RETURN(auto importer, EncoderImporter::Start(registry, fs, "my-model"));
//   LOCI_RETURN_IF_ERROR(importer->Add("config.json", bytes));       // piece by piece, one file after the other
//   LOCI_ASSIGN_OR_RETURN(ImportedEncoder imported, importer->Finish());
#ifndef LOCI_RETRIEVER_ENCODER_IMPORTER_H_
#define LOCI_RETRIEVER_ENCODER_IMPORTER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/disk_info.h"
#include "base/file.h"
#include "retriever/encoder_registry.h"

namespace loci {

// Only files that an encoder reads, each once and of limited size, in a folder of its own; they count once the encoder was loaded from them. Without
// Finish nothing of them stays. Used by one thread at a time.
class EncoderImporter {
 public:
  static constexpr int64_t kMaxWeightBytes = int64_t{2} << 30;
  static constexpr int64_t kMaxTokenizerBytes = int64_t{64} << 20;
  static constexpr int64_t kMaxConfigBytes = int64_t{1} << 20;

  // What stays free on disk, where stores write their logs too, and how often that is looked at: each time so much more came.
  static constexpr int64_t kRoomBytes = int64_t{64} << 20;

  // INVALID_ARGUMENT for a name that is not 1 to 64 of [A-Za-z0-9._-], or begins with a dot. `registry` and `fs` are borrowed.
  // `available_disk_bytes`: see base/disk_info.h.
  static absl::StatusOr<std::unique_ptr<EncoderImporter>> Start(
      EncoderRegistry& registry, FileSystem& fs, std::string_view name,
      std::function<int64_t(const std::string& path)> available_disk_bytes = AvailableDiskBytes);
  ~EncoderImporter();

  // INVALID_ARGUMENT for a path that no encoder has or that came before; RESOURCE_EXHAUSTED, reason ENCODER_TOO_LARGE with `path` and
  // `limit_bytes`, for a file that is too large, reason MEMORY for weights that this machine has no room for now, reason DISK where the disk has none. After
  // an error this can only be dropped.
  absl::Status Add(std::string_view path, std::string_view data);
  // Loads the encoder. INVALID_ARGUMENT, reason ENCODER_INVALID, where it can't be. Blocks.
  absl::StatusOr<ImportedEncoder> Finish(const EncoderOrigin& origin = {});

  // Parts of it, for who adds files that come otherwise: whether weights of that size have room now, as Add; the end of the file that came last, synced;
  // the folder.
  absl::Status CheckRoom(int64_t weight_bytes) const;
  absl::Status CloseFile();
  const std::string& directory() const { return directory_; }
  int64_t received_bytes() const { return received_bytes_; }

 private:
  EncoderImporter(EncoderRegistry& registry, FileSystem& fs, std::string name, std::string directory,
                  std::function<int64_t(const std::string& path)> available_disk_bytes)
      : registry_(registry),
        fs_(fs),
        name_(std::move(name)),
        directory_(std::move(directory)),
        available_disk_bytes_(std::move(available_disk_bytes)) {}
  absl::Status CheckMemory(int64_t weight_bytes) const;

  EncoderRegistry& registry_;
  FileSystem& fs_;
  const std::string name_;
  const std::string directory_;
  const std::function<int64_t(const std::string& path)> available_disk_bytes_;
  std::set<std::string, std::less<>> came_;
  std::string path_;  // Of the file that comes; empty: none has.
  int64_t file_bytes_ = 0;
  int64_t weight_bytes_ = 0;  // Of both towers.
  int64_t received_bytes_ = 0;
  int64_t next_look_bytes_ = 0;  // Received, from which on the disk is looked at again.
  std::unique_ptr<WritableFile> file_;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_ENCODER_IMPORTER_H_
