// Re-embedding, and encoders that clients send, as a client sees them.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <future>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "encoder/testing/tiny_checkpoint.h"
#include "gmock/gmock.h"
#include "tests/integration/gate_file_system.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using grpc::StatusCode;
using Admin = loci::v1::AdminService::Stub;
using Retrieval = loci::v1::RetrievalService::Stub;

std::string ReadAll(const std::string& path) {
  std::ostringstream content;
  content << std::ifstream(path, std::ios::binary).rdbuf();
  return content.str();
}

class ServerReembed : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    // Of the default encoder's dimension.
    ASSERT_TRUE(WriteTinyCheckpoint(PosixFileSystem(), OtherDirectory(), {.seed = 77}).ok());
    options.fs = &gate_;
    StartServer();
  }
  void TearDown() override {
    gate_.Release();
    ServerFixture::TearDown();
  }
  std::string OtherDirectory() const { return directory_ + "/other"; }

  grpc::Status Send(const std::vector<loci::v1::ImportEncoderRequest>& messages, loci::v1::ImportEncoderResponse* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
    const auto stream = admin->ImportEncoder(&context, response);
    for (const auto& message : messages) {
      if (!stream->Write(message)) break;
    }
    stream->WritesDone();
    return stream->Finish();
  }
  static loci::v1::ImportEncoderRequest Header(const std::string& name) {
    loci::v1::ImportEncoderRequest message;
    message.mutable_header()->set_name(name);
    return message;
  }
  static loci::v1::ImportEncoderRequest Piece(const std::string& path, const std::string& data) {
    loci::v1::ImportEncoderRequest message;
    message.mutable_piece()->set_path(path);
    message.mutable_piece()->set_data(data);
    return message;
  }
  std::vector<loci::v1::ImportEncoderRequest> Messages() const {
    std::vector<loci::v1::ImportEncoderRequest> messages = {Header("other")};
    for (const char* path : {"config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json", "modules.json", "1_Pooling/config.json"}) {
      const std::string content = ReadAll(OtherDirectory() + "/" + path);
      for (size_t at = 0; at < content.size(); at += 5'000) messages.push_back(Piece(path, content.substr(at, 5'000)));
    }
    return messages;
  }
  std::string SendOther() {
    loci::v1::ImportEncoderResponse response;
    const grpc::Status status = Send(Messages(), &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.encoder().fingerprint();
  }
  static std::vector<std::pair<std::string, std::string>> Corpus(int count, const std::string& more = "") {
    std::vector<std::pair<std::string, std::string>> corpus;
    for (int i = 0; i < count; ++i) corpus.emplace_back(absl::StrCat("p", i), absl::StrCat("passage ", i, " about thing ", i % 7, more));
    return corpus;
  }
  static loci::v1::ReembedStoreRequest Request(const std::string& encoder) {
    loci::v1::ReembedStoreRequest request;
    request.set_store("s");
    request.set_encoder(encoder);
    return request;
  }
  grpc::Status Reembed(const loci::v1::ReembedStoreRequest& request, loci::v1::ReembedStoreResponse* response) {
    return Call(*admin, &Admin::ReembedStore, request, response);
  }
  std::string Hits(const std::string& store) {
    std::string hits;
    for (const char* text : {"passage about thing 3", "something else"}) {
      loci::v1::SearchRequest request = TextSearch(store, text, 50);
      request.set_include_text(true);
      request.set_include_vectors(true);
      loci::v1::SearchResponse response;
      const grpc::Status status = Call(*retrieval, &Retrieval::Search, request, &response);
      EXPECT_TRUE(status.ok()) << status.error_message();
      if (!status.ok()) continue;
      for (const loci::v1::Hit& hit : response.results(0).hits()) hits += hit.SerializeAsString();
      hits += response.encoder_fingerprint();
    }
    return hits;
  }
  // The same of a store that the encoder made of these passages.
  std::string FreshHits(const std::string& encoder, const std::vector<std::pair<std::string, std::string>>& corpus) {
    grpc::ClientContext context;
    loci::v1::IngestResponse response;
    const auto stream = admin->Ingest(&context, &response);
    loci::v1::IngestRequest message;
    message.mutable_header()->set_store("fresh");
    message.mutable_header()->set_encoder_fingerprint(encoder);
    EXPECT_TRUE(stream->Write(message));
    for (const auto& [id, text] : corpus) {
      loci::v1::Passage& passage = *message.mutable_batch()->add_passages();
      passage.set_id(id);
      passage.set_text(text);
    }
    EXPECT_TRUE(stream->Write(message));
    stream->WritesDone();
    EXPECT_TRUE(stream->Finish().ok());
    return Hits("fresh");
  }
  loci::v1::Store Store() {
    loci::v1::GetStoreRequest request;
    request.set_store("s");
    loci::v1::GetStoreResponse response;
    EXPECT_TRUE(Call(*admin, &Admin::GetStore, request, &response).ok());
    return response.store();
  }
  size_t EncoderFolders() const {
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(options.data_directory + "/encoders")) ++count;
    return count;
  }

  GateFileSystem gate_;
};

