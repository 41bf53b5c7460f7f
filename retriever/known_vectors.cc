#include "retriever/known_vectors.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "encoder/encoder.h"

namespace loci {
namespace {

constexpr int64_t kRowsAtOnce = 256;

}  // namespace

absl::StatusOr<std::unique_ptr<KnownVectors>> KnownVectors::Scan(std::shared_ptr<const View> view, const RequestLimits& limits) {
  std::unique_ptr<KnownVectors> known(new KnownVectors(std::move(view)));
  const View& from = *known->view_;
  known->places_.reserve(static_cast<size_t>(from.generation().row_count() + from.overlay_row_count()));
  std::vector<ViewRow> rows;
  std::vector<loci::v1::Passage> passages;
  for (const bool in_overlay : {false, true}) {
    const int64_t row_count = in_overlay ? from.overlay_row_count() : from.generation().row_count();
    for (int64_t first = 0; first < row_count; first += kRowsAtOnce) {
      LOCI_RETURN_IF_ERROR(limits.Check(RealClock().NowMicros()));
      rows.clear();
      for (int64_t row = first; row < std::min(first + kRowsAtOnce, row_count); ++row) rows.push_back({in_overlay, row});
      if (const absl::Status read = from.Read(rows, &passages); !read.ok()) {
        LogWarning("ingest", absl::StrCat("vectors of rows from ", first, " on are not taken over: ", read.message()));
        continue;
      }
      for (size_t i = 0; i < rows.size(); ++i) {
        const ContentHash hash = HashContent(PassageText(passages[i].title(), passages[i].text()));
        known->places_.push_back({hash, in_overlay ? -1 - rows[i].row : rows[i].row});
      }
    }
  }
  std::sort(known->places_.begin(), known->places_.end());
  return known;
}

std::optional<ViewRow> KnownVectors::Find(const ContentHash& hash) const {
  const auto place = std::lower_bound(places_.begin(), places_.end(), Place{hash, 0});
  if (place == places_.end() || place->hash != hash) return std::nullopt;
  return ViewRow{place->row < 0, place->row < 0 ? -1 - place->row : place->row};
}

}  // namespace loci
