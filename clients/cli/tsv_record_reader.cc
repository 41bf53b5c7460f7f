#include "clients/cli/tsv_record_reader.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace loci {
namespace {

constexpr size_t kMaxRecordLines = 1000;
constexpr size_t kMaxFields = 1000;  // More are kept as one, so that a line of tabs alone does not take many times its size.

// Splits `record`. Returns false where a quoted field does not end in it.
bool SplitRecord(const std::string& record, std::vector<std::string>* fields) {
  fields->clear();
  size_t i = 0;
  while (true) {
    std::string& field = fields->emplace_back();
    if (i < record.size() && record[i] == '"') {
      ++i;
      while (true) {
        const size_t quote = record.find('"', i);
        if (quote == std::string::npos) return false;
        field.append(record, i, quote - i);
        i = quote + 1;
        if (i >= record.size() || record[i] != '"') break;
        field += '"';
        ++i;
      }
    }
    const size_t tab = fields->size() > kMaxFields ? record.size() : std::min(record.find('\t', i), record.size());
    field.append(record, i, tab - i);  // What follows a closing quote is kept, as csv does.
    if (tab == record.size()) return true;
    i = tab + 1;
  }
}

}  // namespace

absl::StatusOr<bool> TsvRecordReader::NextLine(Line* line) {
  if (!pending_.empty()) {
    *line = std::move(pending_.front());
    pending_.pop_front();
    return true;
  }
  LOCI_ASSIGN_OR_RETURN(const LineReader::Result result, lines_->Next(&line->text));
  line->too_long = result == LineReader::kTooLong;
  return result != LineReader::kEnd;
}

absl::StatusOr<TsvRecordReader::Result> TsvRecordReader::Next(std::vector<std::string>* fields, std::string* error) {
  Line line;
  do {
    LOCI_ASSIGN_OR_RETURN(const bool more, NextLine(&line));
    if (!more) return kEnd;
    line_number_ = ++last_line_number_;
  } while (line.text.empty() && !line.too_long);

  if (line.too_long) {
    *error = absl::StrCat("the line is longer than ", lines_->max_line_bytes(), " bytes");
    return kBad;
  }
  std::string record = std::move(line.text);
  if (SplitRecord(record, fields)) return kRecord;

  // A quoted field goes on in the next line. `following` can be given back should it never end.
  std::deque<Line> following;
  while (following.size() < kMaxRecordLines && record.size() <= lines_->max_line_bytes()) {
    Line next;
    LOCI_ASSIGN_OR_RETURN(const bool more, NextLine(&next));
    if (!more) break;
    following.push_back(std::move(next));
    if (following.back().too_long) break;
    const std::string& text = following.back().text;
    record += '\n';
    record += text;
    // Only a line with a quote in it can end the field.
    if (text.find('"') != std::string::npos && SplitRecord(record, fields)) {
      last_line_number_ += static_cast<int64_t>(following.size());
      return kRecord;
    }
  }
  pending_.insert(pending_.begin(), std::make_move_iterator(following.begin()), std::make_move_iterator(following.end()));
  *error = "a quoted field that begins here does not end (a field that begins with a double quote must end with one)";
  return kBad;
}

}  // namespace loci
