#include "clients/cli/eval_input.h"

#include <memory>
#include <unordered_set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "clients/cli/input_file.h"
#include "clients/cli/passage_json.h"

namespace loci {
namespace {

constexpr size_t kMaxLineBytes = 4 << 20;

absl::Status LineError(const LineReader& lines, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat(lines.name(), ":", lines.line_number(), ": ", problem));
}

absl::StatusOr<std::unique_ptr<LineReader>> OpenLines(const std::string& path) {
  LOCI_ASSIGN_OR_RETURN(std::unique_ptr<InputFile> file, InputFile::Open(path));
  return std::make_unique<LineReader>(std::move(file), path == "-" ? "standard input" : path, kMaxLineBytes);
}

// The next line that is not blank; false at the end.
absl::StatusOr<bool> NextLine(LineReader* lines, std::string* line) {
  do {
    LOCI_ASSIGN_OR_RETURN(const LineReader::Result result, lines->Next(line));
    if (result == LineReader::kEnd) return false;
    if (result == LineReader::kTooLong)
      return LineError(*lines, absl::StrCat("the line is longer than ", kMaxLineBytes, " bytes"));
  } while (line->find_first_not_of(" \t\r") == std::string::npos);
  return true;
}

absl::StatusOr<EvalQuery> ParseQuery(const std::string& line) {
  LOCI_ASSIGN_OR_RETURN(const nlohmann::json object, ParseStrictJson(line));
  if (!object.is_object()) return absl::InvalidArgumentError("not an object: {\"_id\": ..., \"text\": ...} is needed");
  auto id = object.find("_id");
  if (id == object.end()) id = object.find("id");
  if (id == object.end()) return absl::InvalidArgumentError("field \"_id\" (or \"id\") is missing");
  EvalQuery query;
  absl::StatusOr<std::string> id_text = IdOfJson(*id);
  if (!id_text.ok()) return absl::InvalidArgumentError(absl::StrCat("field \"_id\" ", id_text.status().message()));
  query.id = *std::move(id_text);
  const auto text = object.find("text");
  if (text == object.end() || !text->is_string()) return absl::InvalidArgumentError("field \"text\" is missing or not a string");
  query.text = text->get<std::string>();
  if (query.text.empty()) return absl::InvalidArgumentError("field \"text\" is empty");
  return query;
}

}  // namespace

absl::StatusOr<std::vector<EvalQuery>> ReadQueries(const std::string& path) {
  LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<LineReader> lines, OpenLines(path));
  std::vector<EvalQuery> queries;
  std::unordered_set<std::string> ids;
  std::string line;
  while (true) {
    LOCI_ASSIGN_OR_RETURN(const bool more, NextLine(lines.get(), &line));
    if (!more) break;
    absl::StatusOr<EvalQuery> query = ParseQuery(line);
    if (!query.ok()) return LineError(*lines, query.status().message());
    if (!ids.insert(query->id).second) return LineError(*lines, absl::StrCat("query id \"", query->id, "\" came before"));
    queries.push_back(*std::move(query));
  }
  if (queries.empty()) return absl::InvalidArgumentError(absl::StrCat(lines->name(), ": no query is in it"));
  return queries;
}

absl::StatusOr<Judgements> ReadJudgements(const std::string& path) {
  LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<LineReader> lines, OpenLines(path));
  Judgements judgements;
  std::string line;
  bool first = true;
  while (true) {
    LOCI_ASSIGN_OR_RETURN(const bool more, NextLine(lines.get(), &line));
    if (!more) break;
    if (!IsValidUtf8(line)) return LineError(*lines, "not valid UTF-8");
    std::vector<std::string> fields;
    if (line.find('\t') != std::string::npos) {
      fields = absl::StrSplit(line, '\t');
    } else {
      fields = absl::StrSplit(line, absl::ByAnyChar(" \r"), absl::SkipEmpty());
    }
    if (fields.size() != 3 && fields.size() != 4) {
      return LineError(*lines, absl::StrCat(fields.size(), " columns where query, document, grade (or TREC's four) are needed"));
    }
    int grade = 0;
    const bool is_number = absl::SimpleAtoi(fields.back(), &grade);
    if (std::exchange(first, false) && !is_number) continue;  // A header.
    if (!is_number) return LineError(*lines, absl::StrCat("grade \"", fields.back().substr(0, 32), "\" is not a whole number"));
    const std::string& document = fields[fields.size() - 2];
    const auto [entry, inserted] = judgements[fields[0]].emplace(document, grade);
    if (!inserted && entry->second != grade) {
      return LineError(*lines, absl::StrCat("document \"", document, "\" was given grade ", entry->second, " for query \"",
                                            fields[0], "\" before"));
    }
  }
  if (judgements.empty()) return absl::InvalidArgumentError(absl::StrCat(lines->name(), ": no judgement is in it"));
  return judgements;
}

}  // namespace loci
