// loci search, loci ask, loci encode.
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/passage_json.h"
#include "clients/cli/search_flags.h"

namespace loci {
namespace {

constexpr int kMaxSnippetWidth = 160;

// "TITLE" or the beginning of the text, as the table's last column.
std::string Snippet(const v1::Passage& passage) { return std::string(passage.text().substr(0, 4 * kMaxSnippetWidth)); }

void PrintFooter(CliContext& cli, const std::string& generation, int64_t revision, const v1::Timings& timings,
                 const std::string& more) {
  cli.out() << "generation " << SanitizeLine(generation) << ", revision " << revision << ", " << more
            << FormatMicros(timings.total_us()) << " (queue " << FormatMicros(timings.queue_us()) << ", encode "
            << FormatMicros(timings.encode_us());
  if (timings.filter_us() > 0) cli.out() << ", filter " << FormatMicros(timings.filter_us());
  cli.out() << ", search " << FormatMicros(timings.search_us()) << ", fetch " << FormatMicros(timings.fetch_us());
  if (timings.read_us() > 0) cli.out() << ", read " << FormatMicros(timings.read_us());
  cli.out() << ")\n";
}

void NoteTruncation(CliContext& cli, const v1::TokenUsage& usage, const char* what) {
  if (!usage.truncated()) return;
  cli.err() << "note: the " << what << " has " << usage.input_tokens() << " tokens, of which " << usage.used_tokens()
            << " were used\n";
}

void AddHitRows(const google::protobuf::RepeatedPtrField<v1::Hit>& hits, bool with_text, TextTable* table) {
  int rank = 0;
  for (const v1::Hit& hit : hits) {
    std::vector<std::string> cells = {absl::StrCat(++rank), FormatFixed(hit.score(), 4), hit.id()};
    if (with_text) {
      cells.push_back(hit.passage().title());
      cells.push_back(Snippet(hit.passage()));
    }
    table->AddRow(cells);
  }
}

std::vector<TextTable::Column> HitColumns(bool with_text) {
  std::vector<TextTable::Column> columns = {
      {"RANK", TextTable::kRight}, {"SCORE", TextTable::kRight}, {"ID", TextTable::kLeft, 60}};
  if (with_text) {
    columns.push_back({"TITLE", TextTable::kLeft, 50});
    columns.push_back({"TEXT", TextTable::kLeft, kMaxSnippetWidth});
  }
  return columns;
}

class SearchCommand final : public Command {
 public:
  std::string name() const override { return "search"; }
  std::string summary() const override { return "Find the passages nearest to a query"; }
  std::string details() const override { return kFilterHelp; }
  std::string examples() const override {
    return "  loci search movies \"a heist in space\"\n"
           "  loci search movies \"a heist in space\" --top-k 100 --exact -o json\n"
           "  loci search movies \"a heist\" --filter 'year >= 1990 and \"crime\" in genres'\n"
           "  loci search movies --vector vector.json --no-text\n"
           "  loci search movies -- \"--a query that begins with dashes\"\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Positional("QUERY", &query_, "What to look for; not with --vector.", /*required=*/false);
    flags->Int("top-k", &top_k_, 1, 10000, "Passages to find, at most 10,000.");
    search_.Declare(flags);
    flags->String("vector", &vector_path_, "FILE", "A JSON list of numbers to look for in place of a text.");
    flags->Bool("no-text", &no_text_, "Do not fetch the passages' texts.");
    flags->Bool("include-vectors", &include_vectors_, "Fetch the vectors, too (seen in JSON).");
  }

  int Run(CliContext& cli, const FlagSet& flags) override {
    const bool by_vector = flags.WasGiven("vector");
    if (by_vector != query_.empty()) return cli.UsageError(by_vector ? "give QUERY or --vector, not both" : "give QUERY or --vector");
    v1::SearchRequest request;
    request.set_store(store_);
    request.set_top_k(static_cast<int32_t>(top_k_));
    search_.Fill(&request);
    request.set_include_text(!no_text_);
    request.set_include_vectors(include_vectors_);
    if (by_vector) {
      absl::StatusOr<std::vector<float>> vector = ReadVector();
      if (!vector.ok()) return cli.Fail(vector.status());
      v1::Matrix* const matrix = request.add_queries()->mutable_vector();
      matrix->set_rows(1);
      matrix->set_cols(static_cast<int64_t>(vector->size()));
      matrix->set_type(v1::VECTOR_TYPE_FLOAT32);
      matrix->set_data(vector->data(), vector->size() * sizeof(float));
    } else {
      request.add_queries()->set_text(query_);
    }
    v1::SearchResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.retrieval(), &v1::RetrievalService::Stub::Search, request, &response, &exit_code)) return exit_code;
    if (cli.json()) return cli.PrintJson(response);
    if (response.results_size() != 1)
      return cli.Fail(absl::InternalError(absl::StrCat("the server sent ", response.results_size(), " results for one query")));
    const v1::QueryResult& result = response.results(0);
    TextTable table(HitColumns(!no_text_));
    AddHitRows(result.hits(), !no_text_, &table);
    cli.PrintTable(table);
    PrintFooter(cli, response.generation(), response.revision(), response.timings(),
                absl::StrCat(response.exact() ? "exact, " : "approximate, ",
                             !search_.filter().empty() ? absl::StrCat(response.match_count(), " passages match the filter, ") : ""));
    NoteTruncation(cli, result.usage(), "query");
    return kExitOk;
  }

