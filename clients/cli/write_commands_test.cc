// loci upsert, delete, create store, set store, pin.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "clients/cli/cli_fixture.h"
#include "nlohmann/json.hpp"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using WriteCommandsTest = CliTest;

std::string Lines(int count) {
  std::string lines;
  for (int i = 0; i < count; ++i) lines += "{\"id\": " + std::to_string(i) + ", \"text\": \"t\"}\n";
  return lines;
}

TEST_F(WriteCommandsTest, UpsertSendsBatchesInOrderAndAddsThemUp) {
  std::vector<int> sizes;
  std::string first_id;
  server_.on_upsert = [&](const v1::UpsertPassagesRequest& request, v1::UpsertPassagesResponse* response) {
    EXPECT_EQ(request.store(), "s");
    if (sizes.empty()) first_id = request.passages(0).id();
    sizes.push_back(request.passages_size());
    response->set_upserted_count(request.passages_size());
    response->set_revision(static_cast<int64_t>(sizes.size()));
    response->set_generation("g1");
    return grpc::Status::OK;
  };
  const std::string path = Write("a.jsonl", Lines(600));
  EXPECT_EQ(Run({"upsert", "s", path, "--dry-run"}), 0);
  EXPECT_THAT(out(), HasSubstr("would upsert 600 passages into store s"));
  EXPECT_TRUE(sizes.empty());
  EXPECT_EQ(Run({"upsert", "s", path, "-o", "json"}), 0) << err();
  EXPECT_THAT(sizes, ElementsAre(256, 256, 88));
  EXPECT_EQ(first_id, "0");
  EXPECT_EQ(nlohmann::json::parse(out())["upserted_count"], "600");
  EXPECT_EQ(nlohmann::json::parse(out())["revision"], "3");
}

TEST_F(WriteCommandsTest, UpsertTellsWhatWasTakenBeforeAnErrorAndNeverSendsVectors) {
  int calls = 0;
  server_.on_upsert = [&](const v1::UpsertPassagesRequest& request, v1::UpsertPassagesResponse* response) {
    if (++calls == 2) return FakeError(grpc::StatusCode::INVALID_ARGUMENT, "passages[3].title has 70000 bytes", "INVALID_FIELD", {});
    response->set_upserted_count(request.passages_size());
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"upsert", "s", Write("a.jsonl", Lines(600))}), 1);
  EXPECT_EQ(calls, 2);
  EXPECT_THAT(err(), HasSubstr("256 passages were upserted before the error"));
  EXPECT_EQ(Run({"upsert", "s", Write("v.jsonl", "{\"id\": 1, \"text\": \"t\", \"vector\": [1]}\n")}), 1);
  EXPECT_THAT(err(), HasSubstr("use loci ingest --mode upsert"));
  EXPECT_EQ(Run({"upsert", "s", Write("bad.jsonl", "nonsense\n")}), 1);
  EXPECT_EQ(calls, 2);
}

TEST_F(WriteCommandsTest, DeletePassagesTellsHowManyWereThere) {
  std::vector<std::string> ids;
  server_.on_delete_passages = [&](const v1::DeletePassagesRequest& request, v1::DeletePassagesResponse* response) {
    ids.assign(request.ids().begin(), request.ids().end());
    response->set_deleted_count(1);
    response->set_revision(9);
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"delete", "passages", "s", "a", "b", "--dry-run"}), 0);
  EXPECT_TRUE(ids.empty());
  EXPECT_EQ(Run({"delete", "passages", "s", "a", "--", "-b"}), 0) << err();
  EXPECT_THAT(ids, ElementsAre("a", "-b"));
  EXPECT_EQ(out(), "1 of 2 passages deleted, revision 9\n");
  EXPECT_EQ(Run({"delete", "passages", "s"}), 2);
}

TEST_F(WriteCommandsTest, DeleteStoreNeedsItsNameTwice) {
  v1::DeleteStoreRequest seen;
  int calls = 0;
  server_.on_delete_store = [&](const v1::DeleteStoreRequest& request) {
    seen = request;
    ++calls;
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"delete", "store", "s"}), 2);
  EXPECT_EQ(Run({"delete", "store", "s", "--confirm", "t"}), 2);
  EXPECT_EQ(Run({"delete", "store", "s", "--confirm", "s", "--dry-run"}), 0);
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(Run({"delete", "store", "s", "--confirm", "s"}), 0) << err();
  EXPECT_EQ(seen.confirm_name(), "s");
}

