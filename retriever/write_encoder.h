// Gives the writes of a store vectors of another passage half, so that a generation of it can be laid under them.
//
//   WriteEncoder writes({.entry = &entry, .generation = generation, .encoder = encoder, .after = base, .clock = clock, .control = &control});
//   for (bool switched = false; !switched;) {
//     LOCI_RETURN_IF_ERROR(writes.CatchUp());               // long; writers go on
//     MutexLock writer(&entry.writer);
//     LOCI_ASSIGN_OR_RETURN(switched, writes.IsCaughtUp());
//     if (switched) ... activate ...
//   }
#ifndef LOCI_RETRIEVER_WRITE_ENCODER_H_
#define LOCI_RETRIEVER_WRITE_ENCODER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "encoder/text_encoder.h"
#include "index/store.h"
#include "retriever/generation_manager.h"
#include "retriever/store_entry.h"

namespace loci {

// The vectors are kept in the write log, beside those that are there. Once most are, those who write encode for both halves
// (StoreEntry::next_encoder), so that an end comes however fast they write; from this object's death on they don't. Used by one thread, which
// holds `entry->pinning`, but for EncodeAhead.
class WriteEncoder {
 public:
  struct Options {
    StoreEntry* entry = nullptr;  // Borrowed, as the rest.
    std::shared_ptr<const Generation> generation;
    std::shared_ptr<TextEncoder> encoder;  // Of the generation's passage half.
    int64_t after = 0;                     // Revision: writes up to it need none.
    Clock* clock = nullptr;
    const OperationControl* control = nullptr;  // Phase "encoding", where there is something to encode; its limits.
  };

  explicit WriteEncoder(Options options) : options_(std::move(options)) {}
  ~WriteEncoder() {
    if (begun_) options_.entry->SetNextEncoder(nullptr);
  }
  WriteEncoder(const WriteEncoder&) = delete;
  WriteEncoder& operator=(const WriteEncoder&) = delete;

  // Encodes what is there now, most of the work, and no more: for whoever does not hold `entry->pinning` yet, before anything else.
  absl::Status EncodeAhead();
  // Until few writes are left that came meanwhile. Takes `entry->writer` for moments. DATA_LOSS from the log, errors of the encoder (but not that it
  // has too much to do), those of the limits.
  absl::Status CatchUp();
  // For whoever holds `entry->writer`: whether all writes that are there have their vectors. If not, CatchUp is due again.
  absl::StatusOr<bool> IsCaughtUp();

  int64_t upto() const { return upto_; }  // Revision: all writes up to it that a replay lays have their vectors.
  int64_t encoded_count() const { return encoded_count_; }

 private:
  absl::StatusOr<std::vector<float>> Encode(const std::vector<loci::v1::Passage>& passages) const;
  absl::Status EncodeAt(const std::vector<WritePlace>& places);

  const Options options_;
  bool begun_ = false;
  int64_t upto_ = 0;
  int64_t encoded_count_ = 0;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_WRITE_ENCODER_H_
