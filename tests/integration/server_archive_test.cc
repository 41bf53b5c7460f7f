// Exports and imports over gRPC: what comes back is what went out, and nothing stays of what breaks off.
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using grpc::StatusCode;
using ::testing::HasSubstr;
using Admin = loci::v1::AdminService::Stub;
using Retrieval = loci::v1::RetrievalService::Stub;

class ServerArchive : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    StartServer();
  }

  void IngestSome(const std::string& store, int count, size_t text_bytes = 0) {
    std::vector<std::pair<std::string, std::string>> id_texts;
    for (int i = 0; i < count; ++i) {
      id_texts.emplace_back(absl::StrCat("p", 1'000 + i), absl::StrCat("number ", i, " ", i * 7, std::string(text_bytes, 'x')));
    }
    ASSERT_TRUE(Ingest(store, id_texts).done());
  }
  void UpsertDated(const std::string& store, const std::string& id, const std::string& text) {
    loci::v1::UpsertPassagesRequest request;
    request.set_store(store);
    loci::v1::Passage& passage = *request.add_passages();
    passage.set_id(id);
    passage.set_text(text);
    (*passage.mutable_metadata())["year"].set_int64_value(1979);
    loci::v1::UpsertPassagesResponse response;
    ASSERT_TRUE(Call(*admin, &Admin::UpsertPassages, request, &response).ok());
  }
  void Delete(const std::string& store, const std::string& id) {
    loci::v1::DeletePassagesRequest request;
    request.set_store(store);
    request.add_ids(id);
    loci::v1::DeletePassagesResponse response;
    ASSERT_TRUE(Call(*admin, &Admin::DeletePassages, request, &response).ok());
  }

  grpc::Status Export(const loci::v1::ExportRequest& request, std::string* archive, loci::v1::ExportChunk* first = nullptr) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
    const auto reader = admin->ExportStore(&context, request);
    loci::v1::ExportChunk chunk;
    archive->clear();
    while (reader->Read(&chunk)) {
      EXPECT_LE(chunk.data().size(), size_t{1} << 20);
      if (archive->empty() && first != nullptr) *first = chunk;
      archive->append(chunk.data());
    }
    return reader->Finish();
  }
  std::string Export(const std::string& store) {
    loci::v1::ExportRequest request;
    request.set_store(store);
    std::string archive;
    const grpc::Status status = Export(request, &archive);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return archive;
  }

  static loci::v1::ImportRequest Header(const std::string& store, bool no_wait = false) {
    loci::v1::ImportRequest request;
    request.mutable_header()->set_store(store);
    request.mutable_header()->set_no_wait(no_wait);
    return request;
  }
  static loci::v1::ImportRequest Data(std::string_view data) {
    loci::v1::ImportRequest request;
    request.set_data(data.data(), data.size());
    return request;
  }
  grpc::Status Import(const std::vector<loci::v1::ImportRequest>& messages, loci::v1::ImportResponse* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
    const auto stream = admin->ImportStore(&context, response);
    for (const loci::v1::ImportRequest& message : messages) {
      if (!stream->Write(message)) break;
    }
    stream->WritesDone();
    return stream->Finish();
  }
  grpc::Status Import(const std::string& store, std::string_view archive, loci::v1::ImportResponse* response) {
    std::vector<loci::v1::ImportRequest> messages = {Header(store)};
    for (size_t at = 0; at < archive.size(); at += 10'000) messages.push_back(Data(archive.substr(at, 10'000)));
    return Import(messages, response);
  }
  loci::v1::Job GetJob(const std::string& id) {
    loci::v1::GetJobRequest request;
    request.set_job(id);
    loci::v1::Job job;
    EXPECT_TRUE(Call(*admin, &Admin::GetJob, request, &job).ok());
    return job;
  }
  loci::v1::Job WaitForJob(const std::string& id) {
    for (int i = 0; i < 30'000; ++i) {
      const loci::v1::Job job = GetJob(id);
      if (job.state() != loci::v1::JOB_STATE_RUNNING) return job;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ADD_FAILURE() << "job " << id << " does not end";
    return {};
  }
  std::vector<loci::v1::Job> RunningJobs() {
    loci::v1::ListJobsRequest request;
    request.set_state(loci::v1::JOB_STATE_RUNNING);
    loci::v1::ListJobsResponse response;
    EXPECT_TRUE(Call(*admin, &Admin::ListJobs, request, &response).ok());
    return {response.jobs().begin(), response.jobs().end()};
  }
  int64_t GenerationCount(const std::string& store) {
    loci::v1::ListGenerationsRequest request;
    request.set_store(store);
    loci::v1::ListGenerationsResponse response;
    const grpc::Status status = Call(*admin, &Admin::ListGenerations, request, &response);
    return status.ok() ? response.generations_size() : status.error_code() == StatusCode::NOT_FOUND ? 0 : -1;
  }
  loci::v1::SearchResponse Search(const std::string& store, const std::string& text) {
    loci::v1::SearchRequest request = TextSearch(store, text, 50);
    request.mutable_options()->set_exact(true);
    request.set_include_text(true);
    request.set_include_vectors(true);
    loci::v1::SearchResponse response;
    EXPECT_TRUE(Call(*retrieval, &Retrieval::Search, request, &response).ok());
    return response;
  }
};

