// loci quantize, and what other commands show of its record.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "clients/cli/cli_fixture.h"
#include "nlohmann/json.hpp"

namespace loci {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

void AddPrecision(const std::string& type, double cosine, double overlap, double tokens_per_second, v1::EncoderFidelity* fidelity) {
  v1::PrecisionFidelity& precision = *fidelity->add_precisions();
  precision.set_element_type(type);
  precision.set_cosine_mean(cosine);
  precision.set_cosine_min(cosine - 0.01);
  precision.set_top_10_overlap(overlap);
  precision.set_tokens_per_second(tokens_per_second);
}

v1::EncoderFidelity Fidelity() {
  v1::EncoderFidelity fidelity;
  fidelity.set_encoder_fingerprint("aa:bb");
  fidelity.set_measured_unix_us(1'763'800'000'000'000);
  fidelity.set_generation("g4");
  fidelity.set_revision(7);
  fidelity.set_passage_count(54'846);
  fidelity.set_sample_count(1'000);
  fidelity.set_token_count(135'211);
  fidelity.set_cpu_isa("avx512");
  AddPrecision("float32", 1, 1, 10'000, &fidelity);
  AddPrecision("bfloat16", 0.99998, 0.995, 24'000, &fidelity);
  AddPrecision("int8", 0.9991, 0.9712, 31'400, &fidelity);
  return fidelity;
}

class QuantizeCommandTest : public CliTest {
 protected:
  void SetUp() override {
    server_.on_quantize = [this](const v1::QuantizeStoreRequest& request, v1::QuantizeStoreResponse* response) {
      request_ = request;
      response->set_job("j1");
      return grpc::Status::OK;
    };
    server_.on_watch_job = [this](const v1::WatchJobRequest& request, grpc::ServerContext*, grpc::ServerWriter<v1::Job>* writer) {
      v1::Job job;
      job.set_job(request.job());
      job.set_kind("quantize");
      job.set_store("movies");
      job.set_phase("encoding");
      job.set_done(500);
      job.set_total(1'000);
      job.set_unit("passages");
      job.set_state(v1::JOB_STATE_RUNNING);
      writer->Write(job);
      job.set_state(end_);
      if (end_ == v1::JOB_STATE_SUCCEEDED) *job.mutable_quantize()->mutable_fidelity() = Fidelity();
      writer->Write(job);
      return grpc::Status::OK;
    };
    server_.on_update_store = [this](const v1::UpdateStoreRequest& request, v1::UpdateStoreResponse* response) {
      store_.set_store(request.store());
      if (request.has_encoder_precision()) store_.set_encoder_precision(request.encoder_precision());
      *response->mutable_store() = store_;
      return grpc::Status::OK;
    };
  }

  v1::QuantizeStoreRequest request_;
  v1::JobState end_ = v1::JOB_STATE_SUCCEEDED;
  v1::Store store_;
};

TEST_F(QuantizeCommandTest, PrintsEachPrecisionAndWhatWasMeasured) {
  EXPECT_EQ(Run({"quantize", "movies", "--sample", "500"}), 0) << err();
  EXPECT_EQ(request_.store(), "movies");
  EXPECT_EQ(request_.sample_count(), 500);
  EXPECT_TRUE(request_.no_wait());
  EXPECT_THAT(out(), AllOf(HasSubstr("float32"), HasSubstr("bfloat16"), HasSubstr("0.99910"), HasSubstr("0.98910"), HasSubstr("0.9712"), HasSubstr("31,400"),
                           HasSubstr("VS FLOAT32"), HasSubstr("VS BFLOAT16"), HasSubstr("3.14x"), HasSubstr("1.31x"), HasSubstr("1,000 of 54,846 passages, 135,211 tokens"), HasSubstr("generation g4, revision 7"),
                           HasSubstr("encoder aa:bb, measured 2025-11-22"), HasSubstr("avx512"), HasSubstr("loci set store movies --encoder-precision int8")));
  EXPECT_EQ(Run({"quantize", "movies", "-o", "json"}), 0) << err();
  EXPECT_EQ(request_.sample_count(), 1'000);
  EXPECT_EQ(nlohmann::json::parse(out())["fidelity"]["precisions"][2]["element_type"], "int8");
  EXPECT_EQ(Run({"watch", "j1"}), 0) << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("SUCCEEDED"), HasSubstr("0.9712")));
}

TEST_F(QuantizeCommandTest, ExitsByTheJobsEndAndByWhatIsRefused) {
  for (const char* sample : {"19", "10001", "-1", "x", ""}) EXPECT_EQ(Run({"quantize", "movies", "--sample", sample}), 2) << sample;
  EXPECT_EQ(Run({"quantize"}), 2);
  EXPECT_EQ(Run({"quantize", "--help"}), 0);
  EXPECT_THAT(out(), HasSubstr("20 to 10,000"));
  EXPECT_EQ(Run({"quantize", "movies", "--dry-run"}), 0);
  EXPECT_EQ(request_.store(), "") << "nothing was sent";
  for (const v1::JobState state : {v1::JOB_STATE_FAILED, v1::JOB_STATE_CANCELLED, v1::JOB_STATE_INTERRUPTED}) {
    end_ = state;
    EXPECT_EQ(Run({"quantize", "movies"}), 1) << state;
    EXPECT_EQ(out(), "");
    EXPECT_THAT(err(), HasSubstr("job j1 ended as"));
  }
  end_ = v1::JOB_STATE_RUNNING;
  EXPECT_EQ(Run({"quantize", "movies"}), 3);
  EXPECT_THAT(err(), HasSubstr("loci cancel j1"));
  EXPECT_EQ(Run({"quantize", "movies", "--no-wait"}), 0);
  EXPECT_THAT(out(), HasSubstr("loci watch j1"));
  server_.on_quantize = [](const v1::QuantizeStoreRequest&, v1::QuantizeStoreResponse*) {
    return FakeError(grpc::StatusCode::FAILED_PRECONDITION, "store \"movies\" serves 3 passages", "TOO_FEW_PASSAGES", {});
  };
  EXPECT_EQ(Run({"quantize", "movies"}), 1);
  EXPECT_THAT(err(), HasSubstr("serves 3 passages"));
}

TEST_F(QuantizeCommandTest, SettingInt8WarnsWhereNothingWasMeasuredWithTheStoresEncoder) {
  const auto set = [this](const std::string& precision) { return Run({"set", "store", "movies", "--encoder-precision", precision}); };
  store_.set_encoder_fingerprint("aa:bb");
  store_.set_generation("g4");
  store_.set_passage_count(100);
  EXPECT_EQ(set("int8"), 0);
  EXPECT_THAT(err(), AllOf(HasSubstr("warning: nobody has measured"), HasSubstr("; loci quantize movies")));
  EXPECT_EQ(out(), "texts of store movies are encoded in int8 from now on; loci reembed movies --encoder aa:bb encodes the others anew\n");
  EXPECT_EQ(set("auto"), 0);
  EXPECT_EQ(err(), "");
  EXPECT_EQ(Run({"set", "store", "movies", "--encoder-precision", "int8", "-o", "json"}), 0);
  EXPECT_THAT(err(), HasSubstr("warning"));
  EXPECT_EQ(nlohmann::json::parse(out())["store"]["encoder_precision"], "int8");
  *store_.mutable_int8_fidelity() = Fidelity();
  EXPECT_EQ(set("int8"), 0);
  EXPECT_EQ(err(), "");
  store_.set_generation("g5");
  EXPECT_EQ(set("int8"), 0);
  EXPECT_THAT(err(), AllOf(HasSubstr("warning"), HasSubstr("over generation g4, and g5 is the active one now; loci quantize movies")));
  EXPECT_EQ(set("auto"), 0);
  EXPECT_EQ(err(), "");
  store_.set_encoder_fingerprint("cc:dd");
  EXPECT_EQ(set("int8"), 0);
  EXPECT_THAT(err(), AllOf(HasSubstr("warning"), HasSubstr("aa:bb"), HasSubstr("cc:dd")));
  store_.clear_encoder_fingerprint();
  EXPECT_EQ(set("auto"), 0);
  EXPECT_EQ(out(), "texts of store movies are encoded as the server is configured from now on\n") << "nothing is there to encode anew";
  EXPECT_EQ(Run({"set", "store", "movies", "--keep-generations", "2"}), 0);
  EXPECT_EQ(err(), "") << "the precision was not set";
  server_.on_create_store = [](const v1::CreateStoreRequest& request, v1::CreateStoreResponse* response) {
    response->mutable_store()->set_store(request.store());
    response->mutable_store()->set_encoder_precision(request.has_encoder_precision() ? request.encoder_precision() : "auto");
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"create", "store", "new", "--encoder-precision", "int8"}), 0);
  EXPECT_THAT(err(), HasSubstr("once it has passages, loci quantize new"));
  EXPECT_EQ(Run({"create", "store", "new"}), 0);
  EXPECT_EQ(err(), "");
}

TEST_F(QuantizeCommandTest, StoresShowTheirRecord) {
  server_.on_list_stores = [](v1::ListStoresResponse* response) {
    for (const char* name : {"bare", "changed", "measured", "rebuilt"}) {
      v1::Store& store = *response->add_stores();
      store.set_store(name);
      store.set_generation(name == std::string("rebuilt") ? "g5" : "g4");
      store.set_encoder_fingerprint(name == std::string("changed") ? "cc:dd" : "aa:bb");
      if (name != std::string("bare")) *store.mutable_int8_fidelity() = Fidelity();
    }
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"get", "stores"}), 0) << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("INT8 OVERLAP"), HasSubstr("0.9712"), Not(HasSubstr("0.99910"))));
  for (const auto& [name, is_old] : {std::pair("\nchanged ", true), std::pair("\nmeasured ", false), std::pair("\nrebuilt ", true)}) {
    const size_t row = out().find(name);
    ASSERT_NE(row, std::string::npos) << name;
    EXPECT_EQ(out().substr(row, out().find('\n', row + 1) - row).find("0.9712 old") != std::string::npos, is_old) << name;
  }
  EXPECT_EQ(Run({"get", "stores", "-o", "json"}), 0) << err();
  const nlohmann::json stores = nlohmann::json::parse(out())["stores"];
  EXPECT_EQ(stores[2]["int8_fidelity"]["measured_unix_us"], "1763800000000000");
  server_.on_get_store = [](const v1::GetStoreRequest& request, v1::GetStoreResponse* response) {
    response->mutable_store()->set_store(request.store());
    *response->mutable_store()->mutable_int8_fidelity() = Fidelity();
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"get", "stores", "measured"}), 0) << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("0.99910"), HasSubstr("1,000 of 54,846 passages")));
}

}  // namespace
}  // namespace loci
