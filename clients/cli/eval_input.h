// Queries and relevance judgements, as BEIR and TREC write them; plain or gzipped.
#ifndef LOCI_CLIENTS_CLI_EVAL_INPUT_H_
#define LOCI_CLIENTS_CLI_EVAL_INPUT_H_

#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ranking_metrics.h"

namespace loci {

struct EvalQuery {
  std::string id;
  std::string text;
};

// By query id.
using Judgements = std::unordered_map<std::string, Grades>;

// A JSONL file of {"_id" or "id": string or integer, "text": string}. INVALID_ARGUMENT names file and line of a bad one, of an id
// that came before, or that there is none: a figure over some of the queries would mislead.
absl::StatusOr<std::vector<EvalQuery>> ReadQueries(const std::string& path);

// `query-id<TAB>corpus-id<TAB>grade` with or without a header (BEIR), or `query-id 0 document-id grade` (TREC). Where a line has tabs
// only they separate, otherwise any blanks. Errors as in ReadQueries(); a pair judged twice with different grades is one.
absl::StatusOr<Judgements> ReadJudgements(const std::string& path);

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_EVAL_INPUT_H_
