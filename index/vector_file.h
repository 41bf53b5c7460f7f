// vectors.bin: the vectors of a generation, mapped read-only.
//
// Format, little-endian:
//   header  := magic "LOCIVEC1" u32(format_version = 1) u32(element_type) i64(rows) i64(dim) u8[32](zero)   ; 64 bytes
//   file    := header row*                                                          ; row := dim elements, no padding
// element_type is ElementType's value: 1 float32, 2 float16, 3 bfloat16. Rows are in the order of passage ids (bytewise).
#ifndef LOCI_INDEX_VECTOR_FILE_H_
#define LOCI_INDEX_VECTOR_FILE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/file.h"
#include "base/vector_type.h"

namespace loci {

// Immutable after construction.
class VectorFile {
 public:
  // DATA_LOSS where the header is damaged or does not fit the size of the file.
  static absl::StatusOr<std::unique_ptr<VectorFile>> Open(FileSystem& fs, const std::string& path);

  int64_t rows() const { return rows_; }
  int dim() const { return dim_; }
  ElementType element_type() const { return element_type_; }
  std::string_view data() const { return file_->data(); }  // The whole file, header included.
  // Row `i` as stored, [dim].
  const void* row(int64_t i) const { return base_ + i * dim_ * static_cast<int64_t>(ElementSize(element_type_)); }
  // Row `i` as float32, [dim].
  void CopyRow(int64_t i, float* out) const;
  void Warm() const { file_->Warm(); }
  absl::Status Check() const { return file_->Check(); }  // MappedFile's, once rows were read.

 private:
  VectorFile() = default;
  std::unique_ptr<MappedFile> file_;
  const char* base_ = nullptr;
  int64_t rows_ = 0;
  int dim_ = 0;
  ElementType element_type_ = ElementType::kFloat32;
};

// Writes a vector file row by row. The header is written first with the final number of rows, which must be known.
// Used by one thread: the builder's.
class VectorFileWriter {
 public:
  static absl::StatusOr<std::unique_ptr<VectorFileWriter>> Create(FileSystem& fs, const std::string& path, int64_t rows, int dim,
                                                                  ElementType type);
  absl::Status Append(const float* vector);  // [dim]; rounded to the file's type.
  absl::Status Finish();                     // FAILED_PRECONDITION unless all rows came. Syncs and closes.

 private:
  VectorFileWriter() = default;
  std::unique_ptr<WritableFile> file_;
  std::string buffer_;
  int64_t rows_ = 0;
  int64_t appended_ = 0;
  int dim_ = 0;
  ElementType type_ = ElementType::kFloat32;
};

}  // namespace loci

#endif  // LOCI_INDEX_VECTOR_FILE_H_
