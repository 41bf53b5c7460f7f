// Copies vectors out of a generation, and no damaged one.
//
//   VerifiedVectors vectors(view->shared_generation());
//   LOCI_RETURN_IF_ERROR(vectors.Copy(*view, row, out));
#ifndef LOCI_INDEX_VERIFIED_VECTORS_H_
#define LOCI_INDEX_VERIFIED_VECTORS_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "index/generation.h"
#include "index/view.h"

namespace loci {

// What is copied into another generation gets new sums: damage that came after the generation was opened would pass as whole from then on.
// Each block of the vector file is compared with its sum when the first row of it is copied. Used by one thread at a time.
class VerifiedVectors {
 public:
  explicit VerifiedVectors(std::shared_ptr<const Generation> generation);

  const Generation& generation() const { return *generation_; }

  // View::CopyVector of a view of this generation. DATA_LOSS, reason FILE_DAMAGED, with `file`, `offset` and `bytes` of a damaged block.
  absl::Status Copy(const View& view, ViewRow row, float* out);

 private:
  const std::shared_ptr<const Generation> generation_;
  const storage::FileEntry* entry_ = nullptr;  // Of the vector file; null where it has no sums of blocks, as of older builds.
  std::vector<bool> checked_;                  // Blocks.
};

}  // namespace loci

#endif  // LOCI_INDEX_VERIFIED_VECTORS_H_
