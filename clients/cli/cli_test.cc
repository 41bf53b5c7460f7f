#include "clients/cli/cli.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "clients/cli/cli_fixture.h"
#include "clients/cli/fake_server.h"
#include "nlohmann/json.hpp"

namespace loci {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

grpc::Status OneHit(const v1::SearchRequest& request, v1::SearchResponse* response) {
  for (const v1::Query& query : request.queries()) {
    v1::Hit* const hit = response->add_results()->add_hits();
    hit->set_id("d" + query.text());
    hit->set_score(0.5);
    if (request.include_text()) hit->mutable_passage()->set_text("a\x1b[2Jtext");
  }
  response->set_generation("g1");
  response->set_revision(7);
  response->set_exact(true);
  return grpc::Status::OK;
}

TEST_F(CliTest, SearchSendsWhatWasAskedAndPrintsATable) {
  v1::SearchRequest seen;
  server_.on_search = [&](const v1::SearchRequest& request, v1::SearchResponse* response) {
    seen = request;
    return OneHit(request, response);
  };
  ASSERT_EQ(Run({"search", "movies", "get", "--top-k", "3", "--exact", "--generation=g1", "--filter", "year > 1979"}), 0)
      << err();
  EXPECT_EQ(seen.store(), "movies");
  EXPECT_EQ(seen.queries(0).text(), "get");
  EXPECT_EQ(seen.top_k(), 3);
  EXPECT_TRUE(seen.options().exact());
  EXPECT_TRUE(seen.include_text());
  EXPECT_EQ(seen.generation(), "g1");
  EXPECT_EQ(seen.filter(), "year > 1979");
  EXPECT_THAT(out(), AllOf(HasSubstr("RANK"), HasSubstr("0.5000   dget"), HasSubstr("generation g1, revision 7"),
                           Not(HasSubstr("\x1b"))));
}

TEST_F(CliTest, SearchByVectorSendsFloat32) {
  v1::SearchRequest seen;
  server_.on_search = [&](const v1::SearchRequest& request, v1::SearchResponse* response) {
    seen = request;
    return OneHit(request, response);
  };
  ASSERT_EQ(Run({"search", "s", "--vector", Write("v.json", "[0.5, -1]")}), 0) << err();
  EXPECT_EQ(seen.queries(0).vector().rows(), 1);
  EXPECT_EQ(seen.queries(0).vector().cols(), 2);
  EXPECT_EQ(seen.queries(0).vector().data(), std::string("\0\0\0\x3f\0\0\x80\xbf", 8));
  EXPECT_EQ(Run({"search", "s", "--vector", Write("v.json", "[NaN]")}), 1);
  EXPECT_EQ(Run({"search", "s", "text", "--vector", directory_ + "/v.json"}), 2);
}

TEST_F(CliTest, JsonHasProtoNamesAndDefaults) {
  server_.on_search = OneHit;
  ASSERT_EQ(Run({"-o", "json", "search", "movies", "q", "--no-text"}), 0) << err();
  const nlohmann::json response = nlohmann::json::parse(out());
  EXPECT_EQ(response["results"][0]["hits"][0]["id"], "dq");
  EXPECT_EQ(response["encoder_fingerprint"], "");
  EXPECT_EQ(response["revision"], "7");
  EXPECT_EQ(response["exact"], true);
}

TEST_F(CliTest, ErrorsGoToStderrWithCodeMessageReasonAndExitCode) {
  server_.on_list_stores = [](v1::ListStoresResponse*) {
    return FakeError(grpc::StatusCode::NOT_FOUND, "no store named \"x\"", "STORE_NOT_FOUND", {{"store", "x"}});
  };
  EXPECT_EQ(Run({"get", "stores"}), 1);
  EXPECT_EQ(out(), "");
  EXPECT_EQ(err(), "error: NOT_FOUND: no store named \"x\" (reason STORE_NOT_FOUND, store=x)\n");
  server_.on_list_stores = [](v1::ListStoresResponse*) { return grpc::Status(grpc::StatusCode::UNAVAILABLE, "draining"); };
  EXPECT_EQ(Run({"get", "stores"}), 3);
  EXPECT_EQ(Run({"get", "stores", "--server", "127.0.0.1:1"}), 3);
  EXPECT_THAT(err(), HasSubstr("127.0.0.1:1"));
  EXPECT_EQ(Run({"get", "jobs"}), 1);
  EXPECT_THAT(err(), HasSubstr("UNIMPLEMENTED"));
  server_.on_list_stores = [](v1::ListStoresResponse*) { return grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "late"); };
  EXPECT_EQ(Run({"get", "stores"}), 4);
}

