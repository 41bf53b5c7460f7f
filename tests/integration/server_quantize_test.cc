// How near int8 is over a store, as a client sees it.
#include <chrono>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using grpc::StatusCode;
using ::testing::HasSubstr;
using Admin = loci::v1::AdminService::Stub;

class ServerQuantize : public ServerFixture {
 protected:
  void IngestCount(const std::string& store, int count) {
    std::vector<std::pair<std::string, std::string>> passages;
    for (int i = 0; i < count; ++i) passages.emplace_back(absl::StrCat("p", i), absl::StrCat("passage ", i * 7919, " of ", i % 31));
    Ingest(store, passages);
  }
  grpc::Status Quantize(const std::string& store, int sample_count, loci::v1::QuantizeStoreResponse* response, bool no_wait = false) {
    loci::v1::QuantizeStoreRequest request;
    request.set_store(store);
    request.set_sample_count(sample_count);
    request.set_no_wait(no_wait);
    return Call(*admin, &Admin::QuantizeStore, request, response);
  }
  loci::v1::Store GetStore(const std::string& store) {
    loci::v1::GetStoreRequest request;
    request.set_store(store);
    loci::v1::GetStoreResponse response;
    const grpc::Status status = Call(*admin, &Admin::GetStore, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.store();
  }
  void ExpectRefused(const grpc::Status& status, StatusCode code, const std::string& text, const std::string& reason) {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(text));
    EXPECT_EQ(InfoOf(status).reason(), reason);
  }
};

TEST_F(ServerQuantize, IsAJobWhoseRecordTheStoreKeeps) {
  StartServer();
  IngestCount("s", 100);
  EXPECT_FALSE(GetStore("s").has_int8_fidelity());
  loci::v1::QuantizeStoreResponse measured;
  const grpc::Status status = Quantize("s", 50, &measured);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(measured.done());
  EXPECT_EQ(measured.generation(), GetStore("s").generation());
  EXPECT_EQ(measured.revision(), GetStore("s").revision());
  const loci::v1::EncoderFidelity& fidelity = measured.fidelity();
  EXPECT_EQ(fidelity.sample_count(), 50);
  EXPECT_EQ(fidelity.passage_count(), 100);
  EXPECT_EQ(fidelity.encoder_fingerprint(), GetStore("s").encoder_fingerprint());
  ASSERT_GE(fidelity.precisions_size(), 2);
  EXPECT_EQ(fidelity.precisions(0).element_type(), "float32");
  EXPECT_EQ(fidelity.precisions(0).top_10_overlap(), 1);
  EXPECT_EQ(fidelity.precisions().rbegin()->element_type(), "int8");
  EXPECT_GT(fidelity.precisions().rbegin()->cosine_min(), 0.9);
  EXPECT_FALSE(fidelity.cpu_isa().empty());
  EXPECT_EQ(GetStore("s").encoder_precision(), "auto") << "nothing else is changed";
  const loci::v1::Job job = WaitForEnd(measured.job());
  EXPECT_EQ(job.kind(), "quantize");
  EXPECT_EQ(job.state(), loci::v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(job.quantize().SerializeAsString(), measured.SerializeAsString());
  StartServer();
  EXPECT_EQ(GetStore("s").int8_fidelity().SerializeAsString(), fidelity.SerializeAsString());
  loci::v1::ListStoresResponse stores;
  ASSERT_TRUE(Call(*admin, &Admin::ListStores, loci::v1::ListStoresRequest(), &stores).ok());
  EXPECT_EQ(stores.stores(0).int8_fidelity().SerializeAsString(), fidelity.SerializeAsString());
  loci::v1::UpdateStoreRequest update;
  update.set_store("s");
  update.set_encoder_precision("int8");
  loci::v1::UpdateStoreResponse updated;
  ASSERT_TRUE(Call(*admin, &Admin::UpdateStore, update, &updated).ok());
  EXPECT_EQ(updated.store().int8_fidelity().SerializeAsString(), fidelity.SerializeAsString());

  loci::v1::QuantizeStoreResponse later;
  ASSERT_TRUE(Quantize("s", 0, &later, /*no_wait=*/true).ok());
  EXPECT_FALSE(later.done());
  EXPECT_EQ(WaitForEnd(later.job()).quantize().fidelity().sample_count(), 100) << "1,000, or all";
}

TEST_F(ServerQuantize, WhatIsCancelledLeavesNoRecord) {
  StartServer();
  IngestCount("s", 3'000);
  loci::v1::QuantizeStoreResponse started;
  ASSERT_TRUE(Quantize("s", 3'000, &started, /*no_wait=*/true).ok());
  const grpc::Status cancelled = CancelJob(started.job());
  const loci::v1::Job job = WaitForEnd(started.job());
  // Unless this machine was quicker than the request.
  EXPECT_EQ(job.state(), cancelled.ok() ? loci::v1::JOB_STATE_CANCELLED : loci::v1::JOB_STATE_SUCCEEDED) << job.error_message();
  EXPECT_EQ(GetStore("s").has_int8_fidelity(), !cancelled.ok());
  EXPECT_EQ(job.has_quantize(), !cancelled.ok());
}

TEST_F(ServerQuantize, BadRequestsAreTold) {
  StartServer();
  IngestCount("s", 19);
  loci::v1::QuantizeStoreResponse response;
  for (const int count : {-1, 1, 19, 10'001}) {
    const grpc::Status status = Quantize("s", count, &response);
    ExpectRefused(status, StatusCode::INVALID_ARGUMENT, absl::StrCat("sample_count is ", count, "; it must be from 20 to 10000"), "INVALID_ARGUMENT");
    EXPECT_EQ(InfoOf(status).metadata().at("field"), "sample_count");
  }
  const grpc::Status few = Quantize("s", 100, &response);
  ExpectRefused(few, StatusCode::FAILED_PRECONDITION, "store \"s\" serves 19 passages", "TOO_FEW_PASSAGES");
  EXPECT_EQ(InfoOf(few).metadata().at("passage_count"), "19");
  ExpectRefused(Quantize("absent", 100, &response), StatusCode::NOT_FOUND, "absent", "STORE_NOT_FOUND");
  ExpectRefused(Quantize("no/name", 100, &response), StatusCode::INVALID_ARGUMENT, "store", "INVALID_ARGUMENT");
  loci::v1::CreateStoreRequest create;
  create.set_store("empty");
  loci::v1::CreateStoreResponse created;
  ASSERT_TRUE(Call(*admin, &Admin::CreateStore, create, &created).ok());
  ExpectRefused(Quantize("empty", 100, &response), StatusCode::FAILED_PRECONDITION, "empty", "NO_ACTIVE_GENERATION");
  loci::v1::ListJobsRequest jobs;
  jobs.set_store("s");
  loci::v1::ListJobsResponse listed;
  ASSERT_TRUE(Call(*admin, &Admin::ListJobs, jobs, &listed).ok());
  for (const loci::v1::Job& job : listed.jobs()) EXPECT_NE(job.kind(), "quantize") << "no job for what can't be measured";
}

}  // namespace
}  // namespace loci
