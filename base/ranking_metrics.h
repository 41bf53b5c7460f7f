// Figures of retrieval quality, as trec_eval and BEIR define them.
#ifndef LOCI_BASE_RANKING_METRICS_H_
#define LOCI_BASE_RANKING_METRICS_H_

#include <string>
#include <unordered_map>
#include <vector>

namespace loci {

// Grades of documents by id. Higher is more relevant; 0 and below is not relevant.
using Grades = std::unordered_map<std::string, int>;

struct RankingMetrics {
  double ndcg_at_10 = 0;
  double recall_at_10 = 0;
  double recall_at_100 = 0;
  double mrr_at_10 = 0;
};

// Of one query. `ranking` is the documents found, best first, as the server ordered them (trec_eval would sort ties by id instead).
// A document without a grade has 0; relevant is a grade above 0.
//   nDCG@k: sum over the first k of grade / log2(rank + 1), ranks from 1, negative grades counting 0, over the same sum of the best
//     possible order of all judged documents (trec_eval's ndcg_cut; gain is the grade itself, not 2^grade - 1).
//   recall@k: relevant documents among the first k over all relevant ones.
//   MRR@10: 1 / rank of the first relevant document, 0 where it is not among the first 10.
// All are 0 where no document is relevant; averages leave such queries out.
RankingMetrics EvaluateRanking(const std::vector<std::string>& ranking, const Grades& grades);

// Whether any document has a grade above 0.
bool HasRelevant(const Grades& grades);

}  // namespace loci

#endif  // LOCI_BASE_RANKING_METRICS_H_
