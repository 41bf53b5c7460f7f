#include "base/ranking_metrics.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "clients/cli/eval_input.h"

namespace loci {
namespace {

// By hand: DCG = 3/log2(2) + 0 + 1/log2(4) = 3.5; ideal = 3/log2(2) + 2/log2(3) + 1/log2(4) = 4.761860; b is not found.
TEST(RankingMetrics, AgreesWithHandComputedGradedCase) {
  const RankingMetrics metrics = EvaluateRanking({"a", "x", "c"}, {{"a", 3}, {"b", 2}, {"c", 1}, {"n", 0}});
  EXPECT_NEAR(metrics.ndcg_at_10, 3.5 / 4.761859507142915, 1e-12);
  EXPECT_NEAR(metrics.recall_at_10, 2.0 / 3, 1e-12);
  EXPECT_NEAR(metrics.recall_at_100, 2.0 / 3, 1e-12);
  EXPECT_EQ(metrics.mrr_at_10, 1.0);
}

TEST(RankingMetrics, CutsAtTenAndAtAHundred) {
  std::vector<std::string> ranking;
  for (int i = 1; i <= 120; ++i) ranking.push_back("d" + std::to_string(i));
  const RankingMetrics metrics = EvaluateRanking(ranking, {{"d11", 1}, {"d100", 1}, {"d101", 1}, {"d4", 1}});
  EXPECT_NEAR(metrics.recall_at_10, 0.25, 1e-12);
  EXPECT_NEAR(metrics.recall_at_100, 0.75, 1e-12);
  EXPECT_EQ(metrics.mrr_at_10, 0.25);
  // 1/log2(5) over 1 + 1/log2(3) + 1/2 + 1/log2(5).
  EXPECT_NEAR(metrics.ndcg_at_10, 0.16812753, 1e-8);
  EXPECT_EQ(EvaluateRanking(ranking, {{"d11", 1}}).mrr_at_10, 0);
}

TEST(RankingMetrics, NegativeGradesAreNotRelevant) {
  EXPECT_FALSE(HasRelevant({{"a", 0}, {"b", -1}}));
  EXPECT_TRUE(HasRelevant({{"a", 1}}));
  const RankingMetrics metrics = EvaluateRanking({"b", "a"}, {{"a", 1}, {"b", -1}});
  EXPECT_EQ(metrics.mrr_at_10, 0.5);
  EXPECT_NEAR(metrics.ndcg_at_10, 0.6309297535714575, 1e-12);
  EXPECT_EQ(EvaluateRanking({"b"}, {{"b", -1}}).ndcg_at_10, 0);
}

class EvalInputTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& text) {
    path_ = ::testing::TempDir() + "/eval_input_" + std::to_string(getpid());
    std::ofstream(path_, std::ios::binary) << text;
    return path_;
  }
  ~EvalInputTest() override { std::remove(path_.c_str()); }
  std::string path_;
};

TEST_F(EvalInputTest, ReadsBeirAndTrecJudgements) {
  const auto beir = ReadJudgements(Write("query-id\tcorpus-id\tscore\nq 1\td1\t2\r\nq 1\td2\t-1\n\nq2\td1\t0\n"));
  ASSERT_TRUE(beir.ok()) << beir.status();
  EXPECT_EQ(beir->at("q 1").at("d1"), 2);
  EXPECT_EQ(beir->at("q 1").at("d2"), -1);
  EXPECT_EQ(beir->at("q2").at("d1"), 0);
  const auto trec = ReadJudgements(Write("1 0 d1 1\n1 0 d2  0\n"));
  ASSERT_TRUE(trec.ok()) << trec.status();
  EXPECT_EQ(trec->at("1").at("d1"), 1);
}

TEST_F(EvalInputTest, RefusesBadFilesNamingTheLine) {
  const auto message = [](const auto& result) { return std::string(result.status().message()); };
  EXPECT_NE(message(ReadJudgements(Write("q\td\t1\nq\td2\tx\n"))).find(":2: grade \"x\""), std::string::npos);
  EXPECT_NE(message(ReadJudgements(Write("q\td\t1\nq\td\t0\n"))).find(":2: document"), std::string::npos);
  EXPECT_NE(message(ReadJudgements(Write("q d\n"))).find("2 columns"), std::string::npos);
  EXPECT_FALSE(ReadJudgements(Write("")).ok());
  EXPECT_NE(message(ReadQueries(Write("{\"id\": 1, \"text\": \"a\"}\n{\"_id\": \"1\", \"text\": \"b\"}\n")))
                .find(":2: query id \"1\" came before"),
            std::string::npos);
  EXPECT_NE(message(ReadQueries(Write("{\"id\": 1}\n"))).find(":1: field \"text\""), std::string::npos);
  EXPECT_FALSE(ReadQueries("/nonexistent").ok());
}

TEST_F(EvalInputTest, ReadsQueriesInTheirOrder) {
  const auto queries = ReadQueries(Write("{\"_id\": 7, \"text\": \"a\", \"metadata\": {}}\n{\"id\": \"x\", \"text\": \"b\"}\n"));
  ASSERT_TRUE(queries.ok()) << queries.status();
  ASSERT_EQ(queries->size(), 2u);
  EXPECT_EQ((*queries)[0].id, "7");
  EXPECT_EQ((*queries)[1].text, "b");
}

}  // namespace
}  // namespace loci