TEST_F(CliTest, UsageErrorsExitWithTwoAndSendNothing) {
  for (const std::vector<std::string>& args : std::vector<std::vector<std::string>>{
           {},
           {"serach", "s", "q"},
           {"get"},
           {"get", "nothing"},
           {"search"},
           {"search", "s"},
           {"search", "s", ""},
           {"search", "s", "two", "words"},
           {"search", "s", "q", "--top-k", "0"},
           {"search", "s", "\xff"},
           {"--server"},
           {"ingest", "s", "f", "--mode", "upsert", "--index", "Flat"},
           {"delete", "store", "s"},
           {"delete", "store", "s", "--confirm", "t"},
           {"eval", "s"},
           {"get", "stores", "--server", "127.0.0.1"},
           {"get", "stores", "--server", "127.0.0.1:99999"},
           {"get", "stores", "--server", "http://127.0.0.1:7440"},
           {"get", "stores", "--server", "::1:7440"},
           {"get", "stores", "--server", ":7440"},
           {"get", "stores", "--server", ""},
           {"completion", "fish"},
           {"man", "serach"},
       }) {
    EXPECT_EQ(Run(args), 2) << ::testing::PrintToString(args);
    EXPECT_NE(err(), "") << ::testing::PrintToString(args);
    EXPECT_EQ(out(), "") << ::testing::PrintToString(args);
  }
  Run({"serach", "s", "q"});
  EXPECT_THAT(err(), HasSubstr("did you mean search?"));
  Run({"search", "s"});
  EXPECT_THAT(err(), HasSubstr("give QUERY or --vector\n"));
  Run({"get", "stores", "--server", "host:0"});
  EXPECT_EQ(err(), "error: flag --server: \"host:0\" is not HOST:PORT: the port must be 1 to 65535\n");
  EXPECT_EQ(Run({"get", "stores", "--server", "[::1]:1", "--timeout", "2s"}), 3);
  EXPECT_EQ(server_.search_count, 0);
}

TEST_F(CliTest, EveryCommandHasHelpWithExamples) {
  ASSERT_EQ(Run({"help"}), 0);
  EXPECT_THAT(out(), HasSubstr("Exit codes:\n  0   done\n  1   the server refused"));
  std::istringstream overview(out());
  std::string line;
  int count = 0;
  while (std::getline(overview, line) && line != "Commands:") continue;
  while (std::getline(overview, line) && !line.empty()) {
    std::vector<std::string> words;
    std::istringstream split(line.substr(0, line.find("  ", 2)));
    for (std::string word; split >> word;) words.push_back(word);
    if (words[0] == "help") continue;
    words.push_back("--help");
    EXPECT_EQ(Run(words), 0) << line;
    EXPECT_THAT(out(), AllOf(HasSubstr("Examples:\n  loci " + words[0]), HasSubstr("Exit codes:"), HasSubstr("--server")))
        << line;
    ++count;
  }
  EXPECT_GE(count, 20);
  EXPECT_EQ(Run({"--version"}), 0);
  EXPECT_THAT(out(), HasSubstr("loci "));
}