TEST_F(ServerArchive, AnotherServerAnswersWithTheSameBits) {
  IngestSome("s", 100);
  UpsertDated("s", "a new one", "written after the build");
  UpsertDated("s", "p1003", "replaced after the build");
  Delete("s", "p1004");
  std::vector<std::string> queries = {"number 3", "written after", "replaced", "4 28"};
  std::vector<std::string> before;
  for (const std::string& query : queries) before.push_back(Search("s", query).results(0).SerializeAsString());
  loci::v1::ExportRequest request;
  request.set_store("s");
  std::string archive;
  loci::v1::ExportChunk first;
  ASSERT_TRUE(Export(request, &archive, &first).ok());
  EXPECT_EQ(first.passage_count(), 100);
  EXPECT_EQ(first.revision(), Search("s", "x").revision());

  options.data_directory = directory_ + "/other";
  StartServer();
  loci::v1::ImportResponse response;
  const grpc::Status imported = Import("copy", archive, &response);
  ASSERT_TRUE(imported.ok()) << imported.error_message();
  EXPECT_TRUE(response.done());
  EXPECT_EQ(response.passage_count(), 100);
  EXPECT_EQ(response.source_store(), "s");
  EXPECT_EQ(response.source_generation(), first.generation());
  EXPECT_EQ(response.source_revision(), first.revision());
  const loci::v1::Job job = GetJob(response.job());
  EXPECT_EQ(job.kind(), "import");
  EXPECT_EQ(job.generation(), response.generation());
  EXPECT_EQ(job.import_result().SerializeAsString(), response.SerializeAsString());
  loci::v1::SearchRequest filtered = TextSearch("copy", "written", 5);
  filtered.set_filter("year = 1979");
  loci::v1::SearchResponse found;
  ASSERT_TRUE(Call(*retrieval, &Retrieval::Search, filtered, &found).ok());
  EXPECT_EQ(found.results(0).hits_size(), 2) << "metadata can be asked for as well";
  for (size_t i = 0; i < queries.size(); ++i) {
    EXPECT_EQ(Search("copy", queries[i]).results(0).SerializeAsString(), before[i]) << "ids, scores, texts, metadata and vectors";
  }
}

TEST_F(ServerArchive, ExportsAGenerationOrItsBareBody) {
  IngestSome("s", 3);
  const std::string first = Search("s", "x").generation();
  IngestSome("s", 5);
  UpsertDated("s", "new", "written");
  loci::v1::ExportRequest request;
  request.set_store("s");
  std::string archive;
  loci::v1::ExportChunk chunk;
  ASSERT_TRUE(Export(request, &archive, &chunk).ok());
  EXPECT_EQ(chunk.passage_count(), 6);
  request.set_without_writes(true);
  ASSERT_TRUE(Export(request, &archive, &chunk).ok());
  EXPECT_EQ(chunk.passage_count(), 5);
  request.set_generation(first);
  ASSERT_TRUE(Export(request, &archive, &chunk).ok());
  EXPECT_EQ(chunk.passage_count(), 3);
  EXPECT_EQ(chunk.generation(), first);
  request.set_generation("nowhere");
  EXPECT_EQ(Export(request, &archive).error_code(), StatusCode::NOT_FOUND);
  request.Clear();
  request.set_store("absent");
  EXPECT_EQ(Export(request, &archive).error_code(), StatusCode::NOT_FOUND);
  request.set_store("Not/A name");
  EXPECT_EQ(Export(request, &archive).error_code(), StatusCode::INVALID_ARGUMENT);
}

