// Data directories that are not as they should be: of a newer server, in use, full; and names that would lead out of them.
#include <unistd.h>

#include <atomic>
#include <string>
#include <vector>

#include "base/checksum.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "index/forwarding_file_system.h"
#include "proto/loci/storage/storage.pb.h"
#include "tests/integration/server_fixture.h"

namespace loci {
namespace {

using grpc::StatusCode;
using Admin = loci::v1::AdminService::Stub;
using Retrieval = loci::v1::RetrievalService::Stub;
using ::testing::AllOf;
using ::testing::HasSubstr;

// A disk that is full while `full` is set. Thread-safe.
class FullDisk : public ForwardingFileSystem {
 public:
  std::atomic<bool> full{false};

  absl::StatusOr<std::unique_ptr<WritableFile>> NewWritableFile(const std::string& path) override {
    if (full) return absl::ResourceExhaustedError(path + ": No space left on device");
    return ForwardingFileSystem::NewWritableFile(path);
  }
  absl::Status CreateDirectories(const std::string& directory) override {
    if (full && !Exists(directory)) return absl::ResourceExhaustedError(directory + ": No space left on device");
    return ForwardingFileSystem::CreateDirectories(directory);
  }
};

class ServerDataDirectory : public ServerFixture {
 protected:
  std::string PathOf(const std::string& name) const { return JoinPath(options.data_directory, name); }
  void Write(const std::string& name, const std::string& content) {
    ASSERT_TRUE(WriteFileAtomically(PosixFileSystem(), PathOf(name), content).ok());
  }
  std::string Read(const std::string& name) { return PosixFileSystem().ReadFile(PathOf(name)).value_or(""); }
  template <typename Message>
  Message Opened(const std::string& name) {
    const std::string content = Read(name);
    Message message;
    EXPECT_TRUE(message.ParseFromString(std::string(Unsealed(content).value())));
    return message;
  }
  grpc::Status Search(const std::string& store) {
    loci::v1::SearchResponse response;
    return Call(*retrieval, &Retrieval::Search, TextSearch(store, "one", 1), &response);
  }
  grpc::Status Activate(const std::string& store, const std::string& generation) {
    loci::v1::ActivateGenerationRequest request;
    request.set_store(store);
    request.set_generation(generation);
    loci::v1::ActivateGenerationResponse response;
    return Call(*admin, &Admin::ActivateGeneration, request, &response);
  }
};

TEST_F(ServerDataDirectory, OneOfANewerServerIsNotTouched) {
  StartServer();
  ExpectServing();
  server.reset();
  EXPECT_EQ(Read("FORMAT"), "loci data format 1\n");
  Write("FORMAT", "loci data format 2\n");
  absl::StatusOr<std::unique_ptr<Server>> started = Server::Start(options);
  EXPECT_EQ(started.status().code(), absl::StatusCode::kFailedPrecondition) << started.status();
  EXPECT_THAT(std::string(started.status().message()),
              AllOf(HasSubstr("data directory " + options.data_directory), HasSubstr("format 2"), HasSubstr("up to 1")));
  Write("FORMAT", "something else");
  started = Server::Start(options);
  EXPECT_EQ(started.status().code(), absl::StatusCode::kFailedPrecondition) << started.status();
  EXPECT_THAT(std::string(started.status().message()), HasSubstr("FORMAT"));
  // As builds before it left it.
  ASSERT_TRUE(PosixFileSystem().DeleteFile(PathOf("FORMAT")).ok());
  StartServer();
  ExpectServing();
  EXPECT_EQ(Read("FORMAT"), "loci data format 1\n");
}

TEST_F(ServerDataDirectory, HasOneServer) {
  StartServer();
  ExpectServing();
  const absl::StatusOr<std::unique_ptr<Server>> second = Server::Start(options);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition) << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("data directory " + options.data_directory));
  ExpectServing();
}

