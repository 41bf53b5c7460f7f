// Retrieval that a training job can differentiate through: exact log-probabilities over a whole view, gradients of a marginal likelihood.
//
// N passages z_i, a query q, a temperature tau: s_i = q.z_i / tau, p = softmax(s) over all that is alive, passes the filter and is not
// excluded. T is the head: the hits. P_T = sum_T p_i. A reader's log-likelihoods l_i = log p(y | x, z_i) give J = log p(y), and with r the
// posterior (all gradients are of J, ascent; the loss is -J)
//
//   dJ/ds_i = r_i - p_i     dJ/dq = (E_r[z] - E_p[z]) / tau     dJ/dz_i = (r_i - p_i) q / tau     dJ/dl_i = r_i
//
//   kTopK        p and r renormalised over T: p(y) = sum_T (p_i / P_T) e^l_i. What REALM (Guu et al. 2020), RAG (Lewis et al. 2020) and
//                EMDR2 (Singh et al. 2021) do. Biased.
//   kExactZ      p(y) = sum_T p_i e^l_i: log Z and E_p[z] are exact, the posterior is restricted to T.
//   kExactZNull  p(y) = sum_T p_i e^l_i + (1 - P_T) e^l_null: a null passage (REALM's) stands for the tail; its vector is the tail's mean:
//                dJ/dq = [sum_T r_i z_i + r_null E_tail[z] - E_p[z]] / tau
//   kExactZTail  m draws j, independent, from pi_j = p_j / (1 - P_T) outside T (a head and a sampled tail: Mussmann and Ermon 2016;
//                importance weights as in VOD, Lievin et al. 2023): p^ = sum_T p_i e^l_i + (1 - P_T)/m sum_j e^l_j is unbiased, as
//                p^ dlog p^/dq is; dlog p^/dq = [sum_T r_i z_i + sum_j r_j z_j - E_p[z]] / tau, r_j = (1 - P_T)/m e^l_j / p^, has a bias
//                that falls as 1/m. It is the derivative of p^(q) = sum_T p_i(q) e^l_i + 1/m sum_j e^l_j p_j(q) / pi_j with pi_j held.
//   kFull        T is everything.
//
// Vector-Jacobian product, for g_i on log p_i and g_0 on log(1 - P_T), G = sum_T g_i + g_0:
//
//   dq = [sum_T g_i z_i + g_0 E_tail[z] - G E_p[z]] / tau     dz_i = (g_i - G p_i) q / tau
//
// A draw's g_j is on its log weight log(p_j / (pi_j m)), pi_j held: z_j takes the place of E_tail[z]. The tail's mass and mean are sums
// over the tail itself, never 1 - P_T, which cancels. All is float64 and by log-sum-exp: l may be -1e4.
#ifndef LOCI_RETRIEVER_TRAINING_ESTIMATOR_H_
#define LOCI_RETRIEVER_TRAINING_ESTIMATOR_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/matrix.h"
#include "base/thread_pool.h"
#include "index/passage_index.h"
#include "index/softmax_scan.h"
#include "index/view.h"