TEST_F(CliTest, IngestStreamsHeaderThenBoundedBatches) {
  std::string text;
  for (int i = 0; i < 600; ++i) text += "{\"id\": " + std::to_string(i) + ", \"text\": \"t\", \"vector\": [1, 2]}\n";
  server_.ingest_response.set_generation("g1");
  server_.ingest_response.set_accepted_count(600);
  server_.ingest_response.set_done(true);
  ASSERT_EQ(Run({"ingest", "s", Write("a.jsonl", text), "--index", "IVF8,Flat", "--no-activate", "--writes-since=discard",
                 "--encoder-fingerprint", "ab:cd", "-o", "json"}),
            0)
      << err();
  ASSERT_EQ(server_.ingest_requests.size(), 4u);
  const v1::IngestHeader& header = server_.ingest_requests[0].header();
  EXPECT_EQ(header.store(), "s");
  EXPECT_EQ(header.mode(), v1::INGEST_MODE_NEW_GENERATION);
  EXPECT_EQ(header.index().factory(), "IVF8,Flat");
  EXPECT_TRUE(header.no_activate());
  EXPECT_EQ(header.writes_since(), v1::WRITES_SINCE_DISCARD);
  EXPECT_EQ(header.encoder_fingerprint(), "ab:cd");
  int count = 0;
  for (size_t i = 1; i < 4; ++i) {
    const v1::PassageBatch& batch = server_.ingest_requests[i].batch();
    for (const v1::Passage& passage : batch.passages()) EXPECT_EQ(passage.id(), std::to_string(count++));
    EXPECT_EQ(batch.vectors().rows(), batch.passages_size());
    EXPECT_EQ(batch.vectors().data().size(), batch.passages_size() * 8u);
  }
  EXPECT_EQ(count, 600);
  EXPECT_EQ(nlohmann::json::parse(out())["accepted_count"], "600");
}

TEST_F(CliTest, IngestTakesGoodLinesNamesBadOnesAndFails) {
  const std::string path =
      Write("a.jsonl", "{\"id\": 1, \"text\": \"t\"}\nnonsense\n{\"id\": 3, \"text\": \"t\"}\n{\"id\": 4, \"text\": \"t\"}\n");
  // The server refuses the stream's third passage, which is line 4 of the file.
  server_.ingest_response.set_rejected_count(1);
  v1::LineError* const error = server_.ingest_response.add_errors();
  error->set_line(3);
  error->set_id("4");
  error->set_message("title has 70000 bytes, the limit is 65536");
  EXPECT_EQ(Run({"ingest", "s", path}), 1);
  EXPECT_THAT(err(),
              AllOf(HasSubstr(path + ":2: "), HasSubstr(path + ":4: id 4: title has"), HasSubstr("2 lines were not taken")));
  ASSERT_EQ(server_.ingest_requests.size(), 2u);
  EXPECT_EQ(server_.ingest_requests[1].batch().passages_size(), 3);
  EXPECT_EQ(Run({"ingest", "s", path, "--skip-errors", "-o", "json"}), 0);
  const nlohmann::json response = nlohmann::json::parse(out());
  EXPECT_EQ(response["rejected_count"], "2");
  ASSERT_EQ(response["errors"].size(), 2u);
  EXPECT_EQ(response["errors"][0]["line"], "2");
  EXPECT_THAT(response["errors"][0]["message"].get<std::string>(), HasSubstr(path + ":2: "));
  EXPECT_EQ(response["errors"][1]["line"], "4");
  EXPECT_EQ(response["errors"][1]["id"], "4");
}

TEST_F(CliTest, IngestOfDocumentsSendsTheirSectionsAndAsksForChunks) {
  std::filesystem::create_directory(directory_ + "/docs");
  Write("docs/a.md", "# A\nfirst\n## B\nsecond\n");
  const std::string bad = Write("docs/b.txt", "\xE9");
  EXPECT_EQ(Run({"ingest", "s", directory_ + "/docs"}), 1);
  EXPECT_THAT(err(), HasSubstr(bad + ":1: not valid UTF-8"));
  ASSERT_EQ(server_.ingest_requests.size(), 2u);
  EXPECT_TRUE(server_.ingest_requests[0].header().has_chunking());
  const v1::PassageBatch& batch = server_.ingest_requests[1].batch();
  ASSERT_EQ(batch.passages_size(), 2);
  EXPECT_EQ(batch.passages(1).document_id(), "a.md");
  EXPECT_EQ(batch.passages(1).title(), "A > B");
  EXPECT_EQ(Run({"upsert", "s", directory_ + "/docs/a.md"}), 1);
  EXPECT_THAT(err(), HasSubstr("loci ingest s " + directory_ + "/docs/a.md --mode upsert"));
}