TEST_F(ServerDataDirectory, AStoreOfANewerFormatIsLeftAloneAndTheOthersServe) {
  StartServer();
  Ingest("current", {{"a", "one"}});
  Ingest("settings", {{"a", "one"}});
  const std::string old_one = Ingest("manifest", {{"a", "one"}}).generation();
  Ingest("manifest", {{"b", "two"}});
  const std::string job = Ingest("fine", {{"a", "one"}}).job();
  server.reset();
  auto current = Opened<storage::Current>("stores/current/CURRENT");
  current.set_format_version(2);
  const std::string newer_current = Sealed(current.SerializeAsString());
  Write("stores/current/CURRENT", newer_current);
  storage::StoreSettings settings;
  settings.set_format_version(7);
  Write("stores/settings/SETTINGS", Sealed(settings.SerializeAsString()));
  auto manifest = Opened<storage::Manifest>("stores/manifest/" + old_one + "/MANIFEST");
  manifest.set_format_version(99);
  Write("stores/manifest/" + old_one + "/MANIFEST", Sealed(manifest.SerializeAsString()));
  auto record = Opened<storage::JobRecord>("jobs/" + job);
  record.set_format_version(2);
  const std::string newer_record = Sealed(record.SerializeAsString());
  Write("jobs/" + job, newer_record);

  StartServer();
  grpc::Status status = Search("current");
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), AllOf(HasSubstr("store \"current\""), HasSubstr("CURRENT has format 2"), HasSubstr("up to 1")));
  status = Search("settings");
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("SETTINGS has format 7"));
  status = Activate("manifest", old_one);
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("format version 99"));
  EXPECT_TRUE(Search("manifest").ok());
  EXPECT_TRUE(Search("fine").ok());
  EXPECT_EQ(Metric("loci_store_available{store=\"current\"}"), 0);
  EXPECT_EQ(Metric("loci_store_available{store=\"fine\"}"), 1);
  loci::v1::GetJobRequest get;
  get.set_job(job);
  loci::v1::Job found;
  EXPECT_EQ(Call(*admin, &Admin::GetJob, get, &found).error_code(), StatusCode::NOT_FOUND);
  EXPECT_EQ(Read("stores/current/CURRENT"), newer_current);
  EXPECT_EQ(Read("jobs/" + job), newer_record);
}

TEST_F(ServerDataDirectory, AFullDiskIsSaidAndServesOn) {
  FullDisk disk;
  options.fs = &disk;
  StartServer();
  const std::string first = Ingest("s", {{"a", "one"}}).generation();
  const std::string second = Ingest("s", {{"b", "two"}}).generation();
  disk.full = true;
  EXPECT_TRUE(Search("s").ok());
  grpc::Status status = Activate("s", first);
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("No space left"));
  grpc::ClientContext context;
  loci::v1::IngestResponse response;
  auto stream = admin->Ingest(&context, &response);
  loci::v1::IngestRequest header;
  header.mutable_header()->set_store("new");
  stream->Write(header);
  stream->WritesDone();
  status = stream->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("No space left"));
  loci::v1::CreateStoreRequest create;
  create.set_store("new");
  loci::v1::CreateStoreResponse created;
  EXPECT_EQ(Call(*admin, &Admin::CreateStore, create, &created).error_code(), StatusCode::RESOURCE_EXHAUSTED);
  loci::v1::VerifyGenerationRequest verify;
  verify.set_store("s");
  loci::v1::VerifyGenerationResponse verified;
  EXPECT_TRUE(Call(*admin, &Admin::VerifyGeneration, verify, &verified).ok()) << "it writes nothing but its record";
  EXPECT_EQ(verified.generation(), second);
  EXPECT_TRUE(Search("s").ok());
  disk.full = false;
  EXPECT_TRUE(Activate("s", first).ok());
  EXPECT_TRUE(Call(*admin, &Admin::CreateStore, create, &created).ok());
  options.fs = &PosixFileSystem();
  StartServer();
  EXPECT_TRUE(Search("s").ok());
  server.reset();  // Before the disk.
}

