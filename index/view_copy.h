// A view's passages, one after the other, and with their vectors into a build.
#ifndef LOCI_INDEX_VIEW_COPY_H_
#define LOCI_INDEX_VIEW_COPY_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "index/generation.h"
#include "index/view.h"

namespace loci {

// Adds what the view can find to `builder`, of its element type: the vectors are then stored bit for bit as they are scored in the view, and
// what they were computed in is recorded.
// DATA_LOSS as from VerifiedVectors where the view's own are damaged.
// `check(done)` is called before each few hundred passages, with how many there were before; its error ends the copy.
absl::Status CopyView(const View& view, GenerationBuilder& builder, const std::function<absl::Status(int64_t done)>& check);

// Calls `visit` with what the view can find, at most `batch` at a time, body first: where the passages lie, and they themselves, which `visit` may
// take. Its error ends it; also those of View::Read.
absl::Status VisitPassages(const View& view, size_t batch,
                           const std::function<absl::Status(const std::vector<ViewRow>& rows, std::vector<loci::v1::Passage>& passages)>& visit);

}  // namespace loci

#endif  // LOCI_INDEX_VIEW_COPY_H_
