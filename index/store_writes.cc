// Store: writes.
#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/vector_type.h"
#include "index/limits.h"
#include "index/replay.h"
#include "index/store.h"
#include "index/store_state.h"

namespace loci {
namespace {


// The last write to each id, in the order of these.
std::vector<PassageWrite> LastWrites(std::vector<PassageWrite> writes) {
  std::unordered_map<std::string_view, size_t> last;
  for (size_t i = 0; i < writes.size(); ++i) last[writes[i].id] = i;
  if (last.size() == writes.size()) return writes;
  std::vector<bool> keep(writes.size());
  for (const auto& [id, i] : last) keep[i] = true;
  std::vector<PassageWrite> kept;
  for (size_t i = 0; i < writes.size(); ++i) {
    if (keep[i]) kept.push_back(std::move(writes[i]));
  }
  return kept;
}

storage::WriteVector MakeWriteVector(const std::string& passage_half, std::span<const float> values, VectorPrecision precision) {
  storage::WriteVector vector;
  vector.set_passage_fingerprint(passage_half);
  if (precision != VectorPrecision::kUnknown) vector.set_encoder_precision(std::string(VectorPrecisionName(precision)));
  vector.set_float32(values.data(), values.size_bytes());
  return vector;
}

absl::Status CheckVector(const std::string& id, std::span<const float> vector, int dim, ElementType type) {
  if (vector.size() != static_cast<size_t>(dim)) {
    return absl::InvalidArgumentError(absl::StrCat("the vector of passage ", id, " has dimension ", vector.size(),
                                                   ", those of the active generation have ", dim));
  }
  const float limit = LargestStorable(type);
  for (size_t i = 0; i < vector.size(); ++i) {
    if (!(std::abs(vector[i]) <= limit)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the vector of passage ", id, " has ", vector[i], " at position ", i, ", the limit is ", limit));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckWrite(const PassageWrite& write, int dim, ElementType type) {
  if (write.id.empty() || write.id.size() > kMaxStoredIdBytes || write.id.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("the id of a passage has ", write.id.size(), " bytes; it must have 1 to ", kMaxStoredIdBytes, ", none of them NUL"));
  }
  if (write.deleted) return absl::OkStatus();
  if (write.passage.id() != write.id) {
    return absl::InvalidArgumentError(absl::StrCat("the write of passage ", write.id, " brings passage ", write.passage.id()));
  }
  return CheckVector(write.id, write.vector, dim, type);
}

}  // namespace

// A view of the same revision and contents over an overlay without what was replaced or deleted; published. Readers keep the old
// overlay through their views.
absl::StatusOr<std::shared_ptr<const View>> Store::State::CompactOverlay(const View& before) {
  const auto is_in_body = [&](std::string_view id) -> absl::StatusOr<bool> {
    LOCI_ASSIGN_OR_RETURN(const std::optional<int64_t> row, before.generation().passages().FindRow(id));
    return row.has_value();
  };
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<Overlay> compacted, overlay->Compacted(before.hidden_overlay_, is_in_body));
  auto after = std::make_shared<const View>(before.shared_generation(), compacted, compacted->row_count(), before.hidden_body_, RowMask(),
                                            before.revision());
  overlay = std::move(compacted);
  Publish(after, before.revision());
  return after;
}

absl::StatusOr<WriteResult> Store::Write(std::vector<PassageWrite> writes) {
  std::shared_ptr<const View> before = view();
  if (before == nullptr) {
    LOCI_RETURN_IF_ERROR(active_error());
    return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("store ", state_->name, " has no active generation to write to")),
                           "NO_ACTIVE_GENERATION", {{"store", state_->name}});
  }
  for (const PassageWrite& write : writes) LOCI_RETURN_IF_ERROR(CheckWrite(write, before->dim(), before->generation().vectors().element_type()));
  WriteResult result;
  if (writes.empty()) {
    result.view = before;
    return result;
  }
  writes = LastWrites(std::move(writes));
  LOCI_RETURN_IF_ERROR(state_->current.Settle());

  const int64_t hidden = before->hidden_overlay_.hidden_count();
  // It looks at each row and each deletion that stays: what it frees must be worth that.
  if (hidden > std::max(state_->options.max_hidden_overlay_rows, before->overlay_count() + state_->overlay->deleted_id_count())) {
    LOCI_ASSIGN_OR_RETURN(before, state_->CompactOverlay(*before));
  }

  // All that can fail comes before the log, so that what is logged becomes visible.
  std::vector<bool> was_there(writes.size());
  std::vector<int64_t> hide_body, hide_overlay;
  for (size_t i = 0; i < writes.size(); ++i) {
    LOCI_ASSIGN_OR_RETURN(const std::optional<ViewRow> row, before->Find(writes[i].id));
    if (!row) continue;
    was_there[i] = true;
    (row->in_overlay ? hide_overlay : hide_body).push_back(row->row);
    result.deleted_count += writes[i].deleted;
  }
  const int64_t revision = state_->TakeRevision();
  std::vector<storage::WriteRecord> records(writes.size());
  for (size_t i = 0; i < writes.size(); ++i) {
    records[i].set_revision(revision);
    records[i].set_id(writes[i].id);
    records[i].set_deleted(writes[i].deleted);
    if (writes[i].deleted) continue;
    *records[i].mutable_passage() = std::move(writes[i].passage);
    const std::string& half = before->generation().manifest().passage_fingerprint();
    *records[i].add_vectors() = MakeWriteVector(half, writes[i].vector, writes[i].precision);
    for (const OtherVector& other : writes[i].other_vectors) {
      if (other.passage_half != half) *records[i].add_vectors() = MakeWriteVector(other.passage_half, other.vector, other.precision);
    }
  }
  LOCI_RETURN_IF_ERROR(state_->log->Append(revision, records));

  for (size_t i = 0; i < writes.size(); ++i) {
    if (!writes[i].deleted) {
      state_->overlay->Append(revision, records[i].passage(), writes[i].vector.data(), writes[i].precision);
    } else if (was_there[i]) {
      state_->overlay->Delete(revision, writes[i].id);
    }
  }
  result.view = std::make_shared<const View>(before->shared_generation(), state_->overlay, state_->overlay->row_count(),
                                             before->hidden_body_.WithHidden(hide_body),
                                             before->hidden_overlay_.WithHidden(hide_overlay), revision);
  state_->Publish(result.view, revision);
  return result;
}