// Runs a script with a shell, with the script that `loci completion` prints before it.
std::string RunShell(const std::string& shell, const std::string& path, int* status) {
  FILE* const pipe = popen((shell + " " + path + " 2>&1").c_str(), "r");
  std::string text;
  char buffer[4096];
  while (const size_t count = fread(buffer, 1, sizeof buffer, pipe)) text.append(buffer, count);
  *status = pclose(pipe);
  return text;
}

TEST_F(CliTest, BashCompletesCommandsFlagsChoicesFilesAndStores) {
  ASSERT_EQ(Run({"completion", "bash"}), 0);
  const std::string script = Write("completion.bash", out());
  Write("corpus.jsonl", "");
  const std::string program = Write("loci", "#!/bin/sh\n[ \"$3 $4\" = '--server h:1' ] || exit 1\n"
                                            "printf '{\\n  \"store\": \"movies\",\\n  \"store\": \"music\"\\n}\\n'\n");
  std::filesystem::permissions(program, std::filesystem::perms::owner_all);
  const auto complete = [&](const std::string& words) {
    const std::string test = Write("test.bash", "set -u\ncd " + directory_ + "\nsource " + script + "\nCOMP_WORDS=(" + program + " " + words +
                                                    ")\nCOMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n_loci\n"
                                                    "echo \"${COMPREPLY[*]:-}\"\n");
    int status = 0;
    const std::string reply = RunShell("bash", test, &status);
    EXPECT_EQ(status, 0) << words;
    return reply;
  };
  EXPECT_EQ(complete("sea"), "search\n");
  EXPECT_THAT(complete("get ''"), AllOf(HasSubstr("stores"), HasSubstr("generations"), Not(HasSubstr("search"))));
  EXPECT_EQ(complete("get st"), "stores\n");
  EXPECT_EQ(complete("-o json sea"), "search\n");
  EXPECT_EQ(complete("search movies q --top"), "--top-k\n");
  EXPECT_EQ(complete("search movies q --top-k 5 --ex"), "--exact\n");
  EXPECT_EQ(complete("get stores --ti"), "--timeout\n");
  EXPECT_EQ(complete("ingest movies f --mode ''"), "new-generation upsert\n");
  EXPECT_EQ(complete("ingest movies f --mode = u"), "upsert\n");
  EXPECT_EQ(complete("ingest movies f --mode ="), "new-generation upsert\n");
  EXPECT_EQ(complete("search movies q -o j"), "json\n");
  EXPECT_EQ(complete("ingest movies cor"), "corpus.jsonl\n");
  EXPECT_EQ(complete("eval movies --queries cor"), "corpus.jsonl\n");
  EXPECT_EQ(complete("--server h : 1 search m"), "movies music\n");
  EXPECT_EQ(complete("--server h : 1 get stores movies mu"), "music\n");
  EXPECT_EQ(complete("completion z"), "zsh\n");
  EXPECT_EQ(complete("wa"), "watch\n");
  EXPECT_EQ(complete("can"), "cancel\n");
  EXPECT_EQ(complete("ingest movies f --bad-lines ''"), "skip fail\n");
  EXPECT_EQ(complete("ingest movies f --format ma"), "markdown\n");
  EXPECT_EQ(complete("ingest movies f --chu"), "--chunk-tokens\n");
  EXPECT_EQ(complete("get jobs movies --state f"), "failed\n");
  EXPECT_EQ(complete("search movies ''"), "\n");
  EXPECT_EQ(complete("search -- --ex"), "\n");
}

TEST_F(CliTest, CompletionScriptsAreSoundForTheirShells) {
  for (const std::string shell : {"bash", "zsh"}) {
    ASSERT_EQ(Run({"completion", shell}), 0);
    EXPECT_THAT(out(), AllOf(HasSubstr("--top-k"), HasSubstr("'delete passages')")));
    if (std::system(("command -v " + shell + " >/dev/null").c_str()) != 0) continue;
    int status = 0;
    EXPECT_EQ(RunShell(shell + " -n", Write("script", out()), &status), "");
    EXPECT_EQ(status, 0);
  }
}

