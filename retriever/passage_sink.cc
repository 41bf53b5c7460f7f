#include "retriever/passage_sink.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "retriever/bulk_encoding.h"

namespace loci {
namespace {

// A view is read for its texts where it has at most so many rows for each text that asks: in the time that it takes to encode a text, so
// many and more are read.
constexpr int64_t kRowsReadPerText = 256;

}  // namespace

PassageSink::PassageSink(Options options) : options_(std::move(options)) {}

PassageSink::~PassageSink() {
  if (!thread_.joinable()) return;
  {
    MutexLock lock(&mutex_);
    if (!pending_.empty()) options_.limits.Cancel();
    stopped_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
  // What it did not come to.
  MutexLock lock(&mutex_);
  for (const std::unique_ptr<Batch>& batch : pending_) {
    if (batch->encoded.valid()) batch->encoded.wait();
  }
}

void PassageSink::Written(int64_t count) {
  written_count_ += count;
  if (options_.on_written) options_.on_written(written_count_);
}

absl::Status PassageSink::Take(std::vector<loci::v1::Passage> passages, const float* vectors) {
  if (passages.empty()) return absl::OkStatus();
  if (options_.builder == nullptr) return Upsert(std::move(passages), vectors);
  if (vectors != nullptr) {
    LOCI_RETURN_IF_ERROR(Flush());  // The last of several with one id stays.
    LOCI_RETURN_IF_ERROR(options_.builder->Add(passages, vectors));
    options_.builder->AddPrecisions(options_.given_precisions);
    Written(static_cast<int64_t>(passages.size()));
    return absl::OkStatus();
  }
  std::vector<loci::v1::Passage> piece;
  size_t piece_bytes = 0;
  for (loci::v1::Passage& passage : passages) {
    piece_bytes += passage.title().size() + passage.text().size();
    piece.push_back(std::move(passage));
    if (piece.size() < kBatchPassages && piece_bytes < kBatchBytes) continue;
    LOCI_RETURN_IF_ERROR(TakePiece(std::exchange(piece, {})));
    piece_bytes = 0;
  }
  return piece.empty() ? absl::OkStatus() : TakePiece(std::move(piece));
}

absl::Status PassageSink::TakePiece(std::vector<loci::v1::Passage> passages) {
  {
    MutexLock lock(&mutex_);
    while (failed_.ok() && pending_.size() >= kMaxPendingBatches) changed_.Wait(&mutex_);
    LOCI_RETURN_IF_ERROR(failed_);
  }
  LOCI_ASSIGN_OR_RETURN(Batch batch, StartBatch(std::move(passages)));
  if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  MutexLock lock(&mutex_);
  pending_.push_back(std::make_unique<Batch>(std::move(batch)));
  changed_.NotifyAll();
  return absl::OkStatus();
}

void PassageSink::Run() {
  while (true) {
    Batch* oldest;
    {
      MutexLock lock(&mutex_);
      while (!stopped_ && (pending_.empty() || !failed_.ok())) changed_.Wait(&mutex_);
      if (stopped_) return;
      oldest = pending_.front().get();
    }
    absl::Status status = FinishBatch(*oldest);
    if (status.ok()) status = options_.builder->Add(oldest->passages, oldest->vectors.data());
    for (const PrecisionSet precisions : oldest->precisions) options_.builder->AddPrecisions(precisions);
    const int64_t count = static_cast<int64_t>(oldest->passages.size());
    if (status.ok()) Written(count);
    MutexLock lock(&mutex_);
    failed_ = status;
    pending_.pop_front();
    changed_.NotifyAll();
  }
}

absl::Status PassageSink::Flush() {
  MutexLock lock(&mutex_);
  while (failed_.ok() && !pending_.empty()) changed_.Wait(&mutex_);
  return failed_;
}

absl::Status PassageSink::Remove(const std::vector<std::string>& ids) {
  LOCI_RETURN_IF_ERROR(Flush());
  if (ids.empty()) return absl::OkStatus();
  if (options_.builder != nullptr) return options_.builder->Remove(ids);
  LOCI_ASSIGN_OR_RETURN(const DeleteResult deleted, options_.manager->Delete(options_.store, ids));
  revision_ = deleted.revision;
  return absl::OkStatus();
}

std::string PassageSink::JournalDirectory() const {
  return JoinPath(options_.manager->StoreDirectory(options_.store), EncodingJournal::kDirectory);
}

void PassageSink::ForgetEncoded() {
  if (options_.builder == nullptr) return;
  const absl::Status forgotten = journal_ != nullptr ? journal_->Clear() : options_.manager->fs().DeleteRecursively(JournalDirectory());
  if (!forgotten.ok()) LogWarning("ingest", absl::StrCat("what was encoded stays in ", JournalDirectory(), ": ", forgotten.message()));
}

absl::Status PassageSink::Upsert(std::vector<loci::v1::Passage> passages, const float* vectors) {
  const int64_t count = static_cast<int64_t>(passages.size());
  const auto upsert = [&]() -> absl::StatusOr<UpsertResult> {
    GenerationManager& manager = *options_.manager;
    if (options_.encoder == nullptr) return manager.Upsert(options_.store, std::move(passages), options_.limits);
    const EncoderSpec& spec = options_.encoder->spec();
    if (vectors != nullptr) {
      const std::vector<VectorPrecision> precisions(passages.size(), options_.given_precisions.First());
      return manager.UpsertVectors(options_.store, std::move(passages), vectors, spec.dim, spec.fingerprint.passage, options_.limits, precisions);
    }
    LOCI_ASSIGN_OR_RETURN(Batch batch, StartBatch(std::move(passages)));
    LOCI_RETURN_IF_ERROR(FinishBatch(batch));
    std::vector<VectorPrecision> precisions;
    for (const PrecisionSet set : batch.precisions) precisions.push_back(set.First());
    absl::StatusOr<UpsertResult> upserted = manager.UpsertVectors(options_.store, batch.passages, batch.vectors.data(), spec.dim,
                                                                  spec.fingerprint.passage, options_.limits, precisions);
    if (!absl::IsFailedPrecondition(upserted.status()) && !absl::IsAborted(upserted.status())) return upserted;
    // A generation of another encoder was activated meanwhile.
    return manager.Upsert(options_.store, std::move(batch.passages), options_.limits);
  };
  LOCI_ASSIGN_OR_RETURN(const UpsertResult upserted, upsert());
  generation_ = upserted.generation;
  revision_ = upserted.revision;
  Written(count);
  return absl::OkStatus();
}

std::shared_ptr<const View> PassageSink::FindSource() const {
  if (options_.reencode) return nullptr;
  const absl::StatusOr<std::shared_ptr<const ServingSet>> active = options_.manager->Capture(options_.store, "");
  if (!active.ok()) return nullptr;  // There is none.
  const Generation& generation = (*active)->view->generation();
  const ElementType stored = generation.vectors().element_type();
  const bool same_encoder = generation.manifest().passage_fingerprint() == options_.encoder->spec().fingerprint.passage &&
                            generation.dim() == options_.encoder->spec().dim;
  // Rounded values are good for a file that rounds in the same way. A write is kept unrounded.
  const bool precise = stored == ElementType::kFloat32 || (options_.builder != nullptr && stored == options_.element_type);
  // Else all texts would be read for the few that were written since.
  const bool near = options_.builder == nullptr || PrecisionsOf(generation.manifest()).AllInterchangeWith(options_.encoder->precision());
  return same_encoder && precise && near ? (*active)->view : nullptr;
}

void PassageSink::OpenJournal() {
  journal_ = EncodingJournal::Open({.fs = &options_.manager->fs(),
                                    .directory = JournalDirectory(),
                                    .passage_half = options_.encoder->spec().fingerprint.passage,
                                    .precision = options_.encoder->spec().element_type,
                                    .dim = options_.encoder->spec().dim});
  if (journal_->record_count() > 0) {
    LogInfo("ingest", absl::StrCat("store=", options_.store, " an interrupted ingest has left the vectors of ", journal_->record_count(), " texts"));
  }
  if (!options_.reencode) return;
  const absl::Status cleared = journal_->Clear();
  if (!cleared.ok()) LogWarning("ingest", StdView(cleared.message()));
}

bool PassageSink::CopyStored(ViewRow row, Batch& batch, size_t i) {
  const PrecisionSet precisions = source_->Precisions(row);
  if (!precisions.AllInterchangeWith(options_.encoder->precision())) return false;
  if (source_vectors_ == nullptr || &source_vectors_->generation() != &source_->generation()) {
    source_vectors_ = std::make_unique<VerifiedVectors>(source_->shared_generation());
  }
  const absl::Status copied = source_vectors_->Copy(*source_, row, batch.vectors.data() + i * static_cast<size_t>(options_.encoder->spec().dim));
  if (!copied.ok()) LogWarning("ingest", absl::StrCat("a vector is not taken over: ", copied.message()));
  if (copied.ok()) batch.precisions[i] = precisions;
  return copied.ok();
}

std::vector<bool> PassageSink::TakeOverById(Batch& batch) {
  std::vector<bool> taken(batch.passages.size());
  if (source_ == nullptr) return taken;
  std::vector<ViewRow> rows;
  std::vector<size_t> asking;
  for (size_t i = 0; i < batch.passages.size(); ++i) {
    const absl::StatusOr<std::optional<ViewRow>> row = source_->Find(batch.passages[i].id());
    if (!row.ok() || !row->has_value()) continue;
    rows.push_back(**row);
    asking.push_back(i);
  }
  std::vector<loci::v1::Passage> stored;
  // What can't be read is encoded.
  if (rows.empty() || !source_->Read(rows, &stored).ok()) return taken;
  for (size_t j = 0; j < rows.size(); ++j) {
    const size_t i = asking[j];
    if (stored[j].title() != batch.passages[i].title() || stored[j].text() != batch.passages[i].text()) continue;
    taken[i] = CopyStored(rows[j], batch, i);
  }
  return taken;
}

absl::StatusOr<PassageSink::Batch> PassageSink::StartBatch(std::vector<loci::v1::Passage> passages) {
  const bool first = !std::exchange(opened_, true);
  // Upserts change what they lie over.
  if (first || options_.builder == nullptr) source_ = FindSource();
  if (first && options_.builder != nullptr) OpenJournal();
  const size_t dim = static_cast<size_t>(options_.encoder->spec().dim);
  Batch batch;
  batch.passages = std::move(passages);
  batch.vectors.resize(batch.passages.size() * dim);
  batch.precisions.assign(batch.passages.size(), options_.encoder->precision());
  const std::vector<bool> taken = TakeOverById(batch);
  if (source_ != nullptr && options_.builder != nullptr && known_ == nullptr) {
    asked_count_ += std::count(taken.begin(), taken.end(), false);
    const int64_t row_count = source_->generation().row_count() + source_->overlay_row_count();
    if (asked_count_ * kRowsReadPerText >= row_count) {
      LOCI_ASSIGN_OR_RETURN(known_, KnownVectors::Scan(source_, options_.limits));
    }
  }
  for (size_t i = 0; i < batch.passages.size(); ++i) {
    if (taken[i]) continue;
    if (journal_ != nullptr) {
      const ContentHash hash = HashContent(PassageText(batch.passages[i].title(), batch.passages[i].text()));
      float* const vector = batch.vectors.data() + i * dim;
      const std::optional<ViewRow> known = known_ != nullptr ? known_->Find(hash) : std::nullopt;
      if ((known.has_value() && CopyStored(*known, batch, i)) || journal_->Find(hash, vector)) continue;
      batch.hashes.push_back(hash);
    }
    batch.missing.push_back(i);
  }
  if (!batch.missing.empty()) batch.encoded = StartEncoding(batch);
  return batch;
}

std::future<absl::StatusOr<EncodedTexts>> PassageSink::StartEncoding(const Batch& batch) const {
  std::vector<std::string> texts;
  texts.reserve(batch.missing.size());
  for (const size_t i : batch.missing) texts.push_back(PassageText(batch.passages[i].title(), batch.passages[i].text()));
  return loci::StartEncoding(*options_.encoder, texts, options_.limits);
}

absl::Status PassageSink::FinishBatch(Batch& batch) {
  reused_count_ += static_cast<int64_t>(batch.passages.size() - batch.missing.size());
  if (batch.missing.empty()) return absl::OkStatus();
  LOCI_ASSIGN_OR_RETURN(const EncodedTexts encoded, FinishEncoding(std::move(batch.encoded), [&] { return StartEncoding(batch); },
                                                                   [&] { return options_.limits.Check(RealClock().NowMicros()); }));
  const size_t dim = static_cast<size_t>(options_.encoder->spec().dim);
  for (size_t i = 0; i < batch.missing.size(); ++i) {
    std::copy_n(encoded.vectors.data() + i * dim, dim, batch.vectors.data() + batch.missing[i] * dim);
  }
  if (journal_ != nullptr) journal_->Append(batch.hashes, encoded.vectors.data());
  return absl::OkStatus();
}

}  // namespace loci
