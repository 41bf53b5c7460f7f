#include "encoder/fidelity.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/device.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "encoder/kernels/aligned.h"
#include "encoder/kernels/gemm.h"

namespace loci {
namespace {

constexpr int64_t kBatchTexts = 16;
constexpr int64_t kNearest = 10;

double ThreadSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

using Rows = std::vector<std::vector<int32_t>>;  // Each in order.

// The rows of each row's nearest others, by inner product; ties by row. `step` is called before some of them.
absl::StatusOr<Rows> Nearest(const std::vector<float>& vectors, int64_t count, int64_t dim, const std::function<absl::Status(int64_t done)>& step) {
  constexpr int64_t kQueries = 64;  // At a time.
  const CpuIsa isa = DetectCpuIsa();
  const AlignedFloats packed = PackWeight(isa, vectors.data(), count, dim);
  const std::vector<float> no_bias(static_cast<size_t>(count));
  std::vector<float> scores(static_cast<size_t>(kQueries * count));
  Rows nearest;
  std::vector<std::pair<float, int32_t>> scored(count);
  for (int64_t first = 0; first < count; first += kQueries) {
    LOCI_RETURN_IF_ERROR(step(first));
    const int64_t queries = std::min(kQueries, count - first);
    Gemm(isa, scores.data(), vectors.data() + first * dim, packed.data(), no_bias.data(), nullptr, queries, count, dim, Activation::kNone);
    for (int64_t i = first; i < first + queries; ++i) {
      const float* const of = scores.data() + (i - first) * count;
      // By negated score, so that ties go to the lower row; itself last.
      for (int64_t j = 0; j < count; ++j) scored[j] = {i == j ? INFINITY : -of[j], static_cast<int32_t>(j)};
      std::nth_element(scored.begin(), scored.begin() + kNearest - 1, scored.end());
      std::vector<int32_t> rows;
      for (int64_t n = 0; n < kNearest; ++n) rows.push_back(scored[n].second);
      std::sort(rows.begin(), rows.end());
      nearest.push_back(std::move(rows));
    }
  }
  return nearest;
}

// How many of the nearest are in both.
int64_t Common(const Rows& expected, const Rows& found) {
  int64_t both = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    std::vector<int32_t> common;
    std::set_intersection(expected[i].begin(), expected[i].end(), found[i].begin(), found[i].end(), std::back_inserter(common));
    both += static_cast<int64_t>(common.size());
  }
  return both;
}

// Of the vectors `a` and `b` of `count` texts.
void CompareCosines(const std::vector<float>& a, const std::vector<float>& b, int64_t count, int64_t dim, double* mean, double* min) {
  *mean = 0;
  *min = 1;
  for (int64_t i = 0; i < count; ++i) {
    const float* const x = a.data() + i * dim;
    const float* const y = b.data() + i * dim;
    const double dot = std::inner_product(x, x + dim, y, 0.0);
    const double lengths = std::inner_product(x, x + dim, x, 0.0) * std::inner_product(y, y + dim, y, 0.0);
    const double cosine = lengths > 0 ? std::clamp(dot / std::sqrt(lengths), -1.0, 1.0) : 0.0;
    *mean += cosine / static_cast<double>(count);
    *min = std::min(*min, cosine);
  }
}

}  // namespace

std::vector<int32_t> FidelityTokens(const Encoder& encoder, std::string_view text) {
  const Tokenizer& tokenizer = encoder.tokenizer();
  std::vector<int32_t> ids = {tokenizer.cls_id()};
  tokenizer.Tokenize(absl::StrCat(encoder.spec().passage_prefix, AbslView(text)), &ids);
  ids.resize(std::min(ids.size(), static_cast<size_t>(encoder.spec().max_length) - 1));
  ids.push_back(tokenizer.sep_id());
  return ids;
}