 private:
  absl::StatusOr<std::vector<float>> ReadVector() const {
    std::ifstream file(vector_path_);
    if (!file) return absl::NotFoundError(absl::StrCat(vector_path_, ": cannot be read"));
    std::stringstream text;
    text << file.rdbuf();
    absl::StatusOr<nlohmann::json> value = ParseStrictJson(text.str());
    if (!value.ok()) return absl::InvalidArgumentError(absl::StrCat(vector_path_, ": ", value.status().message()));
    absl::StatusOr<std::vector<float>> vector = VectorOfJson(*value);
    if (!vector.ok()) return absl::InvalidArgumentError(absl::StrCat(vector_path_, ": ", vector.status().message()));
    return vector;
  }

  std::string store_, query_, vector_path_;
  int64_t top_k_ = 10;
  SearchFlags search_;
  bool no_text_ = false, include_vectors_ = false;
};

class AskCommand final : public Command {
 public:
  std::string name() const override { return "ask"; }
  std::string summary() const override { return "Answer a question from a store, with the evidence"; }
  std::string details() const override { return kFilterHelp; }
  std::string examples() const override {
    return "  loci ask movies \"Who directed Alien?\"\n"
           "  loci ask movies \"Who directed Alien?\" --top-k 20 --max-answers 3 -o json\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Positional("QUESTION", &question_, "The question.");
    flags->Int("top-k", &top_k_, 0, 100, "Passages to read, at most 100; the server's default is 5.");
    flags->Int("max-answers", &max_answers_, 0, 100, "Answers to give, at most 100; the server's default is 1.");
    flags->String("reader", &reader_, "NAME", "Who reads; the server's default is sentence.");
    flags->String("generation", &generation_, "NAME", "Ask this generation in place of the active one.");
    flags->String("filter", &filter_, "EXPR", "Only passages whose metadata fits; see --help.");
  }

  int Run(CliContext& cli, const FlagSet&) override {
    v1::AnswerRequest request;
    request.set_store(store_);
    request.set_generation(generation_);
    request.set_question(question_);
    request.set_top_k(static_cast<int32_t>(top_k_));
    request.set_max_answers(static_cast<int32_t>(max_answers_));
    request.set_reader(reader_);
    request.set_filter(filter_);
    v1::AnswerResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.retrieval(), &v1::RetrievalService::Stub::Answer, request, &response, &exit_code)) return exit_code;
    if (cli.json()) return cli.PrintJson(response);
    if (response.abstained()) cli.out() << "No answer: the reader is not confident enough. The passages that it read:\n";
    for (const v1::Answer& answer : response.answers()) {
      cli.out() << SanitizeLine(answer.text()) << "\n  confidence " << FormatFixed(answer.score(), 3);
      for (const v1::Evidence& evidence : answer.evidence()) {
        cli.out() << ", passage " << SanitizeLine(evidence.passage_id()) << " bytes " << evidence.start_byte() << "-"
                  << evidence.end_byte();
      }
      cli.out() << '\n';
    }
    cli.out() << '\n';
    TextTable table(HitColumns(true));
    AddHitRows(response.passages(), true, &table);
    cli.PrintTable(table);
    PrintFooter(cli, response.generation(), response.revision(), response.timings(),
                absl::StrCat("reader ", SanitizeLine(response.reader()), ", "));
    return kExitOk;
  }

 private:
  std::string store_, question_, reader_, generation_, filter_;
  int64_t top_k_ = 0, max_answers_ = 0;
};