absl::StatusOr<std::vector<WritePlace>> Store::FindUnencoded(const Generation& generation, int64_t after, int64_t upto, bool all) const {
  return loci::FindUnencoded(*state_->log, after, upto, generation, all);
}

absl::StatusOr<int64_t> Store::CountRequests(int64_t after, int64_t upto) const { return state_->log->CountRequests(after, upto); }

absl::StatusOr<std::vector<loci::v1::Passage>> Store::ReadUpserts(std::span<const WritePlace> places) const {
  std::vector<loci::v1::Passage> passages;
  // Requests that are asked for in one go, others between them being passed over.
  constexpr int64_t kMostBetween = 64;
  for (size_t first = 0; first < places.size();) {
    size_t end = first + 1;
    while (end < places.size() && places[end].revision - places[end - 1].revision <= kMostBetween) ++end;
    WritePlace place;
    size_t next = first;
    LOCI_RETURN_IF_ERROR(state_->log->Read(places[first].revision - 1, places[end - 1].revision, [&](const storage::WriteRecord& record) {
      place = {record.revision(), record.revision() == place.revision ? place.ordinal + 1 : 0};
      if (next == end || place != places[next]) return absl::OkStatus();
      passages.push_back(record.passage());
      ++next;
      return absl::OkStatus();
    }));
    if (next != end) {
      return absl::DataLossError(absl::StrCat("write ", places[next].ordinal, " of revision ", places[next].revision, " is not in the log"));
    }
    first = end;
  }
  return passages;
}

absl::Status Store::AddVectors(const Generation& generation, std::span<const WritePlace> places, const float* vectors,
                               VectorPrecision precision) {
  const size_t dim = static_cast<size_t>(generation.dim());
  std::vector<storage::WriteVector> added;
  added.reserve(places.size());
  for (size_t i = 0; i < places.size(); ++i) {
    LOCI_RETURN_IF_ERROR(CheckVector(absl::StrCat("of write ", places[i].ordinal, " of revision ", places[i].revision), {vectors + i * dim, dim},
                                     generation.dim(), generation.vectors().element_type()));
    added.push_back(MakeWriteVector(generation.manifest().passage_fingerprint(), {vectors + i * dim, dim}, precision));
  }
  return state_->log->AddVectors(places, added);
}

}  // namespace loci
