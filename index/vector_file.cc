#include "index/vector_file.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "index/matrix_header.h"

namespace loci {
namespace {

constexpr std::string_view kMagic = "LOCIVEC1";
constexpr size_t kFlushBytes = 1 << 20;

bool IsStorable(ElementType type) {
  return type == ElementType::kFloat32 || type == ElementType::kFloat16 || type == ElementType::kBfloat16;
}

}  // namespace

absl::StatusOr<std::unique_ptr<VectorFile>> VectorFile::Open(FileSystem& fs, const std::string& path) {
  auto file = std::unique_ptr<VectorFile>(new VectorFile());
  LOCI_ASSIGN_OR_RETURN(file->file_, fs.Map(path));
  const std::string_view data = file->file_->data();
  LOCI_ASSIGN_OR_RETURN(const MatrixHeader header, ParseMatrixHeader(path, data, kMagic, "a vector file"));
  if (header.type > 255 || !IsStorable(static_cast<ElementType>(header.type))) {
    return DamagedAt(path, 12, absl::StrCat("element type ", header.type));
  }
  file->element_type_ = static_cast<ElementType>(header.type);
  const int64_t row_bytes = header.dim * static_cast<int64_t>(ElementSize(file->element_type_));
  const int64_t body_bytes = static_cast<int64_t>(data.size()) - kMatrixHeaderBytes;
  if (header.rows < 0 || header.rows != body_bytes / row_bytes || body_bytes % row_bytes != 0) {
    return DamagedAt(path, 16, absl::StrCat("the header says ", header.rows, " rows of ", row_bytes, " bytes, the file has ", body_bytes,
                                          " bytes after the header"));
  }
  file->rows_ = header.rows;
  file->dim_ = header.dim;
  file->base_ = data.data() + kMatrixHeaderBytes;
  return file;
}

void VectorFile::CopyRow(int64_t i, float* out) const {
  const void* stored = row(i);
  switch (element_type_) {
    case ElementType::kFloat16: Float16ToFloat32(static_cast<const uint16_t*>(stored), out, dim_); return;
    case ElementType::kBfloat16: Bfloat16ToFloat32(static_cast<const uint16_t*>(stored), out, dim_); return;
    default: std::memcpy(out, stored, dim_ * sizeof(float)); return;
  }
}

absl::StatusOr<std::unique_ptr<VectorFileWriter>> VectorFileWriter::Create(FileSystem& fs, const std::string& path, int64_t rows,
                                                                           int dim, ElementType type) {
  if (rows < 0) return absl::InvalidArgumentError(absl::StrCat("a vector file can't have ", rows, " rows"));
  if (dim < 1 || dim > kMaxDim) {
    return absl::InvalidArgumentError(absl::StrCat("dimension ", dim, " is not in [1, ", kMaxDim, "]"));
  }
  if (!IsStorable(type)) {
    return absl::InvalidArgumentError(
        absl::StrCat("vectors can be stored as float32, float16 or bfloat16, not as ", AbslView(ElementTypeName(type))));
  }
  auto writer = std::unique_ptr<VectorFileWriter>(new VectorFileWriter());
  LOCI_ASSIGN_OR_RETURN(writer->file_, fs.NewWritableFile(path));
  writer->rows_ = rows;
  writer->dim_ = dim;
  writer->type_ = type;
  writer->buffer_ = EncodeMatrixHeader(kMagic, {.type = static_cast<uint32_t>(type), .rows = rows, .dim = dim});
  return writer;
}

absl::Status VectorFileWriter::Append(const float* vector) {
  if (appended_ == rows_) return absl::FailedPreconditionError(absl::StrCat("the vector file was announced with ", rows_, " rows"));
  const size_t offset = buffer_.size();
  buffer_.resize(offset + dim_ * ElementSize(type_));
  char* out = buffer_.data() + offset;
  // Every row has the same even size after a 64-byte header, so 2-byte elements are aligned.
  switch (type_) {
    case ElementType::kFloat16: Float32ToFloat16(vector, reinterpret_cast<uint16_t*>(out), dim_); break;
    case ElementType::kBfloat16: Float32ToBfloat16(vector, reinterpret_cast<uint16_t*>(out), dim_); break;
    default: std::memcpy(out, vector, dim_ * sizeof(float)); break;
  }
  ++appended_;
  if (buffer_.size() >= kFlushBytes) {
    LOCI_RETURN_IF_ERROR(file_->Append(buffer_));
    buffer_.clear();
  }
  return absl::OkStatus();
}

absl::Status VectorFileWriter::Finish() {
  if (appended_ != rows_) {
    return absl::FailedPreconditionError(absl::StrCat("the vector file has ", appended_, " of ", rows_, " rows"));
  }
  LOCI_RETURN_IF_ERROR(file_->Append(buffer_));
  buffer_.clear();
  LOCI_RETURN_IF_ERROR(file_->Sync());
  return file_->Close();
}

}  // namespace loci
