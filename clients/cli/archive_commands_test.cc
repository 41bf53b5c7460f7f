// loci export and import: files that are there whole or not at all, and what is sent.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "clients/cli/cli_fixture.h"
#include "nlohmann/json.hpp"

namespace loci {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class ArchiveCommandsTest : public CliTest {
 protected:
  void SetUp() override {
    server_.on_export = [this](const v1::ExportRequest& request, grpc::ServerContext*, grpc::ServerWriter<v1::ExportChunk>* writer) {
      request_ = request;
      v1::ExportChunk chunk;
      chunk.set_generation("g1");
      chunk.set_revision(7);
      chunk.set_passage_count(2);
      chunk.set_data("one ");
      writer->Write(chunk);
      if (!export_status_.ok()) return export_status_;
      chunk.Clear();
      chunk.set_data("two");
      chunk.set_done_count(2);
      writer->Write(chunk);
      return grpc::Status::OK;
    };
    server_.on_import = [this](grpc::ServerContext* context, grpc::ServerReader<v1::ImportRequest>* reader, v1::ImportResponse* response) {
      v1::ImportRequest request;
      imported_.clear();
      while (reader->Read(&request)) {
        if (request.has_header()) header_ = request.header();
        imported_ += request.data();
      }
      import_was_cancelled_ = context->IsCancelled();
      response->set_generation("g2");
      response->set_done(!header_.no_wait());
      response->set_job("j1");
      response->set_passage_count(2);
      response->set_source_store("movies");
      return import_status_;
    };
  }
  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  static std::string Read(const std::string& path) {
    std::ostringstream content;
    content << std::ifstream(path, std::ios::binary).rdbuf();
    return content.str();
  }
  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) names.push_back(entry.path().filename());
    return names;
  }

  v1::ExportRequest request_;
  grpc::Status export_status_, import_status_;
  v1::ImportHeader header_;
  std::string imported_;
  bool import_was_cancelled_ = false;
};

TEST_F(ArchiveCommandsTest, ExportWritesAFileThatWasNotThere) {
  EXPECT_EQ(Run({"export", "movies", Path("a")}), 0) << err();
  EXPECT_EQ(Read(Path("a")), "one two");
  EXPECT_EQ(request_.store(), "movies");
  EXPECT_EQ(request_.generation(), "");
  EXPECT_THAT(out(), AllOf(HasSubstr("generation g1"), HasSubstr("revision 7"), HasSubstr("2 passages, 7 B")));
  EXPECT_EQ(Files().size(), 1u) << "no temporary name stays";
  EXPECT_EQ(Run({"export", "movies", "g9", Path("b"), "--without-writes", "-o", "json"}), 0) << err();
  EXPECT_EQ(request_.generation(), "g9");
  EXPECT_TRUE(request_.without_writes());
  EXPECT_EQ(nlohmann::json::parse(out())["revision"], "7");
}

TEST_F(ArchiveCommandsTest, ExportReplacesAFileOnlyWhereItIsTold) {
  Write("a", "before");
  EXPECT_EQ(Run({"export", "movies", Path("a")}), 1);
  EXPECT_THAT(err(), AllOf(HasSubstr(Path("a") + " exists"), HasSubstr("--force")));
  EXPECT_EQ(Read(Path("a")), "before");
  EXPECT_EQ(Run({"export", "movies", Path("a"), "--force"}), 0) << err();
  EXPECT_EQ(Read(Path("a")), "one two");
  EXPECT_EQ(Files().size(), 1u);
  std::filesystem::create_directory(Path("folder"));
  EXPECT_EQ(Run({"export", "movies", Path("folder"), "--force"}), 1);
  EXPECT_EQ(Run({"export", "movies", Path("absent/a")}), 1);
}

TEST_F(ArchiveCommandsTest, AnExportThatFailsHalfwayLeavesWhatWasThere) {
  export_status_ = FakeError(grpc::StatusCode::DATA_LOSS, "passage 3 is damaged", "FILE_DAMAGED", {});
  EXPECT_EQ(Run({"export", "movies", Path("new")}), 1);
  EXPECT_THAT(err(), AllOf(HasSubstr("passage 3 is damaged"), HasSubstr("no file was written")));
  EXPECT_TRUE(Files().empty());
  Write("a", "before");
  EXPECT_EQ(Run({"export", "movies", Path("a"), "--force"}), 1);
  EXPECT_EQ(Read(Path("a")), "before");
  EXPECT_EQ(Files().size(), 1u);
  EXPECT_EQ(Run({"export", "movies", "-"}), 1);
  EXPECT_THAT(err(), HasSubstr("what was printed is not an archive"));
}

TEST_F(ArchiveCommandsTest, ExportPrintsToStandardOutputAlone) {
  EXPECT_EQ(Run({"export", "movies", "-"}), 0) << err();
  EXPECT_EQ(out(), "one two");
  EXPECT_THAT(err(), HasSubstr("2 passages"));
  EXPECT_EQ(Run({"export", "movies", "-", "-o", "json"}), 2);
  EXPECT_EQ(Run({"export", "movies"}), 2);
  EXPECT_THAT(err(), HasSubstr("FILE is missing"));
}

TEST_F(ArchiveCommandsTest, ImportSendsTheFileAndItsFlags) {
  const std::string content(3'000'000, 'x');
  EXPECT_EQ(Run({"import", "copy", Write("a", content)}), 0) << err();
  EXPECT_EQ(imported_, content);
  EXPECT_EQ(header_.store(), "copy");
  EXPECT_FALSE(header_.has_index());
  EXPECT_THAT(out(), AllOf(HasSubstr("imported 2 passages of store movies"), HasSubstr("serves generation g2")));
  EXPECT_EQ(Run({"import", "copy", Path("a"), "--no-activate", "--writes-since", "discard", "--index", "Flat", "--vector-type", "float16",
                 "--no-wait", "--allow-unknown-encoder"}),
            0)
      << err();
  EXPECT_TRUE(header_.no_activate() && header_.no_wait() && header_.allow_unknown_encoder());
  EXPECT_EQ(header_.writes_since(), v1::WRITES_SINCE_DISCARD);
  EXPECT_EQ(header_.index().factory(), "Flat");
  EXPECT_EQ(header_.index().vector_type(), v1::VECTOR_TYPE_FLOAT16);
  EXPECT_THAT(out(), HasSubstr("loci watch j1"));
  EXPECT_EQ(Run({"import", "copy", Path("a"), "--allow-unknown-encoder"}), 2);
  imported_.clear();
  EXPECT_EQ(Run({"import", "copy", Path("a"), "--dry-run"}), 0);
  EXPECT_EQ(imported_, "");
}

TEST_F(ArchiveCommandsTest, ImportTellsWhatTheServerRefuses) {
  import_status_ = FakeError(grpc::StatusCode::DATA_LOSS, "the archive is damaged at byte 99", "ARCHIVE_DAMAGED", {{"offset", "99"}});
  EXPECT_EQ(Run({"import", "copy", Write("a", "x")}), 1);
  EXPECT_THAT(err(), HasSubstr("the archive is damaged at byte 99"));
  EXPECT_EQ(Run({"import", "copy", Path("absent")}), 1);
}

TEST_F(ArchiveCommandsTest, ImportSendsNothingWholeOfAFileThatCantBeRead) {
  // A gzip stream that is cut short: the server must not take what came for the whole.
  const std::string gzip("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x4b", 11);
  EXPECT_EQ(Run({"import", "copy", Write("a.gz", gzip)}), 1);
  EXPECT_THAT(err(), HasSubstr("nothing was imported"));
}

}  // namespace
}  // namespace loci
