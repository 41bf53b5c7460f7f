// Where the passages of an ingest go: encoded where they bring no vectors, then into a new generation, or over the active one.
//
//   PassageSink sink({.manager = &manager, .store = "movies", .encoder = encoder, .builder = builder.get()});
//   LOCI_RETURN_IF_ERROR(sink.Take(std::move(passages), nullptr));    // While they are encoded, the next ones can be read.
//   LOCI_RETURN_IF_ERROR(sink.Flush());
#ifndef LOCI_RETRIEVER_PASSAGE_SINK_H_
#define LOCI_RETRIEVER_PASSAGE_SINK_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/mutex.h"
#include "base/vector_type.h"
#include "index/content_hash.h"
#include "index/encoding_journal.h"
#include "index/verified_vectors.h"
#include "retriever/generation_manager.h"
#include "retriever/known_vectors.h"

namespace loci {

// What was encoded for a new generation is written as soon as it is there, by a thread of the sink's own: also where the stream pauses, and
// so that a kill loses no more than the few batches that are on their way. Used by one thread at a time.
class PassageSink {
 public:
  // On their way through the encoder: enough that it never waits for the stream. It takes turns between them, so that they come to their
  // ends at about the same time: long texts are few in a batch.
  static constexpr size_t kMaxPendingBatches = 4;
  static constexpr size_t kBatchPassages = 64;  // That are encoded together for a new generation; where they are longer, fewer.
  static constexpr size_t kBatchBytes = 16 << 10;

  struct Options {
    GenerationManager* manager = nullptr;  // Borrowed, as `builder`.
    std::string store;
    std::shared_ptr<TextEncoder> encoder;  // Null only for upserts into a store that has none yet.
    GenerationBuilder* builder = nullptr;  // Null: upserts.
    ElementType element_type = ElementType::kFloat32;  // That the builder stores.
    PrecisionSet given_precisions = VectorPrecision::kUnknown;  // Of the vectors that come along.
    bool reencode = false;  // Take no vector over.
    RequestLimits limits;
    // Told how many passages are in the builder, or acknowledged as upserts, whenever there are more. Called on the sink's thread or on that
    // which uses the sink, never on both at once; not after Flush returned, until more is taken.
    std::function<void(int64_t)> on_written;
  };

  explicit PassageSink(Options options);
  ~PassageSink();  // Cancels what is on its way, and waits for it.

  // Takes valid passages, any number; `vectors` is null, or [passages.size(), dim] of the encoder. Where it is null, a text
  // is not encoded where a vector of the same passage half, no less precise, that interchanges with the encoder's, is there for it: of the passage with the same id in the store's
  // active view; for a builder also of any passage of that view (which is read once, where enough texts ask for it), or of an ingest that
  // was interrupted: the store's EncodingJournal. Blocks while too many are on their way through the encoder. After an error the sink can
  // only be dropped.
  absl::Status Take(std::vector<loci::v1::Passage> passages, const float* vectors);
  // Waits until all that was taken is in the builder, or in the store.
  absl::Status Flush();
  // Takes passages back, in the builder or the store. Flushes.
  absl::Status Remove(const std::vector<std::string>& ids);
  // The builder's generation is there: what was kept for an ingest that takes up an interrupted one goes.
  void ForgetEncoded();

  // These are up to date after Flush.
  int64_t reused_count() const { return reused_count_; }  // Passages whose vector was taken over.
  int64_t written_count() const { return written_count_; }  // As Options::on_written.
  const std::string& generation() const { return generation_; }  // Of the last upsert.
  int64_t revision() const { return revision_; }

 private:
  // A batch on its way through the encoder.
  struct Batch {
    std::vector<loci::v1::Passage> passages;
    std::vector<float> vectors;         // [passages.size(), dim]; rows of `missing` are filled in when they come.
    std::vector<PrecisionSet> precisions;  // Of each vector, also those that are still to come.
    std::vector<size_t> missing;        // Passages that are being encoded.
    std::vector<ContentHash> hashes;    // Of their texts; empty without a journal.
    std::future<absl::StatusOr<EncodedTexts>> encoded;  // Of `missing`, where there are any.
  };

  std::string JournalDirectory() const;
  // The active view, where its vectors may be taken over; else null.
  std::shared_ptr<const View> FindSource() const;
  void OpenJournal();
  // Fills in the vectors of passages whose id and text source_ has, and says which they are.
  std::vector<bool> TakeOverById(Batch& batch);
  // Takes the vector of a row of source_ for the batch's i-th passage; false where it is damaged, or does not interchange with the encoder's, so that
  // the text is encoded.
  bool CopyStored(ViewRow row, Batch& batch, size_t i);
  // Fills in what is known and starts to encode the others.
  absl::StatusOr<Batch> StartBatch(std::vector<loci::v1::Passage> passages);
  absl::Status FinishBatch(Batch& batch);  // All vectors are there then.
  absl::Status TakePiece(std::vector<loci::v1::Passage> passages) ABSL_LOCKS_EXCLUDED(mutex_);  // For a builder, to be encoded.
  void Written(int64_t count);
  // The sink's thread: finishes batches in their order, until the destructor.
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  std::future<absl::StatusOr<EncodedTexts>> StartEncoding(const Batch& batch) const;
  absl::Status Upsert(std::vector<loci::v1::Passage> passages, const float* vectors);

  const Options options_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<std::unique_ptr<Batch>> pending_ ABSL_GUARDED_BY(mutex_);  // Oldest first; that one stays until it is written.
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);  // The first error of the sink's thread, which does nothing more then.
  std::thread thread_;  // From the first piece on.

  // Of the thread that uses the sink, but for what is said.
  bool opened_ = false;  // The three below.
  std::shared_ptr<const View> source_;
  std::unique_ptr<VerifiedVectors> source_vectors_;  // Of the generation of source_.
  std::unique_ptr<KnownVectors> known_;       // Null until enough texts were not found by their ids.
  std::unique_ptr<EncodingJournal> journal_;  // Null without a builder. Appended to by the sink's thread.
  int64_t asked_count_ = 0;  // Texts that were not found by their ids.
  int64_t reused_count_ = 0;   // Of the sink's thread while there is a pending batch, as the next one and the builder.
  int64_t written_count_ = 0;
  std::string generation_;
  int64_t revision_ = 0;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_PASSAGE_SINK_H_
