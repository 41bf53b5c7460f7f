// loci eval.
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/ranking_metrics.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/eval_input.h"
#include "clients/cli/progress.h"
#include "clients/cli/search_flags.h"
#include "nlohmann/json.hpp"

namespace loci {
namespace {

constexpr int kQueriesPerRequest = 32;

class EvalCommand final : public Command {
 public:
  std::string name() const override { return "eval"; }
  std::string summary() const override { return "Measure retrieval quality with judged queries"; }
  std::string details() const override {
    return "Prints nDCG@10 (graded, as trec_eval), recall@10, recall@100 and MRR@10, averaged over the queries that have a "
           "document of a\n"
           "grade above 0; others are left out, and grades below 0 count as not relevant. With --top-k below 100 recall@100 is "
           "that of\n"
           "what was found. The run ends with an error where the store changes under it.\n";
  }
  std::string examples() const override {
    return "  loci eval scifact --queries scifact/queries.jsonl --qrels scifact/qrels/test.tsv\n"
           "  loci eval scifact --queries queries.jsonl.gz --qrels qrels.tsv.gz --exact -o json\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->String("queries", &queries_path_, "FILE", "BEIR queries: JSONL with _id or id, and text.");
    flags->String("qrels", &qrels_path_, "FILE", "Judgements: BEIR's three columns or TREC's four.");
    flags->Int("top-k", &top_k_, 10, 10000, "Passages to find for a query, 10 to 10,000.");
    search_.Declare(flags);
    flags->Bool("ignore-identical-ids", &ignore_identical_ids_, "Drop a passage that has the query's own id (as BEIR does).");
  }

  int Run(CliContext& cli, const FlagSet&) override {
    if (queries_path_.empty() || qrels_path_.empty()) return cli.UsageError("flags --queries FILE and --qrels FILE are needed");
    const absl::StatusOr<std::vector<EvalQuery>> all_queries = ReadQueries(queries_path_);
    if (!all_queries.ok()) return cli.Fail(all_queries.status());
    const absl::StatusOr<Judgements> judgements = ReadJudgements(qrels_path_);
    if (!judgements.ok()) return cli.Fail(judgements.status());
    std::vector<const EvalQuery*> queries;
    for (const EvalQuery& query : *all_queries) {
      const auto entry = judgements->find(query.id);
      if (entry != judgements->end() && HasRelevant(entry->second)) queries.push_back(&query);
    }
    if (queries.empty())
      return cli.Fail(absl::InvalidArgumentError("no query has a judged relevant document: do the files belong together?"));
    int64_t judged_count = 0;
    for (const auto& [id, grades] : *judgements) judged_count += HasRelevant(grades);
    if (judged_count > static_cast<int64_t>(queries.size())) {
      cli.err() << "note: " << judged_count - static_cast<int64_t>(queries.size())
                << " judged queries are not in the file of queries\n";
    }

    RankingMetrics sum;
    v1::SearchResponse last;
    std::atomic<int64_t> done{0};
    const int64_t total = static_cast<int64_t>(queries.size());
    {
      Progress progress(cli.err(), cli.environment().err_width, "queries", [&] {
        return Progress::Numbers{done.load(), done.load(), total};
      });
      for (size_t begin = 0; begin < queries.size(); begin += kQueriesPerRequest) {
        const size_t end = std::min(queries.size(), begin + kQueriesPerRequest);
        v1::SearchRequest request;
        request.set_store(store_);
        request.set_top_k(static_cast<int32_t>(std::min<int64_t>(top_k_ + (ignore_identical_ids_ ? 1 : 0), 10000)));
        search_.Fill(&request);
        for (size_t i = begin; i < end; ++i) request.add_queries()->set_text(queries[i]->text);
        v1::SearchResponse response;
        grpc::ClientContext context;
        cli.SetDeadline(&context, CliContext::kDefaultTimeoutMs);
        const grpc::Status status = cli.retrieval().Search(&context, request, &response);
        if (!status.ok()) {
          progress.Stop();
          return cli.Fail(status);
        }
        const absl::Status check = CheckResponse(response, end - begin, begin > 0 ? &last : nullptr);
        if (!check.ok()) {
          progress.Stop();
          return cli.Fail(check);
        }
        for (size_t i = begin; i < end; ++i) {
          AddQuery(response.results(static_cast<int>(i - begin)), *queries[i], judgements->at(queries[i]->id), &sum);
        }
        response.clear_results();
        last = response;
        done.store(static_cast<int64_t>(end));
      }
    }
    return Print(cli, sum, total, static_cast<int64_t>(all_queries->size()) - total, last);
  }

