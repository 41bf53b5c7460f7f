// How far the encoders that training jobs published are from what stores serve: the figures, by store and passage half.
//
//   drifts.Publish("movies", newest_half);
//   drifts.Measured("movies", served_half, {.drift = 0.03, .sample_count = 1'024});
//   const EncoderDrift drift = drifts.Find("movies", served_half);     // Of a session that holds such vectors.
#ifndef LOCI_RETRIEVER_ENCODER_DRIFT_TABLE_H_
#define LOCI_RETRIEVER_ENCODER_DRIFT_TABLE_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/mutex.h"

namespace loci {

// Mean of 1 - cosine between the vectors of passages that are served and those that another encoder makes of them: from 0 to 2.
struct EncoderDrift {
  double drift = 0;
  int64_t sample_count = 0;  // Passages that it was measured on; 0: not measured.
};

// Thread-safe.
class EncoderDriftTable {
 public:
  static constexpr size_t kMaxHalves = 16;  // Of a store, that figures are kept of: those measured last.

  // What vectors of the store are measured against from now on: a passage half. A figure against an earlier one is told until there is a newer one.
  void Publish(std::string_view store, std::string_view newest_half);
  void Measured(std::string_view store, std::string_view served_half, const EncoderDrift& drift);
  void Forget(std::string_view store);

  // Of vectors of `served_half`. Zeros where that is the newest, where none was published for the store, and where nothing was measured.
  EncoderDrift Find(std::string_view store, std::string_view served_half) const;
  // All of a store, by served half, oldest first.
  std::vector<std::pair<std::string, EncoderDrift>> Figures(std::string_view store) const;
  // What they will be once this is Measured.
  std::vector<std::pair<std::string, EncoderDrift>> FiguresWith(std::string_view store, std::string_view served_half, const EncoderDrift& drift) const;

 private:
  struct Store {
    std::string newest_half;
    std::vector<std::pair<std::string, EncoderDrift>> figures;
  };

  mutable Mutex mutex_;
  std::map<std::string, Store, std::less<>> stores_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_ENCODER_DRIFT_TABLE_H_
