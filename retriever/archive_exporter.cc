#include "retriever/archive_exporter.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/status_macros.h"

namespace loci {
namespace {

constexpr int64_t kBlockBytes = 1 << 20;   // A block is ended once it has so many.
constexpr size_t kBlockPassages = 2'048;
constexpr size_t kReadRows = 64;           // Read from the body at once.

storage::ArchiveHeader HeaderOf(const View& view, int64_t now_unix_us) {
  const storage::Manifest& manifest = view.generation().manifest();
  storage::ArchiveHeader header;
  header.set_store(manifest.store());
  header.set_generation(manifest.generation());
  header.set_revision(view.revision());
  header.set_query_fingerprint(manifest.query_fingerprint());
  header.set_passage_fingerprint(manifest.passage_fingerprint());
  header.set_dim(view.dim());
  header.set_vector_type(manifest.vector_type());
  header.set_metric(manifest.metric());
  header.set_index(AskedIndex(manifest));
  header.set_passage_count(view.passage_count());
  header.set_exported_unix_us(now_unix_us);
  for (std::string& name : view.Precisions().Names()) header.add_encoder_precisions(std::move(name));
  return header;
}

}  // namespace

ArchiveExporter::ArchiveExporter(std::shared_ptr<const View> view, int64_t now_unix_us)
    : view_(std::move(view)), vectors_(view_->shared_generation()), writer_(HeaderOf(*view_, now_unix_us)) {}

absl::StatusOr<std::string> ArchiveExporter::Next(const RequestLimits& limits) {
  LOCI_RETURN_IF_ERROR(limits.Check(RealClock().NowMicros()));
  if (part_ == Part::kEnded) return std::string();
  if (part_ == Part::kBlocks) {
    LOCI_ASSIGN_OR_RETURN(std::string block, NextBlock(limits));
    if (!block.empty()) return block;
    part_ = Part::kEnded;
    if (done_count_ != view_->passage_count()) {
      return ErrorWithReason(
          absl::DataLossError(absl::StrCat("generation ", view_->generation().id(), " at revision ", view_->revision(), " has ", done_count_,
                                           " passages, it should have ", view_->passage_count())),
          "PASSAGES_MISSING", {{"generation", view_->generation().id()}});
    }
    return writer_.End();
  }
  part_ = Part::kBlocks;
  overlay_.reserve(static_cast<size_t>(view_->overlay_count()));
  for (int64_t row = 0; row < view_->overlay_row_count(); ++row) {
    if (view_->IsAlive({true, row})) overlay_.push_back(row);
  }
  std::sort(overlay_.begin(), overlay_.end(), [this](int64_t a, int64_t b) { return view_->overlay_id(a) < view_->overlay_id(b); });
  return writer_.Begin();
}

absl::Status ArchiveExporter::FillBody(const RequestLimits& limits) {
  const int64_t row_count = view_->generation().row_count();
  while (body_.empty() && next_body_row_ < row_count) {
    LOCI_RETURN_IF_ERROR(limits.Check(RealClock().NowMicros()));
    std::vector<ViewRow> rows;
    for (; rows.size() < kReadRows && next_body_row_ < row_count; ++next_body_row_) {
      if (view_->IsAlive({false, next_body_row_})) rows.push_back({false, next_body_row_});
    }
    std::vector<loci::v1::Passage> passages;
    LOCI_RETURN_IF_ERROR(view_->Read(rows, &passages));
    for (size_t i = 0; i < rows.size(); ++i) body_.push_back({rows[i].row, std::move(passages[i])});
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ArchiveExporter::NextBlock(const RequestLimits& limits) {
  const size_t dim = static_cast<size_t>(view_->dim());
  std::vector<loci::v1::Passage> passages;
  std::vector<float> vectors;
  int64_t size_bytes = 0;
  while (size_bytes < kBlockBytes && passages.size() < kBlockPassages) {
    LOCI_RETURN_IF_ERROR(FillBody(limits));
    const bool have_overlay = next_overlay_ < overlay_.size();
    if (body_.empty() && !have_overlay) break;
    ViewRow row;
    if (have_overlay && (body_.empty() || view_->overlay_id(overlay_[next_overlay_]) < body_.front().passage.id())) {
      row = {true, overlay_[next_overlay_++]};
      std::vector<loci::v1::Passage> written;
      LOCI_RETURN_IF_ERROR(view_->Read(std::vector<ViewRow>{row}, &written));
      passages.push_back(std::move(written[0]));
    } else {
      row = {false, body_.front().row};
      passages.push_back(std::move(body_.front().passage));
      body_.pop_front();
    }
    vectors.resize(vectors.size() + dim);
    LOCI_RETURN_IF_ERROR(vectors_.Copy(*view_, row, vectors.data() + vectors.size() - dim));
    size_bytes += static_cast<int64_t>(passages.back().ByteSizeLong() + dim * ElementSize(view_->generation().vectors().element_type()));
  }
  if (passages.empty()) return std::string();
  done_count_ += static_cast<int64_t>(passages.size());
  return writer_.Block(passages, vectors.data());
}

}  // namespace loci
