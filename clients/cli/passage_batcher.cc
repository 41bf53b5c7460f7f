#include "clients/cli/passage_batcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace loci {
namespace {

constexpr size_t kMaxRuns = 1'000'000;

}  // namespace

bool PassageBatcher::Add(PassageRecord&& record) {
  batch_bytes_ += record.passage.ByteSizeLong() + record.vector.size() * sizeof(float);
  *batch_.add_passages() = std::move(record.passage);
  if (!record.vector.empty()) {
    v1::Matrix* const vectors = batch_.mutable_vectors();
    vectors->set_rows(vectors->rows() + 1);
    vectors->set_cols(static_cast<int64_t>(record.vector.size()));
    vectors->set_type(v1::VECTOR_TYPE_FLOAT32);
    // x86-64 is little-endian, as the wire is.
    vectors->mutable_data()->append(reinterpret_cast<const char*>(record.vector.data()), record.vector.size() * sizeof(float));
  }
  return batch_.passages_size() >= kMaxPassages || batch_bytes_ >= max_bytes_;
}

v1::PassageBatch PassageBatcher::Take() {
  batch_bytes_ = 0;
  return std::exchange(batch_, v1::PassageBatch());
}

void StreamPlaces::Add(const InputPlace& place) {
  ++count_;
  if (full_) return;
  if (files_.empty() || files_.back() != place.file) {
    files_.push_back(place.file);
  } else if (const Run& last = runs_.back(); place.line - last.first_line == count_ - last.first_position) {
    known_count_ = count_;
    return;
  }
  full_ = runs_.size() >= kMaxRuns;
  if (full_) return;
  runs_.push_back({count_, files_.size() - 1, place.line});
  known_count_ = count_;
}

std::optional<InputPlace> StreamPlaces::Find(int64_t position) const {
  if (position < 1 || position > known_count_) return std::nullopt;
  const auto after = std::upper_bound(runs_.begin(), runs_.end(), position,
                                      [](int64_t value, const Run& run) { return value < run.first_position; });
  const Run& run = *(after - 1);
  return InputPlace{files_[run.file], run.first_line + position - run.first_position};
}

std::string StreamPlaces::Describe(int64_t position) const {
  const std::optional<InputPlace> place = Find(position);
  return place.has_value() ? absl::StrCat(place->file, ":", place->line) : absl::StrCat("passage ", position, " of the input");
}

}  // namespace loci
