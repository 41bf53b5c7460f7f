#include "index/matrix_header.h"

#include "absl/strings/str_cat.h"
#include "base/strings.h"
#include "base/vector_type.h"
#include "index/raw_bytes.h"

namespace loci {
namespace {

constexpr uint32_t kFormatVersion = 1;
constexpr int64_t kReservedOffset = 32;

}  // namespace

absl::Status DamagedAt(const std::string& path, int64_t offset, const std::string& what) {
  return absl::DataLossError(absl::StrCat(path, ": offset ", offset, ": ", what));
}

std::string EncodeMatrixHeader(std::string_view magic, const MatrixHeader& header) {
  std::string bytes(magic);
  AppendRaw<uint32_t>(kFormatVersion, &bytes);
  AppendRaw<uint32_t>(header.type, &bytes);
  AppendRaw<int64_t>(header.rows, &bytes);
  AppendRaw<int64_t>(header.dim, &bytes);
  bytes.resize(kMatrixHeaderBytes, '\0');
  return bytes;
}

absl::StatusOr<MatrixHeader> ParseMatrixHeader(const std::string& path, std::string_view data, std::string_view magic,
                                               std::string_view kind) {
  if (static_cast<int64_t>(data.size()) < kMatrixHeaderBytes) {
    return DamagedAt(path, 0, absl::StrCat("the file has ", data.size(), " bytes, the header alone has ", kMatrixHeaderBytes));
  }
  if (data.substr(0, magic.size()) != magic) return DamagedAt(path, 0, absl::StrCat("not ", AbslView(kind), " (magic)"));
  const uint32_t version = LoadRaw<uint32_t>(data.data() + 8);
  if (version > kFormatVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": format version ", version, " is newer than ", kFormatVersion, ", the newest this build reads"));
  }
  if (version != kFormatVersion) return DamagedAt(path, 8, absl::StrCat("format version ", version));
  MatrixHeader header;
  header.type = LoadRaw<uint32_t>(data.data() + 12);
  header.rows = LoadRaw<int64_t>(data.data() + 16);
  const int64_t dim = LoadRaw<int64_t>(data.data() + 24);
  if (dim < 1 || dim > kMaxDim) return DamagedAt(path, 24, absl::StrCat("dimension ", dim, " is not in [1, ", kMaxDim, "]"));
  header.dim = static_cast<int>(dim);
  for (int64_t i = kReservedOffset; i < kMatrixHeaderBytes; ++i) {
    if (data[static_cast<size_t>(i)] != 0) return DamagedAt(path, i, "a reserved byte is not zero");
  }
  return header;
}

}  // namespace loci
