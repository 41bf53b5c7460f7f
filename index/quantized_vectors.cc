#include "index/quantized_vectors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "index/passage_index.h"

namespace loci {
namespace {

constexpr char kMagic[] = "LOCIQNT1";
constexpr uint32_t kFormatVersion = 1;
constexpr int64_t kHeaderBytes = 64;
constexpr size_t kFlushBytes = 1 << 20;
constexpr float kMaxInverseScale = 0x1p100f;  // Products with any score stay what they are.

template <typename T>
void AppendRaw(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename T>
T LoadRaw(const char* data) {
  T value;
  std::memcpy(&value, data, sizeof(value));
  return value;
}

absl::Status Damaged(const std::string& path, int64_t offset, const std::string& what) {
  return absl::DataLossError(absl::StrCat(path, ": offset ", offset, ": ", what));
}

// Not less than the root of a sum of squares, which was made with float64's roundings.
float RootNotBelow(double sum_of_squares) {
  const double root = std::sqrt(sum_of_squares) * (1 + 1e-9);
  const float rounded = static_cast<float>(root);
  return static_cast<double>(rounded) >= root ? rounded : std::nextafter(rounded, std::numeric_limits<float>::infinity());
}

}  // namespace

QuantizedVector Quantize(const float* vector, int dim, int8_t* codes) {
  float largest = 0;
  double squared_length = 0;
  bool finite = true;
  for (int d = 0; d < dim; ++d) {
    finite = finite && std::isfinite(vector[d]);
    largest = std::max(largest, std::abs(vector[d]));
    squared_length += static_cast<double>(vector[d]) * vector[d];
  }
  if (!finite || squared_length > 1.01 * kMaxSquaredLength) {
    std::fill(codes, codes + dim, int8_t{0});
    return {.inverse_scale = 1, .length = 0, .error = std::numeric_limits<float>::infinity()};
  }
  QuantizedVector result;
  result.inverse_scale = 127.0f / largest < kMaxInverseScale ? 127.0f / largest : kMaxInverseScale;  // Also where that is infinite.
  double error = 0;
  int64_t length = 0;
  for (int d = 0; d < dim; ++d) {
    const float code = std::clamp(std::nearbyint(vector[d] * result.inverse_scale), -127.0f, 127.0f);
    const double rest = static_cast<double>(vector[d]) * result.inverse_scale - code;  // The product is exact.
    codes[d] = static_cast<int8_t>(code);
    length += int64_t{codes[d]} * codes[d];
    error += rest * rest;
  }
  result.length = RootNotBelow(static_cast<double>(length));
  result.error = RootNotBelow(error);
  return result;
}

int64_t QuantizedVectorsBytes(int64_t rows, int dim) { return kHeaderBytes + (rows + kPanelRows - 1) / kPanelRows * PanelBytes(dim); }

absl::StatusOr<std::unique_ptr<QuantizedVectors>> QuantizedVectors::Open(FileSystem& fs, const std::string& path) {
  auto file = std::unique_ptr<QuantizedVectors>(new QuantizedVectors());
  LOCI_ASSIGN_OR_RETURN(file->file_, fs.Map(path));
  const std::string_view data = file->file_->data();
  const int64_t size = static_cast<int64_t>(data.size());
  if (size < kHeaderBytes) return Damaged(path, 0, absl::StrCat("the file has ", size, " bytes, the header alone has ", kHeaderBytes));
  if (std::memcmp(data.data(), kMagic, 8) != 0) return Damaged(path, 0, "not a file of quantised vectors (magic)");
  const uint32_t version = LoadRaw<uint32_t>(data.data() + 8);
  if (version > kFormatVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": format version ", version, " is newer than ", kFormatVersion, ", the newest this build reads"));
  }
  if (version != kFormatVersion) return Damaged(path, 8, absl::StrCat("format version ", version));
  const int64_t rows = LoadRaw<int64_t>(data.data() + 16);
  const int64_t dim = LoadRaw<int64_t>(data.data() + 24);
  for (const int64_t i : {12, 13, 14, 15}) {
    if (data[static_cast<size_t>(i)] != 0) return Damaged(path, i, "a reserved byte is not zero");
  }
  for (int64_t i = 32; i < kHeaderBytes; ++i) {
    if (data[static_cast<size_t>(i)] != 0) return Damaged(path, i, "a reserved byte is not zero");
  }
  if (dim < 1 || dim > kMaxDim) return Damaged(path, 24, absl::StrCat("dimension ", dim, " is not in [1, ", kMaxDim, "]"));
  // No more rows than bytes, so that nothing overflows.
  if (rows < 0 || rows > size || QuantizedVectorsBytes(rows, static_cast<int>(dim)) != size) {
    return Damaged(path, 16, absl::StrCat("the header says ", rows, " rows of dimension ", dim, ", the file has ", size, " bytes"));
  }
  file->rows_ = rows;
  file->dim_ = static_cast<int>(dim);
  file->base_ = data.data() + kHeaderBytes;
  return file;
}

absl::Status WriteQuantizedVectors(FileSystem& fs, const VectorFile& vectors, const std::string& path,
                                   const std::function<absl::Status(int64_t done_rows)>& progress) {
  const int dim = vectors.dim();
  LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, fs.NewWritableFile(path));
  std::string buffer;
  buffer.append(kMagic, 8);
  AppendRaw<uint32_t>(kFormatVersion, &buffer);
  AppendRaw<uint32_t>(0, &buffer);
  AppendRaw<int64_t>(vectors.rows(), &buffer);
  AppendRaw<int64_t>(dim, &buffer);
  buffer.resize(kHeaderBytes, '\0');

  std::vector<float> row(static_cast<size_t>(dim));
  std::vector<int8_t> row_codes(static_cast<size_t>(dim));
  std::vector<uint8_t> codes(static_cast<size_t>(PanelBytes(dim)) - sizeof(PanelHeader));
  for (int64_t first = 0; first < vectors.rows(); first += kPanelRows) {
    PanelHeader header;
    std::fill(codes.begin(), codes.end(), uint8_t{128});
    for (int64_t r = 0; r < kPanelRows; ++r) {
      QuantizedVector figures;
      if (first + r < vectors.rows()) {
        vectors.CopyRow(first + r, row.data());
        figures = Quantize(row.data(), dim, row_codes.data());
        for (int d = 0; d < dim; ++d) {
          codes[static_cast<size_t>((d / kPanelElements * kPanelRows + r) * kPanelElements + d % kPanelElements)] =
              static_cast<uint8_t>(row_codes[static_cast<size_t>(d)] + 128);
        }
      }
      header.inverse_scale[r] = figures.inverse_scale;
      header.length[r] = figures.length;
      header.error[r] = figures.error;
    }
    AppendRaw(header, &buffer);
    buffer.append(reinterpret_cast<const char*>(codes.data()), codes.size());
    if (buffer.size() >= kFlushBytes) {
      LOCI_RETURN_IF_ERROR(file->Append(buffer));
      buffer.clear();
      LOCI_RETURN_IF_ERROR(vectors.Check());
      if (progress != nullptr) LOCI_RETURN_IF_ERROR(progress(std::min(first + kPanelRows, vectors.rows())));
    }
  }
  LOCI_RETURN_IF_ERROR(file->Append(buffer));
  LOCI_RETURN_IF_ERROR(vectors.Check());
  LOCI_RETURN_IF_ERROR(file->Sync());
  return file->Close();
}

}  // namespace loci
