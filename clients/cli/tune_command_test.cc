#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "clients/cli/cli_fixture.h"
#include "clients/cli/tuning_plot.h"
#include "nlohmann/json.hpp"

namespace loci {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

v1::TuningPoint Point(const std::string& index, double recall, double latency_us) {
  v1::TuningPoint point;
  point.set_index(index);
  point.set_recall_at_10(recall);
  point.set_recall_bound(recall - 0.01);
  point.set_latency_us(latency_us);
  point.set_memory_bytes(3 << 20);
  point.set_build_ms(65'000);
  return point;
}

class TuneCommandTest : public CliTest {
 protected:
  void SetUp() override {
    v1::IndexTuning& tuning = *reply_.mutable_tuning();
    reply_.set_generation("g4");
    tuning.set_recall_target(0.95);
    tuning.set_row_count(54'846);
    tuning.set_sample_row_count(50'000);
    tuning.set_query_count(300);
    tuning.set_query_source("made");
    tuning.set_reason("the fastest");
    *tuning.add_front() = Point("IVF1024,PQ96", 0.97, 123.4);
    tuning.mutable_front(0)->set_nprobe(24);
    tuning.mutable_front(0)->set_rescore_factor(16);
    tuning.mutable_front(0)->set_chosen(true);
    *tuning.add_front() = Point("exact", 1, 3210);
    server_.on_tune = [this](const v1::TuneStoreRequest& request, v1::TuneStoreResponse* response) {
      request_ = request;
      response->set_job("j1");
      return grpc::Status::OK;
    };
    server_.on_watch_job = [this](const v1::WatchJobRequest& request, grpc::ServerContext*, grpc::ServerWriter<v1::Job>* writer) {
      v1::Job job;
      job.set_job(request.job());
      job.set_kind("tune");
      job.set_phase("tune");
      job.set_state(v1::JOB_STATE_RUNNING);
      writer->Write(job);
      job.set_state(end_);
      job.set_error_code(error_code_);
      if (end_ == v1::JOB_STATE_SUCCEEDED) *job.mutable_tune() = reply_;
      writer->Write(job);
      return grpc::Status::OK;
    };
  }
  static std::string Read(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  std::string directory() { return std::filesystem::path(Write("x", "")).parent_path().string(); }

  v1::TuneStoreRequest request_;
  v1::TuneStoreResponse reply_;
  v1::JobState end_ = v1::JOB_STATE_SUCCEEDED;
  int error_code_ = 0;
};

TEST_F(TuneCommandTest, PrintsTheFrontWithTheChosenOneMarked) {
  EXPECT_EQ(Run({"tune", "movies", "--recall", "0.98", "--memory", "2GiB"}), 0) << err();
  EXPECT_EQ(request_.store(), "movies");
  EXPECT_EQ(request_.recall_target(), 0.98);
  EXPECT_EQ(request_.memory_budget_bytes(), int64_t{2} << 30);
  EXPECT_TRUE(request_.no_wait());
  EXPECT_THAT(out(), AllOf(HasSubstr("INDEX"), HasSubstr("*   IVF1024,PQ96"), HasSubstr("123 us"), HasSubstr("3.2 ms"), HasSubstr("0.9700"),
                           HasSubstr("0.9600"), HasSubstr("54,846 vectors"), HasSubstr("the fastest")));
  EXPECT_THAT(out(), Not(HasSubstr("*   exact")));
  EXPECT_EQ(Run({"tune", "movies", "-o", "json"}), 0) << err();
  EXPECT_EQ(request_.recall_target(), 0.95);
  EXPECT_EQ(request_.memory_budget_bytes(), 0);
  EXPECT_EQ(nlohmann::json::parse(out())["tuning"]["front"][0]["index"], "IVF1024,PQ96");
}

TEST_F(TuneCommandTest, GenerationsTellWhyTheirIndexWasChosen) {
  server_.on_list_generations = [this](const v1::ListGenerationsRequest&, v1::ListGenerationsResponse* response) {
    response->set_generation("g4");
    for (const char* name : {"g3", "g4"}) {
      v1::Generation& generation = *response->add_generations();
      generation.set_generation(name);
      generation.set_index("exact:int8");
      *generation.mutable_tuning() = reply_.tuning();
      generation.mutable_tuning()->set_reason(std::string("0 queries\n of ") + name);
    }
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"get", "generations", "movies"}), 0) << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("\nauto took exact:int8: 0 queries of g4\n"), Not(HasSubstr("of g3"))));
}

TEST_F(TuneCommandTest, SendsTheQueriesOfAFile) {
  const std::string queries = Write("queries.jsonl", "{\"_id\": \"1\", \"text\": \"one\"}\n{\"id\": 2, \"text\": \"two\"}\n");
  EXPECT_EQ(Run({"tune", "movies", "--queries", queries, "--sample", "2000"}), 0) << err();
  ASSERT_EQ(request_.queries_size(), 2);
  EXPECT_EQ(request_.queries(1), "two");
  EXPECT_EQ(request_.sample_row_count(), 2000);
  EXPECT_EQ(Run({"tune", "movies", "--queries", Write("empty.jsonl", "")}), 1);
  EXPECT_THAT(err(), HasSubstr("no query is in it"));
  EXPECT_EQ(Run({"tune", "movies", "--queries", "/absent/file"}), 1);
  EXPECT_THAT(err(), HasSubstr("/absent/file"));
}

TEST_F(TuneCommandTest, RefusesWhatIsNoTargetOrBudget) {
  for (const char* recall : {"0", "1.5", "nan", "-1", "x", ""}) EXPECT_EQ(Run({"tune", "movies", "--recall", recall}), 2) << recall;
  for (const char* memory : {"0", "1", "1023KiB", "-1", "much", "", "1.5GiB"}) {
    EXPECT_EQ(Run({"tune", "movies", "--memory", memory}), 2) << memory;
    EXPECT_THAT(err(), HasSubstr("at least 1MiB"));
  }
  EXPECT_EQ(Run({"tune", "movies", "--sample", "999"}), 2);
  EXPECT_EQ(Run({"tune", "movies", "--no-wait", "--svg", "x.svg"}), 2);
  EXPECT_EQ(Run({"tune"}), 2);
}

TEST_F(TuneCommandTest, WritesAPlotAndKeepsAFileThatIsThere) {
  const std::string path = directory() + "/front.svg";
  EXPECT_EQ(Run({"tune", "movies", "--svg", path}), 0) << err();
  EXPECT_THAT(Read(path), AllOf(HasSubstr("<svg"), HasSubstr("IVF1024,PQ96"), HasSubstr("target 0.95"), HasSubstr("</svg>")));
  EXPECT_EQ(Run({"tune", "movies", "--svg", path}), 1);
  EXPECT_THAT(err(), HasSubstr("front.svg"));
  EXPECT_EQ(Run({"tune", "movies", "--svg", path, "--force"}), 0) << err();
  end_ = v1::JOB_STATE_FAILED;
  error_code_ = 8;
  EXPECT_EQ(Run({"tune", "movies", "--svg", directory() + "/other.svg"}), 1);
  EXPECT_FALSE(std::filesystem::exists(directory() + "/other.svg"));
}

TEST_F(TuneCommandTest, ExitsByTheJobsEnd) {
  for (const v1::JobState state : {v1::JOB_STATE_FAILED, v1::JOB_STATE_CANCELLED, v1::JOB_STATE_INTERRUPTED}) {
    end_ = state;
    EXPECT_EQ(Run({"tune", "movies"}), 1) << state;
    EXPECT_EQ(out(), "");
    EXPECT_THAT(err(), HasSubstr("job j1 ended as"));
  }
  end_ = v1::JOB_STATE_RUNNING;
  EXPECT_EQ(Run({"tune", "movies"}), 3);
  EXPECT_THAT(err(), HasSubstr("loci cancel j1"));
  EXPECT_EQ(Run({"tune", "movies", "--no-wait"}), 0);
  EXPECT_THAT(out(), HasSubstr("loci watch j1"));
  request_.Clear();
  EXPECT_EQ(Run({"tune", "movies", "--dry-run"}), 0);
  EXPECT_EQ(request_.recall_target(), 0) << "nothing was sent";
  server_.on_tune = [](const v1::TuneStoreRequest&, v1::TuneStoreResponse*) {
    return FakeError(grpc::StatusCode::FAILED_PRECONDITION, "it has no passages", "EMPTY_STORE", {});
  };
  EXPECT_EQ(Run({"tune", "movies"}), 1);
  EXPECT_THAT(err(), HasSubstr("no passages"));
}

TEST(TuningPlotSvg, IsWellFormedWhateverTheFigures) {
  v1::IndexTuning tuning;
  EXPECT_THAT(TuningPlotSvg(tuning, "empty"), HasSubstr("</svg>"));
  tuning.set_recall_target(NAN);
  *tuning.add_front() = Point("<a href=\"x\">&</a>", NAN, INFINITY);
  *tuning.add_front() = Point("exact", -5, -5);
  const std::string svg = TuningPlotSvg(tuning, "a < b & \"c\"\n\x1b[31m");
  EXPECT_THAT(svg, AllOf(Not(HasSubstr("<a ")), HasSubstr("&lt;a href"), HasSubstr("a &lt; b &amp;"), Not(HasSubstr("nan,")), Not(HasSubstr("inf")),
                         Not(HasSubstr("\x1b"))));
}

}  // namespace
}  // namespace loci
