#include "retriever/encoder_drift_table.h"

#include <algorithm>

namespace loci {
namespace {

void Put(std::string_view served_half, const EncoderDrift& drift, std::vector<std::pair<std::string, EncoderDrift>>* figures) {
  std::erase_if(*figures, [&](const auto& figure) { return figure.first == served_half; });
  figures->emplace_back(served_half, drift);
  if (figures->size() > EncoderDriftTable::kMaxHalves) figures->erase(figures->begin());
}

}  // namespace

void EncoderDriftTable::Publish(std::string_view store, std::string_view newest_half) {
  MutexLock lock(&mutex_);
  stores_[std::string(store)].newest_half = newest_half;
}

void EncoderDriftTable::Measured(std::string_view store, std::string_view served_half, const EncoderDrift& drift) {
  MutexLock lock(&mutex_);
  Put(served_half, drift, &stores_[std::string(store)].figures);
}

void EncoderDriftTable::Forget(std::string_view store) {
  MutexLock lock(&mutex_);
  const auto found = stores_.find(store);
  if (found != stores_.end()) stores_.erase(found);
}

EncoderDrift EncoderDriftTable::Find(std::string_view store, std::string_view served_half) const {
  MutexLock lock(&mutex_);
  const auto found = stores_.find(store);
  if (found == stores_.end() || found->second.newest_half.empty() || found->second.newest_half == served_half) return {};
  for (const auto& [half, drift] : found->second.figures) {
    if (half == served_half) return drift;
  }
  return {};
}

std::vector<std::pair<std::string, EncoderDrift>> EncoderDriftTable::Figures(std::string_view store) const {
  MutexLock lock(&mutex_);
  const auto found = stores_.find(store);
  return found == stores_.end() ? std::vector<std::pair<std::string, EncoderDrift>>() : found->second.figures;
}

std::vector<std::pair<std::string, EncoderDrift>> EncoderDriftTable::FiguresWith(std::string_view store, std::string_view served_half,
                                                                                 const EncoderDrift& drift) const {
  std::vector<std::pair<std::string, EncoderDrift>> figures = Figures(store);
  Put(served_half, drift, &figures);
  return figures;
}

}  // namespace loci
