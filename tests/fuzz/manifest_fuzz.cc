// ParseManifest over hostile bytes: as they are, and behind a checksum that fits, so that the fields are reached.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

#include "base/checksum.h"
#include "base/logging.h"
#include "index/manifest.h"

namespace {

// What is accepted may be trusted: these are what its readers rely on.
void CheckAccepted(const loci::storage::Manifest& manifest) {
  LOCI_CHECK(manifest.format_version() >= 1 && manifest.format_version() <= loci::kManifestFormatVersion);
  LOCI_CHECK(manifest.dim() >= 1 && manifest.dim() <= 65536);
  LOCI_CHECK(manifest.passage_count() >= 0 && manifest.vector_count() >= manifest.passage_count());
  LOCI_CHECK(manifest.recall_at_10() >= 0 && manifest.recall_at_10() <= 1);
  LOCI_CHECK(manifest.generation().find('/') == std::string::npos);
  bool has_vectors = false;
  for (const loci::storage::FileEntry& file : manifest.files()) {
    const std::string& path = file.path();
    LOCI_CHECK(!path.empty() && path.front() != '/' && path.find("..") != 0 && path.find("/..") == std::string::npos);
    LOCI_CHECK(path.find('\0') == std::string::npos && file.size_bytes() >= 0 && file.sha256().size() == 64);
    has_vectors |= path == loci::kVectorsFile;
  }
  LOCI_CHECK(has_vectors);
  for (const loci::storage::Probe& probe : manifest.probes()) {
    LOCI_CHECK(probe.row() >= 0 && probe.row() < manifest.vector_count());
  }
  // And it survives being written again.
  const std::string again = loci::SerializeManifest(manifest);
  LOCI_CHECK(loci::ParseManifest(again).ok());
}

void Try(std::string_view content) {
  const auto manifest = loci::ParseManifest(content);
  if (manifest.ok()) {
    CheckAccepted(*manifest);
  } else {
    LOCI_CHECK(absl::IsDataLoss(manifest.status()) || absl::IsFailedPrecondition(manifest.status()));
    LOCI_CHECK(manifest.status().message().size() < 1000);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string body(reinterpret_cast<const char*>(data), size);
  Try(body);
  char digits[17];
  snprintf(digits, sizeof(digits), "%016llx", static_cast<unsigned long long>(loci::Xxh3(body)));
  Try(body + digits);
  return 0;
}