TEST_F(CliTest, ManualPagesAreSoundRoff) {
  for (const std::vector<std::string>& args : {std::vector<std::string>{"man"}, {"man", "search"}, {"man", "delete", "store"}}) {
    ASSERT_EQ(Run(args), 0) << err();
    EXPECT_THAT(out(), AllOf(HasSubstr("EXIT STATUS"), HasSubstr("LOCI_SERVER"), HasSubstr("\\-\\-timeout")));
    if (std::system("command -v groff >/dev/null") != 0) continue;
    int status = 0;
    EXPECT_EQ(RunShell("groff -man -Tutf8 -ww -z", Write("page.1", out()), &status), "");
    EXPECT_EQ(status, 0);
  }
  ASSERT_EQ(Run({"man"}), 0);
  EXPECT_THAT(out(), AllOf(HasSubstr(".SS get stores"), HasSubstr(".SS man"), HasSubstr("\\-\\-skip\\-errors"), HasSubstr(".SS watch"),
                           HasSubstr(".SS cancel"), HasSubstr("\\-\\-chunk\\-tokens"), HasSubstr("poppler")));
}

TEST_F(CliTest, IngestOfADamagedFileIsCancelledNotFinished) {
  std::string gzip("\x1f\x8b\x08\0\0\0\0\0\0\x03", 10);
  // A stored block of 65,535 bytes, then nothing.
  std::string lines;
  for (int i = 0; lines.size() < 65'535; ++i) lines += "{\"id\": " + std::to_string(i) + ", \"text\": \"t\"}\n";
  lines.resize(65'535);
  gzip += std::string("\0\xff\xff\0\0", 5) + lines;
  EXPECT_EQ(Run({"ingest", "s", Write("cut.jsonl.gz", gzip)}), 1);
  EXPECT_THAT(err(), AllOf(HasSubstr("cut short"), HasSubstr("nothing was ingested")));
  EXPECT_TRUE(server_.IngestWasCancelled());
  EXPECT_GT(server_.ingest_requests.size(), 1u);
}

TEST_F(CliTest, IngestOfNothingSendsNothing) {
  EXPECT_EQ(Run({"ingest", "s", Write("empty.jsonl", "\n\n")}), 1);
  EXPECT_EQ(Run({"ingest", "s", Write("bad.jsonl", "x\n")}), 1);
  EXPECT_EQ(Run({"ingest", "s", Write("x.txt", " \n")}), 1);
  EXPECT_THAT(err(), HasSubstr("x.txt is passed over: no text is in it"));
  EXPECT_EQ(Run({"ingest", "s", directory_ + "/absent"}), 1);
  EXPECT_EQ(Run({"ingest", "s", Write("a.jsonl", "{\"id\": 1, \"text\": \"t\"}\n"), "--dry-run"}), 0);
  EXPECT_THAT(out(), HasSubstr("would ingest 1 passage into store s"));
  EXPECT_TRUE(server_.ingest_requests.empty());
}

TEST_F(CliTest, IngestReportsTheServersEarlyRefusal) {
  server_.ingest_status = FakeError(grpc::StatusCode::INVALID_ARGUMENT, "index: \"Foo\"", "INVALID_FIELD", {});
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += "{\"id\": " + std::to_string(i) + ", \"text\": \"t\"}\n";
  EXPECT_EQ(Run({"ingest", "s", Write("a.jsonl", text), "--index", "Foo"}), 1);
  EXPECT_THAT(err(), HasSubstr("error: INVALID_ARGUMENT: index: \"Foo\" (reason INVALID_FIELD)"));
}

TEST_F(CliTest, UpsertAddsUpItsBatches) {
  int calls = 0;
  server_.on_upsert = [&](const v1::UpsertPassagesRequest& request, v1::UpsertPassagesResponse* response) {
    response->set_upserted_count(request.passages_size());
    response->set_revision(++calls);
    return grpc::Status::OK;
  };
  std::string text;
  for (int i = 0; i < 300; ++i) text += std::to_string(i) + "\ttext\n";
  ASSERT_EQ(Run({"upsert", "s", Write("a.tsv", text), "-o", "json"}), 0) << err();
  EXPECT_EQ(nlohmann::json::parse(out())["upserted_count"], "300");
  EXPECT_EQ(nlohmann::json::parse(out())["revision"], "2");
  server_.on_upsert = [&](const v1::UpsertPassagesRequest&, v1::UpsertPassagesResponse* response) {
    response->set_upserted_count(256);
    return ++calls == 3 ? grpc::Status::OK : grpc::Status(grpc::StatusCode::INTERNAL, "disk");
  };
  EXPECT_EQ(Run({"upsert", "s", directory_ + "/a.tsv"}), 1);
  EXPECT_THAT(err(), HasSubstr("256 passages were upserted before the error"));
}

TEST_F(CliTest, DeleteStoreRepeatsTheName) {
  v1::DeleteStoreRequest seen;
  server_.on_delete_store = [&](const v1::DeleteStoreRequest& request) {
    seen = request;
    return grpc::Status::OK;
  };
  ASSERT_EQ(Run({"delete", "store", "s", "--confirm", "s"}), 0) << err();
  EXPECT_EQ(seen.store(), "s");
  EXPECT_EQ(seen.confirm_name(), "s");
}

TEST_F(CliTest, AskPrintsAnswerAndEvidence) {
  server_.on_answer = [](const v1::AnswerRequest& request, v1::AnswerResponse* response) {
    EXPECT_EQ(request.question(), "who?");
    v1::Answer* const answer = response->add_answers();
    answer->set_text("Ridley Scott directed it.");
    answer->set_score(0.875);
    v1::Evidence* const evidence = answer->add_evidence();
    evidence->set_passage_id("m1");
    evidence->set_start_byte(3);
    evidence->set_end_byte(28);
    response->add_passages()->set_id("m1");
    return grpc::Status::OK;
  };
  ASSERT_EQ(Run({"ask", "movies", "who?"}), 0) << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("Ridley Scott directed it.\n  confidence 0.875, passage m1 bytes 3-28\n")));
}

