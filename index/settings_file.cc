#include "index/settings_file.h"

#include "absl/strings/str_cat.h"
#include "base/checksum.h"
#include "base/error.h"
#include "base/status_macros.h"

namespace loci {
namespace {

constexpr int kFormatVersion = 1;

}  // namespace

std::string SerializeSettings(const storage::StoreSettings& settings) {
  storage::StoreSettings written = settings;
  written.set_format_version(kFormatVersion);
  return Sealed(written.SerializeAsString());
}

absl::StatusOr<storage::StoreSettings> ParseSettings(std::string_view content) {
  const absl::StatusOr<std::string_view> body = Unsealed(content);
  if (!body.ok()) return Annotate(body.status(), "SETTINGS");
  storage::StoreSettings settings;
  if (!settings.ParseFromArray(body->data(), static_cast<int>(body->size()))) return absl::DataLossError("SETTINGS can't be parsed");
  if (settings.format_version() > kFormatVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("SETTINGS has format ", settings.format_version(), ", this server reads up to ", kFormatVersion));
  }
  if (settings.format_version() < 1 || settings.keep_generations() < 0 || settings.keep_generations() > kMaxKeepGenerations) {
    return absl::DataLossError("SETTINGS has impossible values");
  }
  if (!settings.encoder_precision().empty() && settings.encoder_precision() != kInt8Setting) {
    return absl::DataLossError("SETTINGS has an encoder_precision that is unknown");
  }
  return settings;
}

absl::StatusOr<storage::StoreSettings> ReadSettings(FileSystem& fs, const std::string& store_directory) {
  const std::string path = JoinPath(store_directory, kSettingsFile);
  const absl::StatusOr<std::string> content = fs.ReadFile(path);
  if (absl::IsNotFound(content.status())) return storage::StoreSettings();
  LOCI_RETURN_IF_ERROR(content.status());
  absl::StatusOr<storage::StoreSettings> settings = ParseSettings(*content);
  if (!settings.ok()) return Annotate(settings.status(), path);
  return settings;
}

absl::Status WriteSettings(FileSystem& fs, const std::string& store_directory, const storage::StoreSettings& settings) {
  return WriteFileAtomically(fs, JoinPath(store_directory, kSettingsFile), SerializeSettings(settings));
}

}  // namespace loci