 private:
  static absl::Status CheckResponse(const v1::SearchResponse& response, size_t query_count, const v1::SearchResponse* before) {
    if (static_cast<size_t>(response.results_size()) != query_count) {
      return absl::InternalError(
          absl::StrCat("the server sent ", response.results_size(), " results for ", query_count, " queries"));
    }
    if (before != nullptr && (before->generation() != response.generation() || before->revision() != response.revision())) {
      return absl::AbortedError(absl::StrCat("the store changed during the run, from generation ", before->generation(),
                                             " revision ", before->revision(), " to ", response.generation(), " revision ",
                                             response.revision(), "; run it again"));
    }
    return absl::OkStatus();
  }

  void AddQuery(const v1::QueryResult& result, const EvalQuery& query, const Grades& grades, RankingMetrics* sum) const {
    std::vector<std::string> ranking;
    for (const v1::Hit& hit : result.hits()) {
      if (ignore_identical_ids_ && hit.id() == query.id) continue;
      if (static_cast<int64_t>(ranking.size()) < top_k_) ranking.push_back(hit.id());
    }
    const RankingMetrics metrics = EvaluateRanking(ranking, grades);
    sum->ndcg_at_10 += metrics.ndcg_at_10;
    sum->recall_at_10 += metrics.recall_at_10;
    sum->recall_at_100 += metrics.recall_at_100;
    sum->mrr_at_10 += metrics.mrr_at_10;
  }

  int Print(CliContext& cli, const RankingMetrics& sum, int64_t count, int64_t left_out, const v1::SearchResponse& last) const {
    const double n = static_cast<double>(count);
    if (cli.json()) {
      const nlohmann::ordered_json report = {
          {"ndcg_at_10", sum.ndcg_at_10 / n},
          {"recall_at_10", sum.recall_at_10 / n},
          {"recall_at_100", sum.recall_at_100 / n},
          {"mrr_at_10", sum.mrr_at_10 / n},
          {"query_count", count},
          {"left_out_query_count", left_out},
          {"top_k", top_k_},
          {"exact", last.exact()},
          {"store", StoreName(store_)},
          {"generation", last.generation()},
          {"revision", last.revision()},
          {"encoder_fingerprint", last.encoder_fingerprint()},
      };
      cli.out() << report.dump(1) << '\n';
      return kExitOk;
    }
    TextTable table({{"NDCG@10", TextTable::kRight},
                     {"RECALL@10", TextTable::kRight},
                     {"RECALL@100", TextTable::kRight},
                     {"MRR@10", TextTable::kRight},
                     {"QUERIES", TextTable::kRight},
                     {"LEFT OUT", TextTable::kRight},
                     {"SEARCH"},
                     {"GENERATION"}});
    table.AddRow({FormatFixed(sum.ndcg_at_10 / n, 4), FormatFixed(sum.recall_at_10 / n, 4), FormatFixed(sum.recall_at_100 / n, 4),
                  FormatFixed(sum.mrr_at_10 / n, 4), FormatCount(count), FormatCount(left_out),
                  last.exact() ? "exact" : "approximate", last.generation()});
    cli.PrintTable(table);
    return kExitOk;
  }

  std::string store_, queries_path_, qrels_path_;
  int64_t top_k_ = 100;
  SearchFlags search_;
  bool ignore_identical_ids_ = false;
};

}  // namespace

void AddEvalCommand(Commands* commands) { commands->push_back(std::make_unique<EvalCommand>()); }

}  // namespace loci