TEST_F(CliTest, EvalAveragesOverQueriesWithRelevantDocuments) {
  // The answer to query text T is document dT: right for q1, wrong for q2; q3 has no relevant document, q4 no judgement.
  server_.on_search = OneHit;
  const std::string queries = Write("q.jsonl",
                                    "{\"_id\": \"q1\", \"text\": \"a\"}\n{\"_id\": \"q2\", \"text\": \"b\"}\n"
                                    "{\"_id\": \"q3\", \"text\": \"c\"}\n{\"_id\": \"q4\", \"text\": \"d\"}\n");
  const std::string qrels = Write("qrels.tsv", "query-id\tcorpus-id\tscore\nq1\tda\t2\nq2\tother\t1\nq3\tdc\t0\nq5\tdx\t1\n");
  ASSERT_EQ(Run({"eval", "s", "--queries", queries, "--qrels", qrels, "-o", "json"}), 0) << err();
  const nlohmann::json report = nlohmann::json::parse(out());
  EXPECT_EQ(report["query_count"], 2);
  EXPECT_EQ(report["left_out_query_count"], 2);
  for (const char* key : {"ndcg_at_10", "recall_at_10", "recall_at_100", "mrr_at_10"}) EXPECT_EQ(report[key], 0.5) << key;
  EXPECT_THAT(err(), HasSubstr("1 judged queries are not in the file"));
}

TEST_F(CliTest, EvalRefusesAStoreThatChangesUnderIt) {
  int64_t revision = 0;
  server_.on_search = [&](const v1::SearchRequest& request, v1::SearchResponse* response) {
    const grpc::Status status = OneHit(request, response);
    response->set_revision(++revision);
    return status;
  };
  std::string queries, qrels;
  for (int i = 0; i < 40; ++i) {
    queries += "{\"id\": " + std::to_string(i) + ", \"text\": \"t\"}\n";
    qrels += std::to_string(i) + "\td\t1\n";
  }
  EXPECT_EQ(Run({"eval", "s", "--queries", Write("q", queries), "--qrels", Write("r", qrels)}), 1);
  EXPECT_THAT(err(), HasSubstr("the store changed during the run"));
}