// Whoever cuts a file short under a server, or a disk that fails, does not end it: a mapped page that is gone is an error of what reads it.
TEST_F(ServerDataDirectory, AFileThatIsCutShortUnderItFailsItsStoreAlone) {
  StartServer();
  ExpectServing();
  const std::string whole = Ingest("s", {{"a", "one"}, {"b", "two"}}).generation();
  const std::string cut = Ingest("s", {{"a", "one"}, {"b", "two"}, {"c", "three"}}).generation();
  EXPECT_TRUE(Search("s").ok());
  ASSERT_EQ(truncate(PathOf("stores/s/" + cut + "/vectors.bin").c_str(), 0), 0);
  const grpc::Status status = Search("s");
  EXPECT_EQ(status.error_code(), StatusCode::DATA_LOSS) << status.error_message();
  const rpc::ErrorInfo info = InfoOf(status);
  EXPECT_EQ(info.reason(), "FILE_DAMAGED");
  EXPECT_EQ(info.metadata().count("file") > 0 ? info.metadata().at("file") : "", "vectors.bin");
  ExpectServing();
  EXPECT_TRUE(Activate("s", whole).ok());
  EXPECT_TRUE(Search("s").ok());
}

TEST_F(ServerDataDirectory, NamesOfStoresDoNotLeadOutOfIt) {
  StartServer();
  Ingest("s", {{"a", "one"}});
  const std::vector<std::string> before = PosixFileSystem().List(directory_).value();
  for (const std::string& name : {std::string("a/b"), std::string(".."), std::string("."), std::string("../s"), std::string("/etc"),
                                  std::string("s/"), std::string("a\0b", 3), std::string("Capital"), std::string("stör"), std::string(" "),
                                  std::string("-s"), std::string(65, 'x'), std::string(10'000, 'x')}) {
    SCOPED_TRACE(name.substr(0, 20));
    const auto refused = [&](const grpc::Status& status) {
      EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << status.error_message();
      EXPECT_LT(status.error_message().size(), 400u);
      EXPECT_THAT(status.error_message(), HasSubstr("store"));
      EXPECT_THAT(status.error_message(), HasSubstr("64")) << "the limit";
    };
    const auto call = [&](auto method, auto request, auto response) {
      request.set_store(name);
      refused(Call(*admin, method, request, &response));
    };
    call(&Admin::CreateStore, loci::v1::CreateStoreRequest(), loci::v1::CreateStoreResponse());
    call(&Admin::GetStore, loci::v1::GetStoreRequest(), loci::v1::GetStoreResponse());
    call(&Admin::UpdateStore, loci::v1::UpdateStoreRequest(), loci::v1::UpdateStoreResponse());
    loci::v1::DeleteStoreRequest deletion;
    deletion.set_confirm_name(name);
    call(&Admin::DeleteStore, deletion, loci::v1::DeleteStoreResponse());
    call(&Admin::ListGenerations, loci::v1::ListGenerationsRequest(), loci::v1::ListGenerationsResponse());
    loci::v1::ActivateGenerationRequest activate;
    activate.set_generation("g");
    call(&Admin::ActivateGeneration, activate, loci::v1::ActivateGenerationResponse());
    call(&Admin::RollbackStore, loci::v1::RollbackStoreRequest(), loci::v1::RollbackStoreResponse());
    call(&Admin::VerifyGeneration, loci::v1::VerifyGenerationRequest(), loci::v1::VerifyGenerationResponse());
    loci::v1::DeletePassagesRequest passages;
    passages.add_ids("a");
    call(&Admin::DeletePassages, passages, loci::v1::DeletePassagesResponse());
    refused(Search(name));
    grpc::ClientContext context;
    loci::v1::IngestResponse response;
    auto stream = admin->Ingest(&context, &response);
    loci::v1::IngestRequest header;
    header.mutable_header()->set_store(name);
    stream->Write(header);
    stream->WritesDone();
    refused(stream->Finish());
  }
  EXPECT_EQ(PosixFileSystem().List(directory_).value(), before);
  EXPECT_EQ(PosixFileSystem().List(PathOf("stores")).value(), std::vector<std::string>{"s"});
}

}  // namespace
}  // namespace loci
