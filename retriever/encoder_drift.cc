#include "retriever/encoder_drift.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <future>
#include <numeric>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/logging.h"
#include "base/split_mix.h"
#include "base/status_macros.h"
#include "index/content_hash.h"
#include "index/encoding_journal.h"
#include "index/verified_vectors.h"
#include "retriever/bulk_encoding.h"
#include "retriever/encoder_pace.h"

namespace loci {
namespace {

constexpr int64_t kMaxBlocks = 1'024;
constexpr int64_t kMinBlockRows = 64;
constexpr int64_t kBlockSample = 4;
constexpr int64_t kLeastSample = 64, kSampleShare = 8;
constexpr size_t kReadPassages = 64;
constexpr size_t kMaxPendingBatches = 4;  // On their way through the encoder, so that it never waits for what is read.

// A view's rows under one number: the body's, then the overlay's.
class Places {
 public:
  explicit Places(const View& view)
      : view_(view),
        body_rows_(view.generation().row_count()),
        row_count_(body_rows_ + view.overlay_row_count()),
        block_rows_(std::max(kMinBlockRows, (row_count_ + kMaxBlocks - 1) / kMaxBlocks)) {}

  ViewRow RowOf(int64_t place) const { return place < body_rows_ ? ViewRow{false, place} : ViewRow{true, place - body_rows_}; }
  bool IsAlive(int64_t place) const { return view_.IsAlive(RowOf(place)); }
  int64_t row_count() const { return row_count_; }
  int64_t block_count() const { return (row_count_ + block_rows_ - 1) / block_rows_; }
  int64_t BlockOf(int64_t place) const { return place / block_rows_; }
  // Of those that are alive in a block, all that are not in `left_out`, which is sorted.
  std::vector<int64_t> AliveIn(int64_t block, const std::vector<int64_t>& left_out) const {
    std::vector<int64_t> places;
    const int64_t first = block * block_rows_;
    auto next = std::lower_bound(left_out.begin(), left_out.end(), first);
    for (int64_t place = first; place < std::min(first + block_rows_, row_count_); ++place) {
      if (next != left_out.end() && *next == place) {
        ++next;
      } else if (IsAlive(place)) {
        places.push_back(place);
      }
    }
    return places;
  }

 private:
  const View& view_;
  const int64_t body_rows_, row_count_, block_rows_;
};

// `count` of the places that are alive, of which there are `alive`, each set of so many as likely as any other, in order. (Knuth, The Art of Computer
// Programming, 3.4.2, algorithm S.)
std::vector<int64_t> DrawFromAll(const Places& places, int64_t alive, int64_t count, SplitMix64& random) {
  std::vector<int64_t> drawn;
  for (int64_t place = 0; place < places.row_count() && static_cast<int64_t>(drawn.size()) < count; ++place) {
    if (!places.IsAlive(place)) continue;
    if (random.Below(alive--) < count - static_cast<int64_t>(drawn.size())) drawn.push_back(place);
  }
  return drawn;
}

// Encodes passages of a view into the journal, and tells how far each is from what is served.
class JournalFiller {
 public:
  struct Counts {
    int64_t encoded = 0, reused = 0;
  };

  JournalFiller(GenerationManager& manager, const View& view, const DriftFirstOptions& options, const OperationControl& control)
      : view_(view),
        options_(options),
        limits_(control.limits),
        pace_(manager.encoders(), options.encoder, options.max_encoder_share, control.limits),
        dim_(static_cast<size_t>(options.encoder->spec().dim)),
        served_(view.shared_generation()),
        journal_(EncodingJournal::Open({.fs = &manager.fs(),
                                        .directory = JoinPath(manager.StoreDirectory(options.store), EncodingJournal::kDirectory),
                                        .passage_half = options.encoder->spec().fingerprint.passage,
                                        .precision = options.encoder->spec().element_type,
                                        .dim = options.encoder->spec().dim,
                                        .delete_others = true})) {}
  // After an error it waits for what is on its way: the limits are the caller's, who may go on.
  ~JournalFiller() {
    for (Batch& batch : pending_) {
      if (batch.encoded.valid()) batch.encoded.wait();
    }
  }

  // Of places in order; `distance(place, distance)` is called for each whose served vector is whole, sooner or later, and `progress` after some.
  absl::Status Fill(const Places& places, std::span<const int64_t> wanted, const std::function<void(int64_t, double)>& distance,
                    const std::function<void()>& progress) {
    for (size_t first = 0; first < wanted.size(); first += kReadPassages) {
      LOCI_RETURN_IF_ERROR(Check());
      const std::span<const int64_t> some = wanted.subspan(first, std::min(kReadPassages, wanted.size() - first));
      std::vector<ViewRow> rows;
      for (const int64_t place : some) rows.push_back(places.RowOf(place));
      std::vector<loci::v1::Passage> passages;
      LOCI_RETURN_IF_ERROR(view_.Read(rows, &passages));
      Batch batch;
      size_t bytes = 0;
      for (size_t i = 0; i < passages.size(); ++i) {
        bytes += passages[i].title().size() + passages[i].text().size();
        LOCI_RETURN_IF_ERROR(AddTo(batch, some[i], rows[i], passages[i]));
        if (bytes < EncoderPace::kTurnBytes && i + 1 < passages.size()) continue;
        LOCI_RETURN_IF_ERROR(TakeTurn(std::exchange(batch, {}), distance, progress));
        bytes = 0;
      }
    }
    while (!pending_.empty()) LOCI_RETURN_IF_ERROR(FinishOldest(distance, progress));
    return absl::OkStatus();
  }