TEST_F(CliTest, BenchCountsSuccessesAndErrorsByCode) {
  int calls = 0;
  server_.on_search = [&](const v1::SearchRequest& request, v1::SearchResponse* response) {
    if (++calls % 3 == 0) return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "overloaded");
    return OneHit(request, response);
  };
  const std::string queries = Write("q.jsonl", "{\"_id\": \"q1\", \"text\": \"a\"}\n");
  ASSERT_EQ(Run({"bench", "s", "--queries", queries, "--concurrency", "2", "--duration", "200ms", "-o", "json"}), 1);
  const nlohmann::json report = nlohmann::json::parse(out());
  EXPECT_GT(report["succeeded"], 0);
  EXPECT_EQ(report["errors"]["RESOURCE_EXHAUSTED"], report["failed"]);
  EXPECT_EQ(report["requests"].get<int>() + 1, calls);  // And the one ahead.
  EXPECT_LE(report["p50_us"], report["p99_us"]);
  EXPECT_LE(report["p99_us"], report["max_us"]);

  calls = -1'000'000;
  server_.on_search = OneHit;
  ASSERT_EQ(Run({"bench", "s", "--queries", queries, "--rate", "50", "--duration", "200ms", "-o", "json"}), 0) << err();
  EXPECT_LE(nlohmann::json::parse(out())["requests"], 10);
  EXPECT_EQ(Run({"bench", "s", "--queries", queries, "--server", "127.0.0.1:1"}), 3);
}

TEST_F(CliTest, BenchMeasuresAnIdleASaturatedAndALoadedServer) {
  server_.on_search = [](const v1::SearchRequest& request, v1::SearchResponse* response) {
    response->mutable_timings()->set_encode_us(70);
    response->mutable_timings()->set_filter_us(10);
    response->mutable_timings()->set_search_us(20);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return OneHit(request, response);
  };
  const std::string queries = Write("q.jsonl", "{\"_id\": \"q1\", \"text\": \"a\"}\n");
  const std::vector<std::string> command = {"bench",      "s",     "--queries",    queries, "--saturation", "--concurrency", "4",
                                            "--duration", "200ms", "--server-pid", std::to_string(getpid())};
  std::vector<std::string> as_json = command;
  as_json.insert(as_json.end(), {"-o", "json"});
  ASSERT_EQ(Run(as_json), 0) << err();
  const nlohmann::json report = nlohmann::json::parse(out());
  ASSERT_EQ(report["stages"].size(), 3);
  const nlohmann::json &idle = report["stages"][0], &saturated = report["stages"][1], &loaded = report["stages"][2];
  EXPECT_EQ(idle["stage"], "idle");
  EXPECT_EQ(idle["concurrency"], 1);
  EXPECT_EQ(saturated["concurrency"], 4);
  EXPECT_FALSE(saturated.contains("target_rate"));
  EXPECT_DOUBLE_EQ(loaded["target_rate"].get<double>(), 0.7 * saturated["requests_per_second"].get<double>());
  for (const nlohmann::json& stage : report["stages"]) {
    EXPECT_GT(stage["succeeded"], 0);
    EXPECT_EQ(stage["failed"], 0);
    EXPECT_EQ(stage["encode_p50_us"], 70);
    EXPECT_EQ(stage["search_p50_us"], 30);
    EXPECT_LE(stage["rest_p50_us"].get<int64_t>(), stage["p50_us"].get<int64_t>() - 100 + 1 + stage["p50_us"].get<int64_t>() / 64);  // Histograms' error.
    EXPECT_GE(stage["server_cpu_s"], 0);
  }
  EXPECT_GE(report["p99_by_p50"], 1);

  ASSERT_EQ(Run(command), 0) << err();
  for (const char* text : {"STAGE", "saturated", "at 70 %", "PER CPU-S", "p99 at 70 % is"}) EXPECT_THAT(out(), HasSubstr(text));
  EXPECT_THAT(err(), HasSubstr("encoding and searching are not measured alone: "));

  EXPECT_EQ(Run({"bench", "s", "--queries", queries, "--saturation", "--rate", "5"}), 2);
  EXPECT_EQ(Run({"bench", "s", "--queries", queries, "--server-pid", "1073741824"}), 1);
  EXPECT_THAT(err(), HasSubstr("there is no process 1073741824"));
}