TEST_F(ServerReembed, AnEncoderThatIsSentAnswersAsAFreshIngestByItAndARollBackUndoesIt) {
  auto corpus = Corpus(120);
  Ingest("s", corpus);
  Upsert("s", "p3", "other words");
  corpus[3].second = "other words";
  const std::string before = Hits("s"), first = Store().encoder_fingerprint(), old_generation = Store().generation();
  const std::string other = SendOther();
  ASSERT_NE(other, "");
  EXPECT_NE(other, first);

  loci::v1::ReembedStoreRequest dry_run = Request(other);
  dry_run.set_dry_run(true);
  loci::v1::ReembedStoreResponse response;
  grpc::Status status = Reembed(dry_run, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.estimate().passage_count(), 120);
  EXPECT_GT(response.estimate().duration_ms(), 0);
  EXPECT_EQ(response.job(), "");
  EXPECT_FALSE(response.done());
  EXPECT_EQ(Hits("s"), before);

  status = Reembed(Request(other), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(response.done());
  EXPECT_EQ(response.previous_generation(), old_generation);
  EXPECT_EQ(response.encoder_fingerprint(), other);
  EXPECT_EQ(response.previous_encoder_fingerprint(), first);
  EXPECT_EQ(response.encoded_count(), 120);
  EXPECT_EQ(Store().encoder_fingerprint(), other);
  EXPECT_EQ(Hits("s"), FreshHits(other, corpus));
  const loci::v1::Job job = WaitForEnd(response.job());
  EXPECT_EQ(job.kind(), "reembed");
  EXPECT_EQ(job.reembed().SerializeAsString(), response.SerializeAsString());
  EXPECT_EQ(job.generation(), response.generation());

  Upsert("s", "later", "words of later");
  corpus.emplace_back("later", "words of later");
  StartServer();  // The encoder is loaded for what the store serves.
  EXPECT_EQ(Hits("s"), FreshHits(other, corpus));
  loci::v1::RollbackStoreRequest roll_back;
  roll_back.set_store("s");
  roll_back.set_writes_since(loci::v1::WRITES_SINCE_REPLAY);
  loci::v1::RollbackStoreResponse rolled_back;
  status = Call(*admin, &Admin::RollbackStore, roll_back, &rolled_back);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(rolled_back.encoded_count(), 1);
  EXPECT_EQ(Store().generation(), old_generation);
  EXPECT_EQ(Hits("s"), FreshHits(first, corpus));
}

TEST_F(ServerReembed, ConflictsNameTheJobAndACancelledOneIsTakenUp) {
  std::string more;  // So that it takes a while.
  for (int i = 0; i < 40; ++i) more += " word";
  Ingest("s", Corpus(300, more));
  const std::string other = SendOther(), serving = Store().generation();
  loci::v1::ReembedStoreRequest slow = Request(other);
  slow.set_no_wait(true);
  slow.set_max_encoder_share(0.01);
  loci::v1::ReembedStoreResponse started;
  ASSERT_TRUE(Reembed(slow, &started).ok());
  EXPECT_NE(started.job(), "");
  EXPECT_FALSE(started.done());
  const loci::v1::Job job = WaitForJob(started.job(), [](const loci::v1::Job& now) { return now.done() > 0; });
  EXPECT_EQ(job.phase(), "encoding");
  EXPECT_EQ(job.total(), 300);
  EXPECT_EQ(job.state(), loci::v1::JOB_STATE_RUNNING);
  Upsert("s", "p5", "written meanwhile");

  loci::v1::ReembedStoreResponse refused;
  loci::v1::FoldStoreRequest fold;
  fold.set_store("s");
  loci::v1::FoldStoreResponse folded;
  grpc::ClientContext context;
  loci::v1::IngestResponse ingested;
  const auto stream = admin->Ingest(&context, &ingested);
  loci::v1::IngestRequest header;
  header.mutable_header()->set_store("s");
  stream->Write(header);
  stream->WritesDone();
  for (const grpc::Status& status : {Reembed(Request(other), &refused), Call(*admin, &Admin::FoldStore, fold, &folded), stream->Finish()}) {
    EXPECT_EQ(status.error_code(), StatusCode::ABORTED) << status.error_message();
    EXPECT_EQ(InfoOf(status).reason(), "JOB_IN_THE_WAY");
    EXPECT_EQ(InfoOf(status).metadata().at("job"), started.job());
  }

  ASSERT_TRUE(CancelJob(started.job()).ok());
  EXPECT_EQ(WaitForEnd(started.job()).state(), loci::v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(Store().generation(), serving);
  EXPECT_EQ(Store().generation_count(), 1);
  loci::v1::ReembedStoreResponse response;
  const grpc::Status status = Reembed(Request(other), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_GT(response.reused_count(), 0);
  EXPECT_EQ(response.reused_count() + response.encoded_count(), 300);
  auto corpus = Corpus(300, more);
  corpus[5].second = "written meanwhile";
  EXPECT_EQ(Hits("s"), FreshHits(other, corpus));
}

TEST_F(ServerReembed, BadRequestsAreTold) {
  const std::string other = SendOther();
  loci::v1::ReembedStoreResponse response;
  const auto refused = [&](const loci::v1::ReembedStoreRequest& request, StatusCode code, const std::string& reason) {
    const grpc::Status status = Reembed(request, &response);
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_EQ(InfoOf(status).reason(), reason) << status.error_message();
  };
  refused(Request(other), StatusCode::NOT_FOUND, "STORE_NOT_FOUND");
  Ingest("s", Corpus(3));
  refused(Request(""), StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT");
  refused(Request("nobody"), StatusCode::NOT_FOUND, "ENCODER_NOT_FOUND");
  refused(Request("model"), StatusCode::FAILED_PRECONDITION, "SAME_ENCODER");
  for (const double share : {-0.1, 1e-300, 1.1, std::nan("")}) {
    loci::v1::ReembedStoreRequest request = Request(other);
    request.set_max_encoder_share(share);
    refused(request, StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT");
  }
  loci::v1::ReembedStoreRequest index = Request(other);
  index.set_index("nonsense");
  EXPECT_EQ(Reembed(index, &response).error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Store().generation_count(), 1);
}

TEST_F(ServerReembed, UploadsThatAreWrongLeaveNothing) {
  const size_t folders = EncoderFolders();
  std::map<std::string, std::vector<loci::v1::ImportEncoderRequest>> wrong;
  wrong["no message"] = {};
  wrong["no header"] = {Piece("config.json", "{}")};
  wrong["header alone"] = {Header("x")};
  wrong["bad name"] = {Header("../x")};
  wrong["header twice"] = {Header("x"), Header("x")};
  wrong["nothing set"] = {Header("x"), loci::v1::ImportEncoderRequest()};
  wrong["bad path"] = {Header("x"), Piece("../../escaped", "x")};
  wrong["half of it"] = Messages();
  wrong["half of it"].resize(4);
  loci::v1::ImportEncoderResponse response;
  for (const auto& [what, messages] : wrong) {
    const grpc::Status status = Send(messages, &response);
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << what << ": " << status.error_message();
    EXPECT_EQ(EncoderFolders(), folders) << what;
  }
  {
    grpc::ClientContext context;
    const auto stream = admin->ImportEncoder(&context, &response);
    for (const auto& message : {Messages()[0], Messages()[1]}) ASSERT_TRUE(stream->Write(message));
    WaitForMetric("loci_jobs_running{kind=\"import-encoder\"}", 1);
    const grpc::Status second = Send(Messages(), &response);
    EXPECT_EQ(second.error_code(), StatusCode::ABORTED);
    EXPECT_EQ(InfoOf(second).reason(), "JOB_IN_THE_WAY");
    context.TryCancel();
    EXPECT_EQ(stream->Finish().error_code(), StatusCode::CANCELLED);
  }
  WaitForMetric("loci_jobs_running{kind=\"import-encoder\"}", 0);
  EXPECT_EQ(EncoderFolders(), folders);
  const std::string other = SendOther();
  EXPECT_EQ(SendOther(), other);
  EXPECT_EQ(EncoderFolders(), folders + 1);
  ExpectServing();
}

// An encoder of the same dimension is none for vectors of another half.
TEST_F(ServerReembed, AnEncoderThatDoesNotServeTheHalfIsRefusedEverywhere) {
  const std::string other = SendOther();
  const auto corpus = Corpus(5);
  Ingest("s", corpus);
  loci::v1::ReembedStoreResponse response;
  ASSERT_TRUE(Reembed(Request(other), &response).ok());
  const std::string first_generation = response.previous_generation();
  // Vectors of the first encoder, which is the default one, as an upsert.
  grpc::ClientContext context;
  loci::v1::IngestResponse ingested;
  const auto stream = admin->Ingest(&context, &ingested);
  loci::v1::IngestRequest header;
  header.mutable_header()->set_store("s");
  header.mutable_header()->set_mode(loci::v1::INGEST_MODE_UPSERT);
  header.mutable_header()->set_encoder_fingerprint(response.previous_encoder_fingerprint());
  stream->Write(header);
  stream->WritesDone();
  grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(InfoOf(status).reason(), "ENCODER_MISMATCH");

  // The server loses the encoder: nothing else takes its place, though it is of the same dimension.
  server.reset();
  std::filesystem::remove_all(options.data_directory + "/encoders");
  StartServer();
  loci::v1::SearchResponse found;
  status = Call(*retrieval, &Retrieval::Search, TextSearch("s", "passage", 3), &found);
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION) << status.error_message();
  EXPECT_EQ(InfoOf(status).reason(), "ENCODER_MISMATCH");
  loci::v1::UpsertPassagesRequest upsert;
  upsert.set_store("s");
  upsert.add_passages()->set_id("x");
  upsert.mutable_passages(0)->set_text("words");
  loci::v1::UpsertPassagesResponse upserted;
  status = Call(*admin, &Admin::UpsertPassages, upsert, &upserted);
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(InfoOf(status).reason(), "ENCODER_MISMATCH");
  loci::v1::ActivateGenerationRequest activate;
  activate.set_store("s");
  activate.set_generation(first_generation);
  activate.set_writes_since(loci::v1::WRITES_SINCE_REPLAY);
  loci::v1::ActivateGenerationResponse activated;
  status = Call(*admin, &Admin::ActivateGeneration, activate, &activated);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(Call(*retrieval, &Retrieval::Search, TextSearch("s", "passage", 3), &found).ok());
  activate.set_generation(response.generation());
  status = Call(*admin, &Admin::ActivateGeneration, activate, &activated);
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(InfoOf(status).reason(), "ENCODER_MISMATCH");
  loci::v1::ListGenerationsRequest list;
  list.set_store("s");
  loci::v1::ListGenerationsResponse listed;
  ASSERT_TRUE(Call(*admin, &Admin::ListGenerations, list, &listed).ok());
  for (const loci::v1::Generation& generation : listed.generations()) {
    EXPECT_NE(generation.state(), loci::v1::GENERATION_STATE_FAILED) << "it is whole, whatever the encoders are";
  }
}

TEST_F(ServerReembed, NoMoreThanTwoRunAtOnceThoughTheirClientsWaitAndTheThirdWaitsItsTurn) {
  constexpr int kStores = 4;
  const std::string other = SendOther();
  for (int i = 0; i < kStores; ++i) Ingest(absl::StrCat("held-", i), Corpus(3));
  Ingest("written", Corpus(1));
  gate_.Hold("/stores/held-");
  std::vector<std::future<grpc::Status>> calls;
  std::vector<loci::v1::ReembedStoreResponse> responses(kStores);
  for (int i = 0; i < kStores; ++i) {
    calls.push_back(std::async(std::launch::async, [this, i, &other, &responses] {
      loci::v1::ReembedStoreRequest request = Request(other);
      request.set_store(absl::StrCat("held-", i));
      return Reembed(request, &responses[static_cast<size_t>(i)]);
    }));
  }
  gate_.AwaitHeld(2);
  const auto count_jobs = [&](bool queued) {
    loci::v1::ListJobsResponse listed;
    EXPECT_TRUE(Call(*admin, &Admin::ListJobs, loci::v1::ListJobsRequest(), &listed).ok());
    return std::count_if(listed.jobs().begin(), listed.jobs().end(),
                         [&](const loci::v1::Job& job) { return job.kind() == "reembed" && (!queued || job.phase() == "queued"); });
  };
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (count_jobs(/*queued=*/false) < kStores && std::chrono::steady_clock::now() < deadline) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(count_jobs(/*queued=*/true), kStores - 2);
  Upsert("written", "a", "one");  // Threads are left for others.
  gate_.Release();
  for (std::future<grpc::Status>& call : calls) {
    const grpc::Status status = call.get();
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
  for (const loci::v1::ReembedStoreResponse& response : responses) {
    EXPECT_TRUE(response.done());
    EXPECT_EQ(WaitForEnd(response.job()).reembed().generation(), response.generation());
  }
}

}  // namespace
}  // namespace loci