namespace loci {

inline constexpr int kMaxTailSamples = 10'000;

enum class Estimator { kTopK, kExactZ, kExactZNull, kExactZTail, kFull };

struct TrainingOptions {
  // Of the head T; top_k in it, and the limits. An approximate index may find T: P_T is exact all the same, as log Z is. A query's
  // exclusions and top_k together may be kMaxTopK at most; rescore_factor is of top_k, whatever is excluded. kFull: top_k at least the
  // passages that can be drawn.
  IndexSearchOptions search;
  Estimator estimator = Estimator::kExactZNull;
  double temperature = 1;      // In [kMinTemperature, kMaxTemperature].
  int tail_samples = 0;        // m of kExactZTail, in [1, kMaxTailSamples]; 0 with any other.
  // The draws are a function of (seed, query index, view, options) on every number of threads; of the view with its layout, which one
  // session holds and a restart may change (softmax_scan.h).
  uint64_t seed = 0;
  int64_t first_query = 0;     // Where a batch is retrieved in pieces: the index in it of the piece's first query.
  ThreadPool* pool = nullptr;  // Borrowed; takes part in the scan. Null: the calling thread alone.
  // kTopK: whether all passages are scanned for head_mass and the certificate's bounds, which the estimator itself does not need.
  bool measure_head_mass = true;
};

// One query: what its reply says and what Backward needs. Vectors of hits are not kept: the view has them.
struct TrainingResult {
  std::vector<ViewHit> hits;      // T, best first; at most top_k; fewer only where fewer can be drawn.
  std::vector<double> log_probs;  // Beside hits; renormalised over T for kTopK, exact otherwise.
  // Of scores q.z/temperature over all that is alive, passes the filter and is not excluded; for kTopK over T alone, so that log_probs =
  // q.z/temperature - log_z whatever the estimator. -infinity of none.
  double log_z = 0;
  double head_mass = 0;      // P_T; 1 for kFull; 0 where nothing can be drawn. kTopK: NaN unless options.measure_head_mass.
  double log_null_prob = 0;  // log(1 - P_T), summed over the tail itself; -infinity where the tail is empty; NaN for kTopK.
  std::vector<ViewHit> tail_hits;   // kExactZTail: m draws from p outside T, in order (repeats allowed); none where the tail is empty.
  std::vector<double> mean_vector;  // E_p[z] [dim] (restricted to T for kTopK); zeros where nothing can be drawn.
  std::vector<double> tail_mean;    // E[z] under p restricted to the outside of T [dim]; zeros where there is none. Empty for kTopK.
  // For certificates; NaN where there was no scan (kTopK without measure_head_mass).
  double log_tail_mass = 0;  // log(1 - P_T) under the exact p, for kTopK too.
  double max_length = 0;     // No passage that passes the filter is longer.
  int64_t memory_bytes() const;
};

// queries [n, dim], finite: float32 scores in ExactIndex's order of summation. The float64 overload scores in double against the stored
// vectors; its head is that of the queries rounded to float32, ordered by the float64 scores. `filtered` (null: all), of this view's
// Filter. `excluded` (empty, or one list a query): ids that count zero and are never hits; unknown ids and repeats are passed over.
// Where a device searches the view's body it scans it too, for float32 queries and all estimators but kExactZTail (device_softmax.h): log Z, masses and
// means then agree with the CPU's to about 1e-5 and have the same bits each time on that device; hits and scores are the same.
// INVALID_ARGUMENT (with `field`: query_vectors, top_k, estimator, temperature, tail_samples, exclusions, options...), DEADLINE_EXCEEDED,
// CANCELLED, DATA_LOSS, UNAVAILABLE where that device failed. Blocks; call from a pool thread.
absl::StatusOr<std::vector<TrainingResult>> RetrieveForTraining(const View& view, MatrixView<const float> queries,
                                                                const TrainingOptions& options, const FilteredRows* filtered,
                                                                std::span<const std::vector<std::string>> excluded);
absl::StatusOr<std::vector<TrainingResult>> RetrieveForTraining(const View& view, MatrixView<const double> queries,
                                                                const TrainingOptions& options, const FilteredRows* filtered,
                                                                std::span<const std::vector<std::string>> excluded);

// Columns of the matrices below: top_k, then one for the null (kExactZNull) or tail_samples for the draws (kExactZTail).
int64_t FeedbackColumns(const TrainingOptions& options);

// What came back from the reader. Exactly one of log_likelihoods and grad_log_probs has rows, each of FeedbackColumns(options). Columns of
// hits that are missing, of the null where the tail is empty and of draws where there are none are passed over: they have no probability.
struct TrainingFeedback {
  MatrixView<const double> log_likelihoods;  // [rows, c]; -infinity allowed, NaN and +infinity are INVALID_ARGUMENT.
  // The query of each row; empty: row i is of query i. Rows of one query add up (REALM's masked tokens, RAG-Token).
  std::span<const int32_t> row_query;
  MatrixView<const double> grad_log_probs;   // [rows, c], finite.
  // Bounds l outside T; absent: certificates are NaN. -infinity allowed. INVALID_ARGUMENT where a null's or draw's own l refutes it.
  std::optional<double> max_log_likelihood;
  bool include_passage_gradients = false;
  bool include_likelihood_gradients = false;  // As large as log_likelihoods.
};

struct TrainingGradients {
  std::vector<double> query_gradients;  // [n, dim], of J (ascent). A row whose J is -infinity adds zero.
  std::vector<double> log_marginals;    // J of each row of log_likelihoods; empty for grad_log_probs.
  // One a query, summed over its rows; NaN for grad_log_probs, and without max_log_likelihood. An upper bound of the L2 distance of
  // query_gradients to those of all N passages read, with |z| <= B = max_length, M = e^max_log_likelihood and h = sum_T p_i e^l_i (p
  // exact): outside T lies at most x = max((1 - P_T) M / (h + (1 - P_T) M), r outside T) of either posterior, and within T both are the
  // same, so that the distance is at most (2B/tau) x, and (2B/tau) (1 - P_T) more for kTopK, whose E_p is T's. Rounding is not in it: of
  // float32 scores about 1e-6 B/tau.
  std::vector<double> certificates;
  std::vector<double> passage_gradients;  // [n * top_k, dim], dJ/dz of hit i of query q in row q * top_k + i (zeros where missing).
  // dJ/dl = r, shaped as log_likelihoods; empty unless asked for, and for grad_log_probs. Zeros in a row whose J is -infinity.
  std::vector<double> likelihood_gradients;
};

// `queries` [n, dim] float64 (what was retrieved with), `options` and `results` of that retrieval. Reads T's vectors (and the draws') from
// `view`.
// INVALID_ARGUMENT (with `field`: log_likelihoods, grad_log_probs, also where what comes of it is not finite, row_query,
// max_log_likelihood), CANCELLED, DEADLINE_EXCEEDED, DATA_LOSS.
// Blocks; call from a pool thread.
absl::StatusOr<TrainingGradients> BackwardForTraining(const View& view, MatrixView<const double> queries, const TrainingOptions& options,
                                                      std::span<const TrainingResult> results, const TrainingFeedback& feedback);

}  // namespace loci

#endif  // LOCI_RETRIEVER_TRAINING_ESTIMATOR_H_
