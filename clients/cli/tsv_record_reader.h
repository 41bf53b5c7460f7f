// Records of a tab-separated file as Python's csv module writes them with QUOTE_MINIMAL (DPR's psgs_w100.tsv).
#ifndef LOCI_CLIENTS_CLI_TSV_RECORD_READER_H_
#define LOCI_CLIENTS_CLI_TSV_RECORD_READER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/cli/input_file.h"

namespace loci {

// Fields are separated by one tab. A field that begins with a double quote ends with the next one that is not doubled; until then
// tabs and line ends belong to it, and two double quotes are one. Elsewhere a double quote is a character like any other.
// A quoted field may span 1,000 lines: where it does not end before, its first line is reported and reading goes on behind that line,
// so that one stray quote does not swallow the file.
// Used by one thread: the reader.
class TsvRecordReader {
 public:
  explicit TsvRecordReader(std::unique_ptr<LineReader> lines) : lines_(std::move(lines)) {}

  enum Result { kRecord, kBad, kEnd };
  // kBad: *error says what is wrong with the record that begins in line_number(). Blank lines are passed over.
  absl::StatusOr<Result> Next(std::vector<std::string>* fields, std::string* error);

  int64_t line_number() const { return line_number_; }  // Of the record's first line, from 1.
  const LineReader& lines() const { return *lines_; }

 private:
  struct Line {
    std::string text;
    bool too_long;
  };
  absl::StatusOr<bool> NextLine(Line* line);

  const std::unique_ptr<LineReader> lines_;
  std::deque<Line> pending_;  // Lines that were read ahead of an unclosed quote.
  int64_t last_line_number_ = 0;
  int64_t line_number_ = 0;
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_TSV_RECORD_READER_H_
