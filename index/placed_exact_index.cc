#include "index/placed_exact_index.h"

namespace loci {

const DeviceSoftmax* DeviceExactIndex::softmax(const RowMask&) const { return nullptr; }

int64_t PlacedExactIndex::memory_bytes() const {
  const std::shared_ptr<const DeviceExactIndex> device = this->device();
  return cpu_->memory_bytes() + (device == nullptr ? 0 : device->memory_bytes());
}

absl::Status PlacedExactIndex::Search(MatrixView<const float> queries, const IndexSearchOptions& options, const RowMask& hidden,
                                      RowHit* hits) const {
  const std::shared_ptr<const DeviceExactIndex> device = this->device();
  return device == nullptr ? cpu_->Search(queries, options, hidden, hits) : device->Search(queries, options, hidden, hits);
}

std::shared_ptr<const DeviceExactIndex> PlacedExactIndex::device() const {
  MutexLock lock(&mutex_);
  return device_;
}

std::shared_ptr<const DeviceExactIndex> PlacedExactIndex::SetDevice(std::shared_ptr<const DeviceExactIndex> device) const {
  MutexLock lock(&mutex_);
  if (device != nullptr) refusal_ = absl::OkStatus();
  return std::exchange(device_, std::move(device));
}

absl::Status PlacedExactIndex::refusal() const {
  MutexLock lock(&mutex_);
  return refusal_;
}

void PlacedExactIndex::SetRefusal(absl::Status refusal) const {
  MutexLock lock(&mutex_);
  refusal_ = std::move(refusal);
}

}  // namespace loci
