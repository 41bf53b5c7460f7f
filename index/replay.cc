#include "index/replay.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "base/strings.h"

namespace loci {

namespace {

constexpr char kEncodeFirst[] = ": they must be encoded first";

// The vector of `record` that is of the generation's passage half; null where it has none.
absl::StatusOr<const storage::WriteVector*> FindVector(const storage::WriteRecord& record, const Generation& generation) {
  const std::string& passage_half = generation.manifest().passage_fingerprint();
  const storage::WriteVector* found = nullptr;
  for (const storage::WriteVector& candidate : record.vectors()) {
    if (candidate.passage_fingerprint() == passage_half) found = &candidate;
  }
  if (found != nullptr && found->float32().size() != sizeof(float) * static_cast<size_t>(generation.dim())) {
    return absl::DataLossError(absl::StrCat("a logged vector of passage half ", passage_half, " has ", found->float32().size(),
                                            " bytes, the generation's dimension is ", generation.dim()));
  }
  return found;
}

// The number, in their order, of the last write to each id.
absl::StatusOr<std::unordered_map<std::string, int64_t>> LastWrites(const WriteLog& log, int64_t after, int64_t upto) {
  std::unordered_map<std::string, int64_t> last_write;
  int64_t number = 0;
  LOCI_RETURN_IF_ERROR(log.Read(after, upto, [&](const storage::WriteRecord& record) {
    last_write[record.id()] = number++;
    return absl::OkStatus();
  }));
  return last_write;
}

}  // namespace

absl::Status WritesNeedEncoding(int64_t count, const storage::Manifest& manifest, std::string_view rest) {
  return ErrorWithReason(
      absl::FailedPreconditionError(absl::StrCat(count, " writes have no vector of passage half ", manifest.passage_fingerprint(),
                                                 ", which generation ", manifest.generation(), " needs", AbslView(rest))),
      "WRITES_NEED_ENCODING",
      {{"count", absl::StrCat(count)}, {"generation", manifest.generation()}, {"passage_fingerprint", manifest.passage_fingerprint()}});
}

absl::StatusOr<std::vector<WritePlace>> FindUnencoded(const WriteLog& log, int64_t after, int64_t upto, const Generation& generation, bool all) {
  std::unordered_map<std::string, int64_t> last_write;
  if (!all) {
    LOCI_ASSIGN_OR_RETURN(last_write, LastWrites(log, after, upto));
  }
  std::vector<WritePlace> places;
  WritePlace place{.revision = after};
  int64_t number = 0;
  LOCI_RETURN_IF_ERROR(log.Read(after, upto, [&](const storage::WriteRecord& record) -> absl::Status {
    place = {record.revision(), record.revision() == place.revision ? place.ordinal + 1 : 0};
    const bool is_laid = all || last_write[record.id()] == number;
    ++number;
    if (record.deleted() || !is_laid) return absl::OkStatus();
    LOCI_ASSIGN_OR_RETURN(const storage::WriteVector* const found, FindVector(record, generation));
    if (found == nullptr) places.push_back(place);
    return absl::OkStatus();
  }));
  return places;
}

absl::StatusOr<ReplayedWrites> ReplayWrites(const WriteLog& log, int64_t after, int64_t upto, const Generation& generation) {
  const int dim = generation.dim();
  ReplayedWrites result;
  result.overlay = std::make_shared<Overlay>(dim, generation.vectors().element_type());

  // First which write is the last one to its id, so that what was replaced takes no memory.
  LOCI_ASSIGN_OR_RETURN(auto last_write, LastWrites(log, after, upto));

  std::vector<int64_t> hidden_body;
  std::vector<float> vector(static_cast<size_t>(dim));
  int64_t need_encoding = 0, number = 0;
  LOCI_RETURN_IF_ERROR(log.Read(after, upto, [&](const storage::WriteRecord& record) -> absl::Status {
    if (last_write[record.id()] != number++) return absl::OkStatus();
    LOCI_ASSIGN_OR_RETURN(const std::optional<int64_t> row, generation.passages().FindRow(record.id()));
    if (row) hidden_body.push_back(*row);
    if (record.deleted()) {
      if (row) result.overlay->Delete(record.revision(), record.id());
      return absl::OkStatus();
    }
    LOCI_ASSIGN_OR_RETURN(const storage::WriteVector* const found, FindVector(record, generation));
    if (found == nullptr) {
      ++need_encoding;
      return absl::OkStatus();
    }
    std::memcpy(vector.data(), found->float32().data(), found->float32().size());
    result.overlay->Append(record.revision(), record.passage(), vector.data(), ParseVectorPrecision(found->encoder_precision()));
    return absl::OkStatus();
  }));
  if (need_encoding > 0) return WritesNeedEncoding(need_encoding, generation.manifest(), kEncodeFirst);
  result.hidden_body = RowMask().WithHidden(hidden_body);
  return result;
}

absl::StatusOr<PlannedReplay> PlanReplay(const WriteLog& log, int64_t after, int64_t upto, int dim, std::string_view passage_half) {
  constexpr size_t kIds = 256;
  PlannedReplay plan;
  struct Last {
    int64_t memory_bytes = 0;
    bool is_row = false;
    bool needs_encoding = false;
  };
  std::unordered_map<std::string, Last> last_write;
  int64_t revision = -1;
  LOCI_RETURN_IF_ERROR(log.Read(after, upto, [&](const storage::WriteRecord& record) {
    if (record.revision() != std::exchange(revision, record.revision())) ++plan.write_count;
    Last& last = last_write[record.id()];
    if (record.deleted()) {
      last = {.memory_bytes = Overlay::DeletionMemoryBytes(record.id())};
      return absl::OkStatus();
    }
    last.is_row = true;
    last.memory_bytes = Overlay::RowMemoryBytes(dim, record.id(), static_cast<int64_t>(record.passage().ByteSizeLong()), MetadataRecord(record.passage()));
    last.needs_encoding = std::none_of(record.vectors().begin(), record.vectors().end(), [&](const storage::WriteVector& vector) {
      return vector.passage_fingerprint() == passage_half;
    });
    return absl::OkStatus();
  }));
  plan.change_count = static_cast<int64_t>(last_write.size());
  const size_t step = std::max<size_t>(1, (last_write.size() + kIds - 1) / kIds);
  int64_t rows = 0;
  size_t number = 0;
  for (const auto& [id, last] : last_write) {
    plan.memory_bytes += last.memory_bytes;
    rows += last.is_row;
    plan.need_encoding_count += last.needs_encoding;
    if (number++ % step == 0) plan.ids.push_back(id);
  }
  plan.memory_bytes += Overlay::ChunkMemoryBytes(rows);
  return plan;
}

absl::Status ReplayFurther(const WriteLog& log, int64_t after, int64_t upto, const Generation& generation, ReplayedWrites* writes) {
  std::vector<int64_t> hide_body, hide_overlay;
  std::vector<float> vector(static_cast<size_t>(generation.dim()));
  LOCI_RETURN_IF_ERROR(log.Read(after, upto, [&](const storage::WriteRecord& record) -> absl::Status {
    const storage::WriteVector* found = nullptr;
    if (!record.deleted()) {
      LOCI_ASSIGN_OR_RETURN(found, FindVector(record, generation));
      if (found == nullptr) return WritesNeedEncoding(1, generation.manifest(), kEncodeFirst);
    }
    bool was_there = false;
    if (const std::optional<Overlay::Found> before = writes->overlay->Find(record.id(), INT64_MAX)) {
      was_there = !before->deleted();
      if (was_there) hide_overlay.push_back(before->row);
    } else {
      LOCI_ASSIGN_OR_RETURN(const std::optional<int64_t> row, generation.passages().FindRow(record.id()));
      was_there = row.has_value();
      if (was_there) hide_body.push_back(*row);
    }
    if (record.deleted()) {
      if (was_there) writes->overlay->Delete(record.revision(), record.id());
      return absl::OkStatus();
    }
    std::memcpy(vector.data(), found->float32().data(), found->float32().size());
    writes->overlay->Append(record.revision(), record.passage(), vector.data(), ParseVectorPrecision(found->encoder_precision()));
    return absl::OkStatus();
  }));
  writes->hidden_body = writes->hidden_body.WithHidden(hide_body);
  writes->hidden_overlay = writes->hidden_overlay.WithHidden(hide_overlay);
  return absl::OkStatus();
}

}  // namespace loci