absl::StatusOr<Fidelity> MeasureFidelity(const Encoder& reference, const Encoder& peer, const Encoder& candidate,
                                         const std::vector<std::string>& texts) {
  std::vector<std::vector<int32_t>> ids;
  ids.reserve(texts.size());
  for (const std::string& text : texts) ids.push_back(FidelityTokens(reference, text));
  return MeasureFidelityOfTokens(reference, peer, candidate, ids);
}

absl::StatusOr<Fidelity> MeasureFidelityOfTokens(const Encoder& reference, const Encoder& peer, const Encoder& candidate,
                                                 const std::vector<std::vector<int32_t>>& texts, const FidelityStep& step) {
  const int64_t count = static_cast<int64_t>(texts.size());
  if (count < kMinFidelityTexts || count > kMaxFidelityTexts) {
    return absl::InvalidArgumentError(absl::StrCat("there are ", count, " texts to measure with; there must be ",
                                                   kMinFidelityTexts, " to ", kMaxFidelityTexts));
  }
  // Those that are encoded by.
  std::vector<const Encoder*> encoders = {&reference, &candidate};
  const bool has_peer = &peer != &reference;
  if (has_peer) encoders.insert(encoders.begin() + 1, &peer);
  for (const Encoder* encoder : encoders) {
    if (!(encoder->spec().fingerprint == reference.spec().fingerprint)) {
      return absl::FailedPreconditionError(
          absl::StrCat("the encoders are not of one fingerprint: ", reference.spec().fingerprint.ToString(), " and ",
                       encoder->spec().fingerprint.ToString()));
    }
  }
  const auto begin_step = [&](std::string_view phase, int64_t done, int64_t total) { return step ? step(phase, done, total) : absl::OkStatus(); };
  const int64_t dim = reference.spec().dim;
  const int last = static_cast<int>(encoders.size()) - 1;
  Fidelity fidelity;
  fidelity.fingerprint = reference.spec().fingerprint.ToString();
  fidelity.reference = reference.spec().element_type;
  fidelity.peer = peer.spec().element_type;
  fidelity.candidate = candidate.spec().element_type;
  fidelity.text_count = count;

  std::vector<std::vector<float>> vectors(encoders.size(), std::vector<float>(static_cast<size_t>(count * dim)));
  std::vector<double> seconds(encoders.size());
  // Once before, so that none pays for what is made at first use.
  for (int64_t first = -kBatchTexts; first < count; first += kBatchTexts) {
    const int64_t begin = std::max<int64_t>(first, 0);
    const int64_t end = std::min(count, begin + kBatchTexts);
    PackedBatch batch;
    for (int64_t i = begin; i < end; ++i) {
      batch.token_ids.insert(batch.token_ids.end(), texts[i].begin(), texts[i].end());
      batch.offsets.push_back(static_cast<int32_t>(batch.token_ids.size()));
    }
    for (int turn = 0; turn <= last; ++turn) {
      LOCI_RETURN_IF_ERROR(begin_step("encoding", begin, count));
      const int which = first / kBatchTexts % 2 == 0 ? turn : last - turn;
      const double before = ThreadSeconds();
      LOCI_RETURN_IF_ERROR(encoders[which]->Encode(batch, vectors[which].data() + begin * dim));
      if (first >= 0) seconds[which] += ThreadSeconds() - before;
    }
    if (first >= 0) fidelity.token_count += batch.token_count();
  }
  const auto pace = [&](int which) { return static_cast<double>(fidelity.token_count) / std::max(seconds[which], 1e-9); };
  fidelity.reference_tokens_per_s = pace(0);
  fidelity.peer_tokens_per_s = pace(last - 1);
  fidelity.candidate_tokens_per_s = pace(last);

  CompareCosines(vectors[0], vectors[last], count, dim, &fidelity.cosine_mean, &fidelity.cosine_min);
  CompareCosines(vectors[0], vectors[last - 1], count, dim, &fidelity.peer_cosine_mean, &fidelity.peer_cosine_min);
  // A pass over all of them counts as its share of the texts.
  const auto nearest = [&](int which) {
    return Nearest(vectors[which], count, dim,
                   [&](int64_t done) { return begin_step("comparing", (which * count + done) / (last + 1), count); });
  };
  LOCI_ASSIGN_OR_RETURN(const Rows expected, nearest(0));
  const auto overlap = [&](const Rows& found) { return static_cast<double>(Common(expected, found)) / static_cast<double>(count * kNearest); };
  fidelity.peer_top_10_overlap = 1;
  if (has_peer) {
    LOCI_ASSIGN_OR_RETURN(const Rows found, nearest(1));
    fidelity.peer_top_10_overlap = overlap(found);
  }
  LOCI_ASSIGN_OR_RETURN(const Rows found, nearest(last));
  fidelity.top_10_overlap = overlap(found);
  return fidelity;
}