TEST_F(WriteCommandsTest, DeleteGenerationNamesStoreAndGeneration) {
  v1::DeleteGenerationRequest seen;
  server_.on_delete_generation = [&](const v1::DeleteGenerationRequest& request) {
    seen = request;
    return request.generation() == "g1" ? FakeError(grpc::StatusCode::FAILED_PRECONDITION, "it is active", "GENERATION_ACTIVE", {})
                                        : grpc::Status::OK;
  };
  EXPECT_EQ(Run({"delete", "generation", "s", "g3"}), 0) << err();
  EXPECT_EQ(seen.store() + "/" + seen.generation(), "s/g3");
  EXPECT_EQ(Run({"delete", "generation", "s", "g1"}), 1);
}

TEST_F(WriteCommandsTest, PinKeepsAGenerationAndOffLetsItGo) {
  server_.on_pin = [](const v1::PinGenerationRequest& request, v1::PinGenerationResponse* response) {
    EXPECT_EQ(request.store(), "movies");
    response->mutable_generation()->set_generation(request.generation());
    response->mutable_generation()->set_pinned(request.pinned());
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"pin", "movies", "g4"}), 0) << err();
  EXPECT_EQ(out(), "generation g4 is pinned\n");
  EXPECT_EQ(Run({"pin", "movies", "g4", "--off"}), 0);
  EXPECT_EQ(out(), "generation g4 is not pinned\n");
  EXPECT_EQ(Run({"pin", "movies"}), 2);
}

TEST_F(WriteCommandsTest, SetStoreChangesOnlyWhatIsGiven) {
  v1::UpdateStoreRequest seen;
  server_.on_update_store = [&](const v1::UpdateStoreRequest& request, v1::UpdateStoreResponse* response) {
    seen = request;
    response->mutable_store()->set_store(request.store());
    response->mutable_store()->set_keep_generations(request.keep_generations());
    response->mutable_store()->set_encoder_precision(request.encoder_precision());
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"set", "store", "movies", "--keep-generations", "3"}), 0) << err();
  EXPECT_EQ(seen.keep_generations(), 3);
  EXPECT_EQ(out(), "store movies keeps the active generation and 3 more\n");
  EXPECT_EQ(Run({"set", "store", "movies", "--keep-generations=0"}), 0);
  EXPECT_TRUE(seen.has_keep_generations());
  EXPECT_EQ(out(), "store movies keeps all generations\n");
  EXPECT_FALSE(seen.has_encoder_precision());
  EXPECT_EQ(Run({"set", "store", "movies", "--encoder-precision", "int8"}), 0) << err();
  EXPECT_EQ(seen.encoder_precision(), "int8");
  EXPECT_FALSE(seen.has_keep_generations());
  EXPECT_THAT(out(), HasSubstr("texts of store movies are encoded in int8 from now on"));
  EXPECT_EQ(Run({"set", "store", "movies", "--encoder-precision", "float32"}), 2);
  EXPECT_EQ(Run({"set", "store", "movies"}), 2);
  EXPECT_EQ(Run({"set", "store", "movies", "--keep-generations", "1001"}), 2);
}

TEST_F(WriteCommandsTest, CreateStoreSendsTheName) {
  v1::CreateStoreRequest seen;
  server_.on_create_store = [&](const v1::CreateStoreRequest& request, v1::CreateStoreResponse* response) {
    seen = request;
    response->mutable_store()->set_store(request.store());
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"create", "store", "movies", "--encoder-precision", "int8"}), 0) << err();
  EXPECT_EQ(seen.encoder_precision(), "int8");
  EXPECT_EQ(Run({"create", "store", "movies"}), 0) << err();
  EXPECT_FALSE(seen.has_encoder_precision());
  EXPECT_EQ(out(), "store movies created\n");
  EXPECT_EQ(Run({"create", "store", "movies", "--dry-run"}), 0);
}

}  // namespace
}  // namespace loci
