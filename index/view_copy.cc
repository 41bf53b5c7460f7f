#include "index/view_copy.h"

#include <vector>

#include "base/status_macros.h"
#include "index/verified_vectors.h"

namespace loci {

absl::Status VisitPassages(const View& view, size_t batch,
                           const std::function<absl::Status(const std::vector<ViewRow>& rows, std::vector<loci::v1::Passage>& passages)>& visit) {
  std::vector<ViewRow> rows;
  std::vector<loci::v1::Passage> passages;
  const auto give = [&]() -> absl::Status {
    if (rows.empty()) return absl::OkStatus();
    LOCI_RETURN_IF_ERROR(view.Read(rows, &passages));
    LOCI_RETURN_IF_ERROR(visit(rows, passages));
    rows.clear();
    return absl::OkStatus();
  };
  for (const bool in_overlay : {false, true}) {
    const int64_t row_count = in_overlay ? view.overlay_row_count() : view.generation().row_count();
    for (int64_t row = 0; row < row_count; ++row) {
      if (!view.IsAlive({in_overlay, row})) continue;
      rows.push_back({in_overlay, row});
      if (rows.size() == batch) LOCI_RETURN_IF_ERROR(give());
    }
  }
  return give();
}

absl::Status CopyView(const View& view, GenerationBuilder& builder, const std::function<absl::Status(int64_t done)>& check) {
  constexpr size_t kBatch = 256;
  std::vector<float> vectors(kBatch * static_cast<size_t>(view.dim()));
  VerifiedVectors verified(view.shared_generation());
  int64_t done = 0;
  builder.AddPrecisions(view.Precisions());
  return VisitPassages(view, kBatch, [&](const std::vector<ViewRow>& rows, std::vector<loci::v1::Passage>& passages) -> absl::Status {
    LOCI_RETURN_IF_ERROR(check(done));
    for (size_t i = 0; i < rows.size(); ++i) {
      LOCI_RETURN_IF_ERROR(verified.Copy(view, rows[i], vectors.data() + i * static_cast<size_t>(view.dim())));
    }
    LOCI_RETURN_IF_ERROR(builder.Add(passages, vectors.data()));
    done += static_cast<int64_t>(rows.size());
    return absl::OkStatus();
  });
}

}  // namespace loci
