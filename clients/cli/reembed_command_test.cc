// loci reembed: what is sent, and what it tells.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "clients/cli/cli_fixture.h"
#include "nlohmann/json.hpp"

namespace loci {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

class ReembedCommandTest : public CliTest {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(directory_ + "/tiny-model/1_Pooling");
    Write("tiny-model/config.json", "{}");
    Write("tiny-model/model.safetensors", std::string(3'000'000, 'w'));
    Write("tiny-model/1_Pooling/config.json", "pooling");
    Write("tiny-model/pytorch_model.bin", "nobody's");
    Write("tiny-model/vocab.txt", "");
    server_.on_import_encoder = [this](grpc::ServerReader<v1::ImportEncoderRequest>* reader, v1::ImportEncoderResponse* response) {
      v1::ImportEncoderRequest request;
      while (reader->Read(&request)) {
        if (request.has_header()) name_ = request.header().name();
        if (request.has_piece()) files_[request.piece().path()] += request.piece().data();
      }
      if (!import_status_.ok()) return import_status_;
      response->mutable_encoder()->set_fingerprint("aaaa:bbbb");
      return grpc::Status::OK;
    };
    server_.on_reembed = [this](const v1::ReembedStoreRequest& request, v1::ReembedStoreResponse* response) {
      requests_.push_back(request);
      if (request.dry_run()) {
        response->set_generation("g1");
        v1::ReembedEstimate& estimate = *response->mutable_estimate();
        estimate.set_passage_count(63'666);
        estimate.set_duration_ms(754'000);
        estimate.set_peak_disk_bytes(3 << 20);
      } else {
        response->set_job("j1");
      }
      return grpc::Status::OK;
    };
    server_.on_watch_job = [this](const v1::WatchJobRequest& request, grpc::ServerContext*, grpc::ServerWriter<v1::Job>* writer) {
      v1::Job job;
      job.set_job(request.job());
      job.set_kind("reembed");
      job.set_state(v1::JOB_STATE_RUNNING);
      job.set_phase("encoding");
      job.set_unit("passages");
      job.set_done(10);
      job.set_total(63'666);
      writer->Write(job);
      job.set_state(end_);
      job.set_error_message("no room");
      if (end_ == v1::JOB_STATE_SUCCEEDED) {
        v1::ReembedStoreResponse& result = *job.mutable_reembed();
        result.set_generation("g2");
        result.set_previous_generation("g1");
        result.set_encoder_fingerprint("aaaa:bbbb");
        result.set_passage_count(63'666);
        result.set_encoded_count(60'000);
        result.set_reused_count(3'666);
        result.set_revision(9);
        result.set_done(true);
      }
      writer->Write(job);
      return grpc::Status::OK;
    };
  }

  std::string name_;
  std::map<std::string, std::string> files_;
  std::vector<v1::ReembedStoreRequest> requests_;
  grpc::Status import_status_;
  v1::JobState end_ = v1::JOB_STATE_SUCCEEDED;
};

TEST_F(ReembedCommandTest, SendsTheFolderThenFollowsTheJob) {
  EXPECT_EQ(Run({"reembed", "movies", "--model", directory_ + "/tiny-model/", "--index", "exact", "--max-encoder-share", "0.25"}), 0) << err();
  EXPECT_EQ(name_, "tiny-model");
  EXPECT_THAT(files_, ElementsAre(Pair("1_Pooling/config.json", "pooling"), Pair("config.json", "{}"),
                                  Pair("model.safetensors", std::string(3'000'000, 'w')), Pair("vocab.txt", "")));
  ASSERT_EQ(requests_.size(), 1u);
  EXPECT_EQ(requests_[0].store(), "movies");
  EXPECT_EQ(requests_[0].encoder(), "aaaa:bbbb");
  EXPECT_EQ(requests_[0].index(), "exact");
  EXPECT_EQ(requests_[0].max_encoder_share(), 0.25);
  EXPECT_TRUE(requests_[0].no_wait());
  EXPECT_FALSE(requests_[0].no_activate());
  EXPECT_THAT(out(), AllOf(HasSubstr("63,666 passages, 60,000 encoded, 3,666 taken over"), HasSubstr("serves generation g2, revision 9; before: g1")));
  EXPECT_THAT(err(), HasSubstr("aaaa:bbbb was taken"));
  EXPECT_EQ(Run({"reembed", "movies", "--encoder", "cccc", "-o", "json", "--no-activate"}), 0) << err();
  EXPECT_EQ(nlohmann::json::parse(out())["encoded_count"], "60000");
  EXPECT_TRUE(requests_[1].no_activate());
  EXPECT_EQ(requests_[1].encoder(), "cccc");
}

TEST_F(ReembedCommandTest, ADryRunPrintsTheEstimate) {
  EXPECT_EQ(Run({"reembed", "movies", "--encoder", "cccc", "--dry-run"}), 0) << err();
  EXPECT_TRUE(requests_[0].dry_run());
  EXPECT_THAT(out(), AllOf(HasSubstr("nothing was changed"), HasSubstr("63,666"), HasSubstr("12:34"), HasSubstr("3.0 MiB")));
  EXPECT_THAT(files_, IsEmpty());
}

TEST_F(ReembedCommandTest, NoWaitNamesTheJobAndAJobThatFailsIsAFailure) {
  EXPECT_EQ(Run({"reembed", "movies", "--encoder", "cccc", "--no-wait"}), 0) << err();
  EXPECT_THAT(out(), HasSubstr("loci watch j1"));
  for (const v1::JobState state : {v1::JOB_STATE_FAILED, v1::JOB_STATE_CANCELLED, v1::JOB_STATE_INTERRUPTED}) {
    end_ = state;
    EXPECT_EQ(Run({"reembed", "movies", "--encoder", "cccc"}), 1);
    EXPECT_THAT(err(), HasSubstr("no room"));
  }
}

TEST_F(ReembedCommandTest, WhatIsWrongIsToldBeforeTheStoreIsAskedFor) {
  EXPECT_EQ(Run({"reembed", "movies"}), 2);
  EXPECT_EQ(Run({"reembed", "movies", "--encoder", "a", "--model", "b"}), 2);
  EXPECT_EQ(Run({"reembed", "movies", "--encoder", "a", "--max-encoder-share", "2"}), 2);
  EXPECT_NE(Run({"reembed", "movies", "--model", directory_ + "/nothing"}), 0);
  EXPECT_THAT(err(), HasSubstr("is no folder"));
  EXPECT_NE(Run({"reembed", "movies", "--model", directory_}), 0);
  EXPECT_THAT(err(), HasSubstr("has no config.json"));
  import_status_ = grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "these files are no encoder");
  EXPECT_NE(Run({"reembed", "movies", "--model", directory_ + "/tiny-model"}), 0);
  EXPECT_THAT(err(), HasSubstr("these files are no encoder"));
  EXPECT_THAT(requests_, IsEmpty());
}

}  // namespace
}  // namespace loci