class EncodeCommand final : public Command {
 public:
  std::string name() const override { return "encode"; }
  std::string summary() const override { return "Turn texts into vectors"; }
  std::string details() const override {
    return "The table shows each vector's first numbers; JSON has all of them, as little-endian bytes in base64.\n";
  }
  std::string examples() const override {
    return "  loci encode \"a heist in space\" \"robbery on the moon\"\n"
           "  loci encode --role query \"who directed alien\" -o json\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->PositionalList("TEXT", &texts_, "Texts to encode.", 1);
    flags->Choice("role", &role_, {"query", "passage"}, "Which of the encoder's prefixes goes before a text.");
    flags->Choice("truncation", &truncation_, {"truncate", "pool-windows", "refuse"}, "What happens to a text that is too long.");
    flags->Choice("vector-type", &vector_type_, {"float32", "float16", "bfloat16", "int8", "float64"}, "Of the reply.");
    flags->String("encoder", &encoder_, "FINGERPRINT", "Default: the server's own.");
  }

  int Run(CliContext& cli, const FlagSet&) override {
    v1::EncodeRequest request;
    request.set_encoder(encoder_);
    for (const std::string& text : texts_) request.add_texts(text);
    request.set_role(role_ == "query" ? v1::TEXT_ROLE_QUERY : v1::TEXT_ROLE_PASSAGE);
    request.set_truncation(truncation_ == "truncate"       ? v1::TRUNCATION_TRUNCATE
                           : truncation_ == "pool-windows" ? v1::TRUNCATION_POOL_WINDOWS
                                                           : v1::TRUNCATION_REFUSE);
    request.set_vector_type(vector_type_ == "float32"    ? v1::VECTOR_TYPE_FLOAT32
                            : vector_type_ == "float16"  ? v1::VECTOR_TYPE_FLOAT16
                            : vector_type_ == "bfloat16" ? v1::VECTOR_TYPE_BFLOAT16
                            : vector_type_ == "int8"     ? v1::VECTOR_TYPE_INT8
                                                         : v1::VECTOR_TYPE_FLOAT64);
    v1::EncodeResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.retrieval(), &v1::RetrievalService::Stub::Encode, request, &response, &exit_code)) return exit_code;
    if (cli.json()) return cli.PrintJson(response);
    TextTable table({{"TEXT", TextTable::kLeft, 50}, {"TOKENS", TextTable::kRight}, {"USED", TextTable::kRight}, {"VECTOR"}});
    for (size_t i = 0; i < texts_.size(); ++i) {
      const int row = static_cast<int>(i);
      const v1::TokenUsage usage = row < response.usage_size() ? response.usage(row) : v1::TokenUsage();
      table.AddRow({texts_[i], absl::StrCat(usage.input_tokens()), absl::StrCat(usage.used_tokens()),
                    VectorPreview(response.vectors(), row)});
    }
    cli.PrintTable(table);
    cli.out() << response.vectors().rows() << " x " << response.vectors().cols() << " " << vector_type_ << ", encoder "
              << SanitizeLine(response.encoder_fingerprint()) << ", " << FormatMicros(response.timings().total_us()) << '\n';
    return kExitOk;
  }

 private:
  // "[0.0123, -0.4567, 0.1000, ...]"; empty for types that are not shown, or a shape that the data does not fit.
  static std::string VectorPreview(const v1::Matrix& vectors, int row) {
    constexpr int64_t kShown = 4;
    const int64_t cols = vectors.cols();
    if (vectors.type() != v1::VECTOR_TYPE_FLOAT32 || cols < 0 || row >= vectors.rows() ||
        vectors.data().size() / sizeof(float) < static_cast<size_t>(row + 1) * static_cast<size_t>(cols)) {
      return "";
    }
    std::string text = "[";
    for (int64_t i = 0; i < std::min(cols, kShown); ++i) {
      float number;
      std::memcpy(&number, vectors.data().data() + (row * cols + i) * static_cast<int64_t>(sizeof(float)), sizeof(float));
      absl::StrAppend(&text, i > 0 ? ", " : "", FormatFixed(number, 4));
    }
    return absl::StrCat(text, cols > kShown ? ", ...]" : "]");
  }

  std::vector<std::string> texts_;
  std::string role_ = "passage", truncation_ = "truncate", vector_type_ = "float32", encoder_;
};

}  // namespace

void AddQueryCommands(Commands* commands) {
  commands->push_back(std::make_unique<SearchCommand>());
  commands->push_back(std::make_unique<AskCommand>());
  commands->push_back(std::make_unique<EncodeCommand>());
}

}  // namespace loci
