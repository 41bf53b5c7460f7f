#include "index/file_sums.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/checksum.h"
#include "base/error.h"
#include "base/status_macros.h"

namespace loci {
namespace {

constexpr int64_t kPieceBytes = 1 << 20;  // A multiple of every block's size.

}  // namespace

int64_t BlockBytes(int64_t size_bytes) {
  if (size_bytes <= int64_t{1} << 20) return 4 << 10;
  return size_bytes <= int64_t{64} << 20 ? 64 << 10 : 1 << 20;
}

absl::Status FileDamaged(const std::string& directory, const std::string& file, int64_t offset, int64_t bytes, const std::string& what) {
  return ErrorWithReason(absl::DataLossError(absl::StrCat(JoinPath(directory, file), " is damaged at offset ", offset, ": ", what)),
                         "FILE_DAMAGED", {{"file", file}, {"offset", absl::StrCat(offset)}, {"bytes", absl::StrCat(bytes)}});
}

absl::Status CheckBlock(const std::string& directory, const storage::FileEntry& entry, int64_t block, std::string_view bytes) {
  if (Xxh3(bytes) == entry.block_xxh3(static_cast<int>(block))) return absl::OkStatus();
  return FileDamaged(directory, entry.path(), block * entry.block_bytes(), static_cast<int64_t>(bytes.size()),
                     absl::StrCat("the XXH3 of the ", bytes.size(), " bytes there is not the manifest's"));
}

absl::StatusOr<storage::FileEntry> SumFile(FileSystem& fs, const std::string& directory, const std::string& path, const OnBytesRead& on_read) {
  LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file, fs.Map(JoinPath(directory, path)));
  const std::string_view data = file->data();
  storage::FileEntry entry;
  entry.set_path(path);
  entry.set_size_bytes(static_cast<int64_t>(data.size()));
  entry.set_block_bytes(BlockBytes(entry.size_bytes()));
  Sha256 hash;
  for (int64_t offset = 0; offset < entry.size_bytes(); offset += kPieceBytes) {
    const std::string_view piece = data.substr(offset, kPieceBytes);
    hash.Update(piece);
    for (size_t begin = 0; begin < piece.size(); begin += entry.block_bytes()) {
      entry.add_block_xxh3(Xxh3(piece.substr(begin, entry.block_bytes())));
    }
    LOCI_RETURN_IF_ERROR(on_read(static_cast<int64_t>(piece.size())));
  }
  LOCI_RETURN_IF_ERROR(file->Check());
  entry.set_sha256(hash.HexDigest());
  return entry;
}

absl::Status CheckFile(FileSystem& fs, const std::string& directory, const storage::FileEntry& entry, bool sums, const OnBytesRead& on_read) {
  const std::string path = JoinPath(directory, entry.path());
  const absl::StatusOr<int64_t> size = fs.FileSize(path);
  if (absl::IsNotFound(size.status())) return FileDamaged(directory, entry.path(), 0, entry.size_bytes(), "it is missing");
  LOCI_RETURN_IF_ERROR(size.status());
  const auto other_size = [&](int64_t bytes) {
    const int64_t offset = std::min(bytes, entry.size_bytes());
    return FileDamaged(directory, entry.path(), offset, std::max(bytes, entry.size_bytes()) - offset,
                       absl::StrCat("it has ", bytes, " bytes, the manifest says ", entry.size_bytes()));
  };
  if (*size != entry.size_bytes()) return other_size(*size);
  if (!sums) return absl::OkStatus();
  LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file, fs.Map(path));
  const std::string_view data = file->data();
  if (static_cast<int64_t>(data.size()) != entry.size_bytes()) return other_size(static_cast<int64_t>(data.size()));
  Sha256 hash;
  int64_t block = 0;
  for (int64_t offset = 0; offset < entry.size_bytes(); offset += kPieceBytes) {
    const std::string_view piece = data.substr(offset, kPieceBytes);
    for (size_t begin = 0; block < entry.block_xxh3_size() && begin < piece.size(); begin += entry.block_bytes(), ++block) {
      LOCI_RETURN_IF_ERROR(CheckBlock(directory, entry, block, piece.substr(begin, entry.block_bytes())));
    }
    hash.Update(piece);
    LOCI_RETURN_IF_ERROR(on_read(static_cast<int64_t>(piece.size())));
  }
  if (hash.HexDigest() != entry.sha256()) {
    return FileDamaged(directory, entry.path(), 0, entry.size_bytes(),
                       absl::StrCat("the SHA-256 of its ", entry.size_bytes(), " bytes is not the manifest's"));
  }
  return file->Check();
}

}  // namespace loci
