#include "clients/cli/gate_flags.h"

#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "clients/cli/display.h"
#include "clients/cli/eval_input.h"
#include "clients/cli/text_table.h"

namespace loci {

absl::Status ParseDurationUs(std::string_view text, int64_t* duration_us) {
  constexpr std::string_view kUnit = "us";
  int64_t number = 0;
  if (text.ends_with(kUnit) && absl::SimpleAtoi(AbslView(text.substr(0, text.size() - kUnit.size())), &number) && number > 0) {
    *duration_us = number;
    return absl::OkStatus();
  }
  int64_t duration_ms = 0;
  LOCI_RETURN_IF_ERROR(ParseDurationMs(text, &duration_ms));
  if (duration_ms <= 0) return absl::InvalidArgumentError(absl::StrCat("\"", AbslView(text), "\" is no time above 0: 500us, 10ms, 1s"));
  *duration_us = duration_ms * 1000;
  return absl::OkStatus();
}

void GateFlags::Declare(FlagSet* flags) {
  flags->Section("Conditions");
  flags->String("queries", &queries_path_, "FILE", "BEIR queries (JSONL, gzipped or not), at most 1,024, that the conditions are measured by.");
  flags->String("qrels", &qrels_path_, "FILE", "Their judgements, for --min-ndcg and --min-recall.");
  flags->Double("min-ndcg", &min_ndcg_, 0, 1, "Mean nDCG@10 over the judged queries, at least.");
  flags->Double("min-recall", &min_recall_, 0, 1, "Mean recall@10 over the judged queries, at least.");
  flags->Double("min-overlap", &min_overlap_, 0, 1, "Mean share of the first 10 that what serves finds as well, at least.");
  flags->String("max-p99", &max_p99_, "TIME", "Of one query's search, encoding left out, at most: 500us, 10ms.");
}

absl::Status GateFlags::Check(const FlagSet& flags) const {
  const bool needs_judgements = flags.WasGiven("min-ndcg") || flags.WasGiven("min-recall");
  const bool has_condition = needs_judgements || flags.WasGiven("min-overlap") || flags.WasGiven("max-p99");
  if (queries_path_.empty() && (has_condition || !qrels_path_.empty())) return absl::InvalidArgumentError("conditions and --qrels need --queries FILE");
  if (qrels_path_.empty() && needs_judgements) return absl::InvalidArgumentError("--min-ndcg and --min-recall need --qrels FILE");
  int64_t max_p99_us = 0;
  return flags.WasGiven("max-p99") ? ParseDurationUs(max_p99_, &max_p99_us) : absl::OkStatus();
}

absl::Status GateFlags::Fill(const FlagSet& flags, v1::ActivationGates* gates) const {
  if (flags.WasGiven("min-ndcg")) gates->set_min_ndcg_at_10(min_ndcg_);
  if (flags.WasGiven("min-recall")) gates->set_min_recall_at_10(min_recall_);
  if (flags.WasGiven("min-overlap")) gates->set_min_overlap_at_10(min_overlap_);
  if (flags.WasGiven("max-p99")) {
    int64_t max_p99_us = 0;
    LOCI_RETURN_IF_ERROR(ParseDurationUs(max_p99_, &max_p99_us));
    gates->set_max_p99_us(max_p99_us);
  }
  if (queries_path_.empty()) return absl::OkStatus();
  LOCI_ASSIGN_OR_RETURN(const std::vector<EvalQuery> queries, ReadQueries(queries_path_));
  Judgements judgements;
  if (!qrels_path_.empty()) {
    LOCI_ASSIGN_OR_RETURN(judgements, ReadJudgements(qrels_path_));
  }
  bool any = false;
  for (const EvalQuery& query : queries) {
    v1::GateQuery& filled = *gates->add_queries();
    filled.set_text(query.text);
    const auto judged = judgements.find(query.id);
    if (judged == judgements.end()) continue;
    any = true;
    for (const auto& [id, grade] : judged->second) {
      v1::GateQuery::Judgement& judgement = *filled.add_judgements();
      judgement.set_id(id);
      judgement.set_grade(grade);
    }
  }
  if (!qrels_path_.empty() && !any) return absl::InvalidArgumentError("no query is judged: do --queries and --qrels belong together?");
  return absl::OkStatus();
}

void PrintGateFigures(CliContext& cli, const google::protobuf::RepeatedPtrField<v1::GateFigure>& figures) {
  if (figures.empty()) return;
  TextTable table({{"CONDITION"}, {"MEASURED", TextTable::kRight}, {"DEMANDED", TextTable::kRight}, {"QUERIES", TextTable::kRight}, {"MET"}});
  for (const v1::GateFigure& figure : figures) {
    table.AddRow({SanitizeLine(figure.condition()), absl::StrFormat("%.6g", figure.value()),
                  std::isnan(figure.limit()) ? "-" : absl::StrFormat("%.6g", figure.limit()), FormatCount(figure.query_count()),
                  std::isnan(figure.limit()) ? "-" : figure.met() ? "yes" : "no"});
  }
  cli.PrintTable(table);
}

}  // namespace loci