  const Counts& counts() const { return counts_; }
  bool writing() const { return journal_->writing(); }

 private:
  struct Batch {
    std::vector<int64_t> places;
    std::vector<float> served, made;  // [places.size(), dim]
    std::vector<bool> has_served;
    std::vector<size_t> missing;      // In `made` until they were encoded.
    std::vector<std::string> texts;   // Of those,
    std::vector<ContentHash> hashes;  // as well.
    std::future<absl::StatusOr<EncodedTexts>> encoded;
  };

  absl::Status Check() const {
    LOCI_RETURN_IF_ERROR(limits_.Check(RealClock().NowMicros()));
    return options_.check ? options_.check() : absl::OkStatus();
  }

  absl::Status AddTo(Batch& batch, int64_t place, ViewRow row, const loci::v1::Passage& passage) {
    const size_t i = batch.places.size();
    batch.places.push_back(place);
    batch.served.resize((i + 1) * dim_);
    batch.made.resize((i + 1) * dim_);
    const absl::Status copied = served_.Copy(view_, row, batch.served.data() + i * dim_);
    if (!copied.ok()) LogWarning("refresh", absl::StrCat("store=", options_.store, " a vector counts in no drift: ", copied.message()));
    batch.has_served.push_back(copied.ok());
    std::string text = PassageText(passage.title(), passage.text());
    const ContentHash hash = HashContent(text);
    if (journal_->Find(hash, batch.made.data() + i * dim_)) return absl::OkStatus();
    batch.missing.push_back(i);
    batch.texts.push_back(std::move(text));
    batch.hashes.push_back(hash);
    return absl::OkStatus();
  }

  absl::Status TakeTurn(Batch batch, const std::function<void(int64_t, double)>& distance, const std::function<void()>& progress) {
    const bool encodes = !batch.missing.empty();
    bool others = false;
    if (encodes) {
      LOCI_ASSIGN_OR_RETURN(others, pace_.Yield());
    }
    const int64_t start_us = RealClock().NowMicros();
    if (encodes) batch.encoded = StartEncoding(batch);
    pending_.push_back(std::move(batch));
    const bool slowly = others || pace_.is_limited();
    while (pending_.size() > (slowly ? 0 : kMaxPendingBatches)) LOCI_RETURN_IF_ERROR(FinishOldest(distance, progress));
    return slowly && encodes ? pace_.Pause(RealClock().NowMicros() - start_us) : absl::OkStatus();
  }

  std::future<absl::StatusOr<EncodedTexts>> StartEncoding(const Batch& batch) const {
    return loci::StartEncoding(*options_.encoder, batch.texts, limits_);
  }

  absl::Status FinishOldest(const std::function<void(int64_t, double)>& distance, const std::function<void()>& progress) {
    Batch& batch = pending_.front();
    if (!batch.missing.empty()) {
      LOCI_ASSIGN_OR_RETURN(const EncodedTexts encoded,
                            FinishEncoding(std::move(batch.encoded), [&] { return StartEncoding(batch); }, [&] { return Check(); }));
      for (size_t i = 0; i < batch.missing.size(); ++i) {
        std::copy_n(encoded.vectors.data() + i * dim_, dim_, batch.made.data() + batch.missing[i] * dim_);
      }
      journal_->Append(batch.hashes, encoded.vectors.data());
    }
    counts_.encoded += static_cast<int64_t>(batch.missing.size());
    counts_.reused += static_cast<int64_t>(batch.places.size() - batch.missing.size());
    for (size_t i = 0; i < batch.places.size(); ++i) {
      if (!batch.has_served[i]) continue;
      distance(batch.places[i], CosineDistance(batch.served.data() + i * dim_, batch.made.data() + i * dim_, static_cast<int>(dim_)));
    }
    pending_.pop_front();
    progress();
    return absl::OkStatus();
  }

