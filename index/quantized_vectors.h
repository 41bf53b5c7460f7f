// vectors.int8: the rows of vectors.bin rounded to 8 bits, mapped read-only, for a first pass that decides which rows are scored (certified_scan.h).
//
// Format, little-endian:
//   file   := header panel*                     one panel for each 64 rows, the last may be begun
//   header := magic "LOCIQNT1" u32(format_version = 1) u32(0) i64(rows) i64(dim) u8[32](zero)              ; 64 bytes
//   panel  := f32 inverse_scale[64] f32 length[64] f32 error[64] u8 code[ceil(dim / 4)][64][4]             ; int8_kernels.h
// For row r with elements z: code = round(z * inverse_scale) + 128, in [1, 255]; length >= |code - 128|; error >= |z * inverse_scale - (code - 128)|
// (Euclidean, of all elements), infinite for a row that is not finite or longer than kMaxSquaredLength.
#ifndef LOCI_INDEX_QUANTIZED_VECTORS_H_
#define LOCI_INDEX_QUANTIZED_VECTORS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"
#include "index/int8_kernels.h"
#include "index/vector_file.h"

namespace loci {

// Immutable after construction.
class QuantizedVectors {
 public:
  // DATA_LOSS where the header is damaged or does not fit the size of the file.
  static absl::StatusOr<std::unique_ptr<QuantizedVectors>> Open(FileSystem& fs, const std::string& path);

  int64_t rows() const { return rows_; }
  int dim() const { return dim_; }
  int64_t panel_count() const { return (rows_ + kPanelRows - 1) / kPanelRows; }
  // Rows kPanelRows * i and those that follow.
  const PanelHeader* panel(int64_t i) const { return reinterpret_cast<const PanelHeader*>(base_ + i * PanelBytes(dim_)); }
  void Warm() const { file_->Warm(); }
  absl::Status Check() const { return file_->Check(); }  // MappedFile's, once panels were read.

 private:
  QuantizedVectors() = default;
  std::unique_ptr<MappedFile> file_;
  const char* base_ = nullptr;
  int64_t rows_ = 0;
  int dim_ = 0;
};

// Of a file of so many rows.
int64_t QuantizedVectorsBytes(int64_t rows, int dim);

// A vector [dim] rounded to 8 bits, each in [-127, 127]: as in the file.
struct QuantizedVector {
  float inverse_scale = 1;
  float length = 0;
  float error = 0;
};
QuantizedVector Quantize(const float* vector, int dim, int8_t* codes);

// Writes the file of these rows, synced. `progress(rows)` is called now and then; what it returns, unless OK, ends the work.
absl::Status WriteQuantizedVectors(FileSystem& fs, const VectorFile& vectors, const std::string& path,
                                   const std::function<absl::Status(int64_t done_rows)>& progress);

}  // namespace loci

#endif  // LOCI_INDEX_QUANTIZED_VECTORS_H_
