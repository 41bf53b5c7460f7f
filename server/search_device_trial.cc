#include "server/search_device_trial.h"

#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/vector_type.h"
#include "index/exact_index.h"
#include "index/vector_file.h"

namespace loci {
namespace {

constexpr int kDim = 96;
constexpr int kTopK = 10;
constexpr int kQueries = 5;
// As many as the device is for, from so few on: others it leaves to the CPU.
constexpr int64_t kLeastRows = 1024;
constexpr int64_t kMostRows = int64_t{1} << 20;

// In [-1, 1).
void FillWithNoise(std::mt19937_64& random, std::vector<float>* values) {
  for (float& value : *values) value = static_cast<float>(static_cast<int32_t>(random() >> 32)) * 0x1p-31f;
}

// In memory that has no name, and is gone with the last who holds it.
absl::StatusOr<std::shared_ptr<const VectorFile>> MakeUpVectors(int64_t rows, ElementType type) {
  const int fd = memfd_create("loci-search-trial", MFD_CLOEXEC);
  if (fd < 0) return absl::InternalError(absl::StrCat("no memory can be had for made-up vectors: ", std::strerror(errno)));
  const std::string path = absl::StrCat("/proc/self/fd/", fd);
  const auto make = [&]() -> absl::StatusOr<std::shared_ptr<const VectorFile>> {
    FileSystem& fs = PosixFileSystem();
    LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<VectorFileWriter> writer, VectorFileWriter::Create(fs, path, rows, kDim, type));
    std::mt19937_64 random(static_cast<uint64_t>(type));
    std::vector<float> row(kDim);
    for (int64_t r = 0; r < rows; ++r) {
      FillWithNoise(random, &row);
      LOCI_RETURN_IF_ERROR(writer->Append(row.data()));
    }
    LOCI_RETURN_IF_ERROR(writer->Finish());
    LOCI_ASSIGN_OR_RETURN(std::unique_ptr<VectorFile> vectors, VectorFile::Open(fs, path));
    return std::shared_ptr<const VectorFile>(std::move(vectors));
  };
  absl::StatusOr<std::shared_ptr<const VectorFile>> vectors = make();
  close(fd);
  return vectors;
}

absl::Status TryType(ExactPlacer& placer, int64_t rows, ElementType type) {
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<const VectorFile> vectors, MakeUpVectors(rows, type));
  const auto cpu = std::make_shared<const ExactIndex>(vectors, /*pool=*/nullptr);
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<const DeviceExactIndex> device, placer.Place(vectors, /*codes=*/nullptr, cpu, /*progress=*/nullptr));

  std::mt19937_64 random(static_cast<uint64_t>(rows));
  std::vector<float> queries(size_t{kQueries} * kDim);
  FillWithNoise(random, &queries);
  vectors->CopyRow(rows - 1, queries.data());  // One of them is a row.
  const IndexSearchOptions options{.top_k = kTopK};
  std::vector<RowHit> expected(size_t{kQueries} * kTopK), found(expected.size());
  LOCI_RETURN_IF_ERROR(cpu->Search({queries.data(), kQueries, kDim}, options, RowMask(), expected.data()));
  LOCI_RETURN_IF_ERROR(device->Search({queries.data(), kQueries, kDim}, options, RowMask(), found.data()));
  const std::string what = absl::StrCat(rows, " made-up vectors of ", kDim, " ", AbslView(ElementTypeName(type)));
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i].row == expected[i].row && std::bit_cast<uint32_t>(found[i].score) == std::bit_cast<uint32_t>(expected[i].score)) continue;
    return absl::FailedPreconditionError(absl::StrCat("it does not find what the CPU finds: among ", what, ", hit ", i % kTopK, " of query ", i / kTopK,
                                                      " is row ", found[i].row, " of score ", found[i].score, ", on the CPU row ", expected[i].row,
                                                      " of score ", expected[i].score));
  }
  if (device->counts().answered == 0) return absl::FailedPreconditionError(absl::StrCat("it left each query among ", what, " to the CPU"));
  return absl::OkStatus();
}

}  // namespace

absl::Status TrySearchDevice(ExactPlacer& placer) {
  int64_t rows = kLeastRows;
  while (rows < kMostRows && !placer.IsFor(rows, kDim)) rows *= 2;
  for (const ElementType type : {ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16}) {
    const absl::Status status = TryType(placer, rows, type);
    if (absl::IsResourceExhausted(status)) {
      LogWarning("search_device", absl::StrCat(placer.device(), " has no room to try exact search there: ", status.message()));
      return absl::OkStatus();
    }
    LOCI_RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

}  // namespace loci