  const View& view_;
  const DriftFirstOptions& options_;
  const RequestLimits limits_;
  const EncoderPace pace_;
  const size_t dim_;
  VerifiedVectors served_;
  const std::unique_ptr<EncodingJournal> journal_;
  std::deque<Batch> pending_;  // Oldest first.
  Counts counts_;
};

}  // namespace

double CosineDistance(const float* a, const float* b, int dim) {
  double dot = 0, a_square = 0, b_square = 0;
  for (int i = 0; i < dim; ++i) {
    dot += double{a[i]} * b[i];
    a_square += double{a[i]} * a[i];
    b_square += double{b[i]} * b[i];
  }
  const double lengths = std::sqrt(a_square) * std::sqrt(b_square);
  return lengths > 0 ? std::clamp(1 - dot / lengths, 0.0, 2.0) : 1;
}

void BlockSample::Add(double value) {
  ++count;
  sum += value;
  sum_of_squares += value * value;
}

std::vector<double> ShrunkMeans(std::span<const BlockSample> blocks) {
  double total = 0, sum = 0, count_squares = 0, sampled_blocks = 0;
  for (const BlockSample& block : blocks) {
    if (block.count == 0) continue;
    const double count = static_cast<double>(block.count);
    total += count;
    count_squares += count * count;
    sum += block.sum;
    ++sampled_blocks;
  }
  const double mean = total > 0 ? sum / total : 0;
  double between = 0, within = 0;
  for (const BlockSample& block : blocks) {
    if (block.count == 0) continue;
    const double count = static_cast<double>(block.count), block_mean = block.sum / count;
    between += count * (block_mean - mean) * (block_mean - mean);
    within += std::max(0.0, block.sum_of_squares - count * block_mean * block_mean);
  }
  const double error_variance = total > sampled_blocks ? within / (total - sampled_blocks) : 0;
  double block_variance = 0;
  if (sampled_blocks > 1) {
    const double mean_count = (total - count_squares / total) / (sampled_blocks - 1);
    block_variance = std::max(0.0, (between / (sampled_blocks - 1) - error_variance) / mean_count);
  }
  std::vector<double> means;
  for (const BlockSample& block : blocks) {
    const double count = static_cast<double>(block.count);
    const double weight = block_variance > 0 ? block_variance / (block_variance + error_variance / std::max(count, 1.0)) : 0;
    means.push_back(block.count == 0 ? mean : mean + weight * (block.sum / count - mean));
  }
  return means;
}

absl::StatusOr<DriftFirstResult> EncodeDriftFirst(GenerationManager& manager, const View& view, const DriftFirstOptions& options,
                                                  const OperationControl& control) {
  const Places places(view);
  const int64_t alive = view.passage_count();
  DriftFirstResult result;
  if (alive == 0) return result;
  JournalFiller filler(manager, view, options, control);
  std::vector<BlockSample> blocks(static_cast<size_t>(places.block_count()));
  EncoderDrift seen;  // Of all that was measured; `drift` is a sum.
  const auto distance = [&](int64_t place, double value) {
    blocks[static_cast<size_t>(places.BlockOf(place))].Add(value);
    seen.drift += value;
    ++seen.sample_count;
  };
  const auto report = [&](std::string_view phase, int64_t total) {
    return [&, phase, total] {
      if (control.progress) control.progress(phase, filler.counts().encoded + filler.counts().reused, total);
    };
  };
  const auto measure = [&] {
    if (seen.sample_count == 0) return;
    result.drift = {seen.drift / static_cast<double>(seen.sample_count), seen.sample_count};
    if (options.measured) options.measured(result.drift);
  };

  SplitMix64 random(options.seed);
  std::vector<int64_t> sampled =
      DrawFromAll(places, alive, std::min(options.sample_count, std::max(alive / kSampleShare, std::min(alive, kLeastSample))), random);
  // How many more of each block: known before any is encoded.
  std::vector<int64_t> sampled_of_block(blocks.size());
  for (const int64_t place : sampled) ++sampled_of_block[static_cast<size_t>(places.BlockOf(place))];
  std::vector<int64_t> more;
  for (int64_t block = 0; block < places.block_count(); ++block) {
    std::vector<int64_t> rest = places.AliveIn(block, sampled);
    const int64_t wanted = std::min<int64_t>(kBlockSample - sampled_of_block[static_cast<size_t>(block)], static_cast<int64_t>(rest.size()));
    for (int64_t i = 0; i < wanted; ++i) std::swap(rest[static_cast<size_t>(i)], rest[static_cast<size_t>(i + random.Below(static_cast<int64_t>(rest.size()) - i))]);
    if (wanted > 0) {
      std::sort(rest.begin(), rest.begin() + wanted);
      more.insert(more.end(), rest.begin(), rest.begin() + wanted);
    }
  }
  const auto sampling = report("sampling", static_cast<int64_t>(sampled.size() + more.size()));
  sampling();
  LOCI_RETURN_IF_ERROR(filler.Fill(places, sampled, distance, sampling));
  measure();
  LOCI_RETURN_IF_ERROR(filler.Fill(places, more, distance, sampling));

  std::vector<int64_t> known(sampled.size() + more.size());
  std::merge(sampled.begin(), sampled.end(), more.begin(), more.end(), known.begin());
  const std::vector<double> estimates = ShrunkMeans(blocks);
  std::vector<int64_t> order(blocks.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return estimates[static_cast<size_t>(a)] > estimates[static_cast<size_t>(b)]; });
  const auto encoding = report("encoding", alive);
  encoding();
  for (const int64_t block : order) {
    if (!filler.writing()) break;
    LOCI_RETURN_IF_ERROR(filler.Fill(places, places.AliveIn(block, known), distance, encoding));
  }
  if (filler.writing()) measure();
  result.encoded_count = filler.counts().encoded;
  result.reused_count = filler.counts().reused;
  return result;
}

}  // namespace loci