TEST_F(CliTest, BenchMeasuresEncodingAndSearchingAlone) {
  std::atomic<int> by_text{0}, by_vector{0}, texts{0};
  server_.on_search = [&](const v1::SearchRequest& request, v1::SearchResponse* response) {
    const v1::Query& query = request.queries(0);
    ++(query.has_vector() ? by_vector : by_text);
    if (query.has_vector() && (query.vector().cols() != 2 || query.vector().data().size() != 8)) {
      return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "not a row of what was encoded");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return OneHit(request, response);
  };
  server_.on_encode = [&](const v1::EncodeRequest& request, v1::EncodeResponse* response) {
    texts += request.texts_size();
    EXPECT_EQ(request.encoder(), "abc:def");
    EXPECT_EQ(request.role(), v1::TEXT_ROLE_QUERY);
    v1::Matrix& vectors = *response->mutable_vectors();
    vectors.set_rows(request.texts_size());
    vectors.set_cols(2);
    vectors.set_data(std::string(8 * static_cast<size_t>(request.texts_size()), '\0'));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return grpc::Status::OK;
  };
  std::string precision = "auto";
  server_.on_get_store = [&](const v1::GetStoreRequest& request, v1::GetStoreResponse* response) {
    EXPECT_EQ(request.store(), "s");
    response->mutable_store()->set_encoder_fingerprint("abc:def");
    response->mutable_store()->set_encoder_precision(precision);
    return grpc::Status::OK;
  };
  const std::string queries = Write("q.jsonl", "{\"_id\": \"q1\", \"text\": \"a\"}\n{\"_id\": \"q2\", \"text\": \"b\"}\n");
  std::vector<std::string> command = {"bench", "s", "--queries", queries, "--saturation", "--concurrency", "4", "--duration", "100ms"};
  ASSERT_EQ(Run(command), 0) << err();
  EXPECT_THAT(out(), HasSubstr("vectors) alone would allow, a second of the clock"));
  EXPECT_GT(by_text, 0);
  EXPECT_GT(by_vector, 0);
  EXPECT_GT(texts, 2);
  command.insert(command.end(), {"-o", "json"});
  ASSERT_EQ(Run(command), 0) << err();
  const nlohmann::json report = nlohmann::json::parse(out());
  EXPECT_EQ(report["stages"].size(), 3);
  const nlohmann::json& parts = report["parts"];
  EXPECT_FALSE(parts["by_server_cpu_time"].get<bool>());
  EXPECT_NEAR(parts["saturated_share"].get<double>(),
              report["stages"][1]["requests_per_second"].get<double>() *
                  (1 / parts["encoded_texts_per_second"].get<double>() + 1 / parts["searched_vectors_per_second"].get<double>()),
              1e-9);

  precision = "int8";
  ASSERT_EQ(Run(command), 0) << err();
  EXPECT_THAT(err(), HasSubstr("the store is set to int8"));
  EXPECT_FALSE(nlohmann::json::parse(out()).contains("parts"));
  server_.on_encode = [](const v1::EncodeRequest&, v1::EncodeResponse* response) {
    response->mutable_vectors()->set_rows(1);
    return grpc::Status::OK;
  };
  precision = "auto";
  ASSERT_EQ(Run(command), 0) << err();
  EXPECT_THAT(err(), HasSubstr("the server sent 1 vectors of 2 texts"));
}

TEST_F(CliTest, BenchTellsWhatWasDueAndNotSent) {
  std::atomic<int> calls{0};
  server_.on_search = [&](const v1::SearchRequest& request, v1::SearchResponse* response) {
    ++calls;
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    return OneHit(request, response);
  };
  const std::string queries = Write("q.jsonl", "{\"_id\": \"q1\", \"text\": \"a\"}\n");
  ASSERT_EQ(Run({"bench", "s", "--queries", queries, "--concurrency", "1", "--rate", "50", "--duration", "200ms", "-o", "json"}), 0) << err();
  const nlohmann::json report = nlohmann::json::parse(out());
  EXPECT_EQ(report["requests"], 1);
  EXPECT_EQ(report["unsent"], 9);
  EXPECT_EQ(calls, 2);
}

}  // namespace
}  // namespace loci