TEST_F(ServerArchive, RefusesDamageAndKeepsWhatServes) {
  IngestSome("s", 20);
  const std::string archive = Export("s");
  IngestSome("t", 2);
  const std::string serving = Search("t", "x").generation();
  for (size_t i = 8; i < archive.size(); i += archive.size() / 9) {
    std::string damaged = archive;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
    loci::v1::ImportResponse response;
    const grpc::Status status = Import("t", damaged, &response);
    EXPECT_EQ(status.error_code(), StatusCode::DATA_LOSS) << status.error_message();
    EXPECT_EQ(InfoOf(status).reason(), "ARCHIVE_DAMAGED");
    EXPECT_TRUE(InfoOf(status).metadata().contains("offset"));
    EXPECT_THAT(status.error_message(), HasSubstr("at byte"));
    EXPECT_EQ(Import("t", std::string_view(archive).substr(0, i), &response).error_code(), StatusCode::DATA_LOSS) << "cut short at " << i;
  }
  EXPECT_EQ(Search("t", "x").generation(), serving);
  EXPECT_EQ(GenerationCount("t"), 1);
  EXPECT_TRUE(RunningJobs().empty());
}

TEST_F(ServerArchive, RefusesStreamsThatAreNoImports) {
  IngestSome("s", 2);
  const std::string archive = Export("s");
  loci::v1::ImportResponse response;
  EXPECT_EQ(Import({}, &response).error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Import({Data(archive)}, &response).error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Import({Header("t"), Header("t")}, &response).error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Import({Header("t"), loci::v1::ImportRequest()}, &response).error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Import({Header("Not/A name"), Data(archive)}, &response).error_code(), StatusCode::INVALID_ARGUMENT);
  loci::v1::ImportRequest header = Header("t");
  header.mutable_header()->set_allow_unknown_encoder(true);
  EXPECT_EQ(InfoOf(Import({header, Data(archive)}, &response)).metadata().at("field"), "header.allow_unknown_encoder");
  header = Header("t");
  header.mutable_header()->mutable_index()->set_vector_type(loci::v1::VECTOR_TYPE_INT8);
  EXPECT_EQ(InfoOf(Import({header, Data(archive)}, &response)).metadata().at("field"), "header.index.vector_type");
  EXPECT_EQ(Import({Header("t")}, &response).error_code(), StatusCode::INVALID_ARGUMENT) << "nothing came";
  const grpc::Status other = Import({Header("t"), Data("{\"id\": \"1\"}\n")}, &response);
  EXPECT_EQ(other.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(other.error_message(), HasSubstr("not an archive of loci export"));
  EXPECT_EQ(InfoOf(other).reason(), "ARCHIVE_INVALID");
  EXPECT_EQ(Import({Header("t"), Data(archive), Data("more")}, &response).error_code(), StatusCode::DATA_LOSS);
  EXPECT_EQ(GenerationCount("t"), 0);
  EXPECT_TRUE(Import({Header("t"), Data(""), Data(archive), Data("")}, &response).ok()) << "empty data is nothing";
}

TEST_F(ServerArchive, AnImportThatIsCancelledHalfwayLeavesNothing) {
  IngestSome("s", 200);
  const std::string archive = Export("s");
  grpc::ClientContext context;
  loci::v1::ImportResponse response;
  const auto stream = admin->ImportStore(&context, &response);
  ASSERT_TRUE(stream->Write(Header("t")));
  ASSERT_TRUE(stream->Write(Data(std::string_view(archive).substr(0, archive.size() / 2))));
  std::vector<loci::v1::Job> jobs;
  for (int i = 0; jobs.empty() && i < 30'000; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    jobs = RunningJobs();
  }
  ASSERT_EQ(jobs.size(), 1u);
  EXPECT_EQ(jobs[0].kind(), "import");
  // Another one, and an ingest, are in its way meanwhile.
  loci::v1::ImportResponse other;
  EXPECT_EQ(InfoOf(Import("t", archive, &other)).reason(), "JOB_IN_THE_WAY");
  loci::v1::CancelJobRequest cancel;
  cancel.set_job(jobs[0].job());
  loci::v1::Job cancelled;
  ASSERT_TRUE(Call(*admin, &Admin::CancelJob, cancel, &cancelled).ok());
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::CANCELLED);
  EXPECT_EQ(WaitForJob(jobs[0].job()).state(), loci::v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(GenerationCount("t"), 0);
  EXPECT_TRUE(Import("t", archive, &other).ok());
}

TEST_F(ServerArchive, AClientThatLeavesHalfwayLeavesNothing) {
  IngestSome("s", 200);
  const std::string archive = Export("s");
  for (const size_t part : {size_t{0}, archive.size() / 3, archive.size() - 1, archive.size()}) {
    grpc::ClientContext context;
    loci::v1::ImportResponse response;
    const auto stream = admin->ImportStore(&context, &response);
    ASSERT_TRUE(stream->Write(Header("t")));
    ASSERT_TRUE(stream->Write(Data(std::string_view(archive).substr(0, part))));
    context.TryCancel();
    EXPECT_FALSE(stream->Finish().ok());
    for (int i = 0; !RunningJobs().empty(); ++i) {
      ASSERT_LT(i, 30'000);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(GenerationCount("t"), 0) << part;
  }
}

TEST_F(ServerArchive, GoesOnAsAJobWhereTheClientDoesNotWait) {
  IngestSome("s", 30);
  const std::string archive = Export("s");
  loci::v1::ImportResponse response;
  const grpc::Status status = Import({Header("t", /*no_wait=*/true), Data(archive)}, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_FALSE(response.done());
  EXPECT_EQ(response.passage_count(), 30);
  const loci::v1::Job job = WaitForJob(response.job());
  EXPECT_EQ(job.state(), loci::v1::JOB_STATE_SUCCEEDED) << job.error_message();
  EXPECT_TRUE(job.import_result().done());
  EXPECT_EQ(Search("t", "x").generation(), job.generation());
  const grpc::Status cut = Import({Header("u", true), Data(std::string_view(archive).substr(0, archive.size() - 3))}, &response);
  EXPECT_EQ(cut.error_code(), StatusCode::DATA_LOSS) << "that is told at once";
}

TEST_F(ServerArchive, EndsWhatStalls) {
  options.ingest_idle_timeout_ms = 200;
  StartServer();
  IngestSome("big", 60, 400'000);
  {
    grpc::ClientContext context;
    loci::v1::ImportResponse response;
    const auto stream = admin->ImportStore(&context, &response);
    ASSERT_TRUE(stream->Write(Header("t")));
    const grpc::Status status = stream->Finish();
    EXPECT_EQ(status.error_code(), StatusCode::DEADLINE_EXCEEDED);
    EXPECT_EQ(InfoOf(status).reason(), "IMPORT_STALLED");
  }
  // A client that takes nothing of 24 MB: its call is ended, so that no view is held for it.
  grpc::ClientContext context;
  loci::v1::ExportRequest request;
  request.set_store("big");
  const auto reader = admin->ExportStore(&context, request);
  loci::v1::DeleteStoreRequest remove;
  remove.set_store("big");
  remove.set_confirm_name("big");
  loci::v1::DeleteStoreResponse removed;
  EXPECT_TRUE(Call(*admin, &Admin::DeleteStore, remove, &removed).ok()) << "an export is in nobody's way";
  options.ingest_idle_timeout_ms = 120'000;
  std::this_thread::sleep_for(std::chrono::milliseconds(400));  // The client is the slow one: nothing tells it of the end before it reads.
  loci::v1::ExportChunk chunk;
  int64_t size_bytes = 0;
  while (reader->Read(&chunk)) size_bytes += static_cast<int64_t>(chunk.data().size());
  EXPECT_FALSE(reader->Finish().ok());
  EXPECT_LT(size_bytes, 24'000'000);
}

TEST_F(ServerArchive, ExportsTakeTheirOwnPlacesAndNoIngests) {
  IngestSome("big", 60, 400'000);
  loci::v1::ExportRequest request;
  request.set_store("big");
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<loci::v1::ExportChunk>>> readers;
  loci::v1::ExportChunk chunk;
  for (int i = 0; i < 4; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(admin->ExportStore(contexts.back().get(), request));
    ASSERT_TRUE(readers.back()->Read(&chunk));  // And no more: it goes on being held.
  }
  std::string archive;
  const grpc::Status refused = Export(request, &archive);
  EXPECT_EQ(refused.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(InfoOf(refused).reason(), "OVERLOADED");
  IngestSome("small", 1);
  for (size_t i = 0; i < readers.size(); ++i) {
    contexts[i]->TryCancel();
    while (readers[i]->Read(&chunk)) continue;
    EXPECT_EQ(readers[i]->Finish().error_code(), StatusCode::CANCELLED);
  }
}

TEST_F(ServerArchive, AnExportEndsWithItsDeadline) {
  IngestSome("big", 60, 400'000);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  loci::v1::ExportRequest request;
  request.set_store("big");
  const auto reader = admin->ExportStore(&context, request);
  loci::v1::ExportChunk chunk;
  while (reader->Read(&chunk)) std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::DEADLINE_EXCEEDED);
}

}  // namespace
}  // namespace loci
