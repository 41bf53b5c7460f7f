#include "index/verified_vectors.h"

#include <string_view>
#include <utility>

#include "base/status_macros.h"
#include "index/file_sums.h"

namespace loci {

VerifiedVectors::VerifiedVectors(std::shared_ptr<const Generation> generation) : generation_(std::move(generation)) {
  for (const storage::FileEntry& entry : generation_->manifest().files()) {
    if (entry.path() == kVectorsFile && entry.block_xxh3_size() > 0) entry_ = &entry;
  }
  if (entry_ != nullptr) checked_.resize(static_cast<size_t>(entry_->block_xxh3_size()));
}

absl::Status VerifiedVectors::Copy(const View& view, ViewRow row, float* out) {
  if (!row.in_overlay && entry_ != nullptr) {
    const VectorFile& vectors = generation_->vectors();
    const std::string_view data = vectors.data();
    const int64_t begin = static_cast<const char*>(vectors.row(row.row)) - data.data();
    const int64_t end = static_cast<const char*>(vectors.row(row.row + 1)) - data.data();
    for (int64_t block = begin / entry_->block_bytes(); block * entry_->block_bytes() < end; ++block) {
      if (checked_[static_cast<size_t>(block)]) continue;
      LOCI_RETURN_IF_ERROR(CheckBlock(generation_->id(), *entry_, block, data.substr(static_cast<size_t>(block * entry_->block_bytes()),
                                                                                     static_cast<size_t>(entry_->block_bytes()))));
      checked_[static_cast<size_t>(block)] = true;
    }
  }
  return view.CopyVector(row, out);
}

}  // namespace loci