std::string FidelityTable(const Fidelity& fidelity) {
  std::string table = absl::StrFormat("%s against %s, %d texts of %d tokens, encoder %s\n%-10s%13s%12s%16s%10s\n", fidelity.candidate, fidelity.reference,
                                      fidelity.text_count, fidelity.token_count, fidelity.fingerprint, "precision", "cosine mean", "cosine min",
                                      "top-10 overlap", "tokens/s");
  const auto add = [&](const std::string& precision, double cosine_mean, double cosine_min, double top_10_overlap, double tokens_per_s) {
    absl::StrAppendFormat(&table, "%-10s%13.5f%12.5f%16.4f%10.0f\n", precision, cosine_mean, cosine_min, top_10_overlap, tokens_per_s);
  };
  add(fidelity.reference, 1, 1, 1, fidelity.reference_tokens_per_s);
  if (fidelity.peer != fidelity.reference) {
    add(fidelity.peer, fidelity.peer_cosine_mean, fidelity.peer_cosine_min, fidelity.peer_top_10_overlap, fidelity.peer_tokens_per_s);
  }
  add(fidelity.candidate, fidelity.cosine_mean, fidelity.cosine_min, fidelity.top_10_overlap, fidelity.candidate_tokens_per_s);
  absl::StrAppendFormat(&table, "%s is %.2fx as fast as %s", fidelity.candidate, fidelity.candidate_tokens_per_s / fidelity.reference_tokens_per_s,
                        fidelity.reference);
  if (fidelity.peer != fidelity.reference) {
    absl::StrAppendFormat(&table, ", %.2fx as %s", fidelity.candidate_tokens_per_s / fidelity.peer_tokens_per_s, fidelity.peer);
  }
  return table + " (of one thread's CPU time)\n";
}

std::string FidelityJson(const Fidelity& fidelity) {
  // Fingerprints and element types need no escapes.
  return absl::StrFormat(
      "{\"fingerprint\": \"%s\", \"reference\": \"%s\", \"peer\": \"%s\", \"candidate\": \"%s\", \"text_count\": %d, "
      "\"token_count\": %d, "
      "\"cosine_mean\": %.6f, \"cosine_min\": %.6f, \"top_10_overlap\": %.6f, "
      "\"peer_cosine_mean\": %.6f, \"peer_cosine_min\": %.6f, \"peer_top_10_overlap\": %.6f, "
      "\"reference_tokens_per_s\": %.1f, "
      "\"peer_tokens_per_s\": %.1f, "
      "\"candidate_tokens_per_s\": %.1f}\n",
      fidelity.fingerprint, fidelity.reference, fidelity.peer, fidelity.candidate, fidelity.text_count, fidelity.token_count,
      fidelity.cosine_mean, fidelity.cosine_min, fidelity.top_10_overlap, fidelity.peer_cosine_mean, fidelity.peer_cosine_min,
      fidelity.peer_top_10_overlap, fidelity.reference_tokens_per_s, fidelity.peer_tokens_per_s, fidelity.candidate_tokens_per_s);
}

}  // namespace loci
