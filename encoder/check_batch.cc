#include "encoder/check_batch.h"

#include "absl/strings/str_cat.h"

namespace loci {

absl::Status CheckBatch(const PackedBatch& batch, int max_length, int vocabulary_size) {
  const std::vector<int32_t>& offsets = batch.offsets;
  if (offsets.empty() || offsets[0] != 0 || offsets.back() != batch.token_count()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the batch's offsets do not run from 0 to its ", batch.token_count(), " tokens"));
  }
  for (size_t i = 0; i + 1 < offsets.size(); ++i) {
    const int64_t length = static_cast<int64_t>(offsets[i + 1]) - offsets[i];
    if (length < 1) return absl::InvalidArgumentError(absl::StrCat("sequence ", i, " has ", length, " tokens, the least is 1"));
    if (length > max_length) {
      return absl::InvalidArgumentError(absl::StrCat("sequence ", i, " has ", length, " tokens, the limit is ", max_length));
    }
  }
  for (size_t t = 0; t < batch.token_ids.size(); ++t) {
    const int32_t id = batch.token_ids[t];
    if (id < 0 || id >= vocabulary_size) {
      return absl::InvalidArgumentError(absl::StrCat("token ", t, " has the id ", id, ", the vocabulary has ", vocabulary_size));
    }
  }
  return absl::OkStatus();
}

}  // namespace loci
