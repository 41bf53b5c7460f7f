#include "index/quantized_vectors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "index/matrix_header.h"
#include "index/passage_index.h"
#include "index/quantized_limits.h"
#include "index/raw_bytes.h"

namespace loci {
namespace {

constexpr std::string_view kMagic = "LOCIQNT1";
constexpr size_t kFlushBytes = 1 << 20;
static_assert(kMaxQuantizedSquaredLength > kMaxSquaredLength && kMaxQuantizedSquaredLength < 1.02 * kMaxSquaredLength);

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
  if (!finite || squared_length > kMaxQuantizedSquaredLength) {
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

int64_t QuantizedVectorsBytes(int64_t rows, int dim) { return kMatrixHeaderBytes + (rows + kPanelRows - 1) / kPanelRows * PanelBytes(dim); }

absl::StatusOr<std::unique_ptr<QuantizedVectors>> QuantizedVectors::Open(FileSystem& fs, const std::string& path) {
  auto file = std::unique_ptr<QuantizedVectors>(new QuantizedVectors());
  LOCI_ASSIGN_OR_RETURN(file->file_, fs.Map(path));
  const std::string_view data = file->file_->data();
  const int64_t size = static_cast<int64_t>(data.size());
  LOCI_ASSIGN_OR_RETURN(const MatrixHeader header, ParseMatrixHeader(path, data, kMagic, "a file of quantised vectors"));
  for (const int64_t i : {12, 13, 14, 15}) {  // The type's place, which this format does not use.
    if (data[static_cast<size_t>(i)] != 0) return DamagedAt(path, i, "a reserved byte is not zero");
  }
  // No more rows than bytes, so that nothing overflows.
  if (header.rows < 0 || header.rows > size || QuantizedVectorsBytes(header.rows, header.dim) != size) {
    return DamagedAt(path, 16, absl::StrCat("the header says ", header.rows, " rows of dimension ", header.dim, ", the file has ", size, " bytes"));
  }
  file->rows_ = header.rows;
  file->dim_ = header.dim;
  file->base_ = data.data() + kMatrixHeaderBytes;
  return file;
}

absl::Status WriteQuantizedVectors(FileSystem& fs, const VectorFile& vectors, const std::string& path,
                                   const std::function<absl::Status(int64_t done_rows)>& progress) {
  const int dim = vectors.dim();
  LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, fs.NewWritableFile(path));
  std::string buffer = EncodeMatrixHeader(kMagic, {.rows = vectors.rows(), .dim = dim});

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
