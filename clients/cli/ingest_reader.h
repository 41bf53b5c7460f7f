// Passages out of files: JSONL, TSV and BEIR corpora, and documents, whose sections come as passages; each plain or compressed by gzip or
// zstd.
//
//   LOCI_ASSIGN_OR_RETURN(auto reader, IngestReader::Open("corpus.jsonl.gz", IngestFormat::kAuto));
//   PassageRecord record;
//   while (true) {
//     LOCI_ASSIGN_OR_RETURN(IngestReader::Result result, reader->Next(&record));
//     if (result == IngestReader::kEnd) break;
//     ...
//   }
#ifndef LOCI_CLIENTS_CLI_INGEST_READER_H_
#define LOCI_CLIENTS_CLI_INGEST_READER_H_

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/cli/document.h"
#include "clients/cli/input_interrupt.h"
#include "clients/cli/passage_json.h"

namespace loci {

// kDocuments: text, Markdown, HTML and PDF, each by its name.
enum class IngestFormat { kAuto, kJsonl, kTsv, kBeir, kText, kMarkdown, kHtml, kPdf, kDocuments };

// "auto", "jsonl", "tsv", "beir", "text", "markdown", "html", "pdf", "documents". INVALID_ARGUMENT otherwise.
absl::StatusOr<IngestFormat> IngestFormatOfName(std::string_view name);

// Where a record or a problem was found.
struct InputPlace {
  std::string file;
  int64_t line = 0;  // From 1; a record of several lines has that of its first.
};

// Reads one file after another with memory for one line, or one document. Used by one thread: the reader; position_bytes() may be asked by any.
class IngestReader {
 public:
  static constexpr size_t kMaxLineBytes = 16 << 20;

  // `path` is a file, "-" for standard input, or a folder: with kBeir, or where kAuto finds a corpus.jsonl[.gz|.zst] in it, that corpus;
  // otherwise its *.jsonl, *.ndjson and *.tsv files (also .gz, .zst) in the order of their names; with kAuto and none of them in it, or
  // with a format of documents, all documents in it and below (see DocumentReader). Others are listed in passed_over_files().
  // kAuto goes by the file's name, and where that says nothing by its first line: "{" is JSONL, a tab TSV.
  // TSV is `id<TAB>text<TAB>title` or `id<TAB>text`; a first line with the names of such columns may give another order.
  // Symbolic links to files are followed where they stay under the folder.
  // Errors name the path: NOT_FOUND, INVALID_ARGUMENT, UNIMPLEMENTED.
  struct Options {
    size_t max_line_bytes = kMaxLineBytes;  // Of JSONL, TSV and BEIR.
    DocumentLimits documents;
    const InputInterrupt* interrupt = nullptr;  // Ends the input, with its own error; outlives the reader. May be null.
  };
  static absl::StatusOr<std::unique_ptr<IngestReader>> Open(const std::string& path, IngestFormat format, const Options& options);
  static absl::StatusOr<std::unique_ptr<IngestReader>> Open(const std::string& path, IngestFormat format) { return Open(path, format, Options()); }
  virtual ~IngestReader() = default;

  enum Result { kPassage, kBadLine, kPassedOver, kEnd };
  // kBadLine: error() says what is wrong with it, and reading can go on; a document that can't be taken is one bad line. kPassedOver: a
  // document with nothing in it, which is no error; error() says why. A status that is not OK: the input itself failed (cannot be
  // read, damaged gzip or zstd), and what came so far must not be taken for the whole.
  // The first record decides whether all bring vectors, and of which dimension; one that differs is a bad line.
  virtual absl::StatusOr<Result> Next(PassageRecord* record) = 0;

  virtual const InputPlace& place() const = 0;   // Of the last record or bad line.
  virtual const std::string& error() const = 0;  // Of the last bad line.
  // Whether what comes are sections of documents, which are to be cut into passages.
  virtual bool reads_documents() const { return false; }

  // Bytes of the files that were read, and of all of them; the latter is 0 where it is not known.
  virtual int64_t position_bytes() const = 0;
  virtual int64_t size_bytes() const = 0;

  virtual const std::set<std::string>& unused_fields() const = 0;  // Of JSON objects: see ParsePassageJson().
  virtual const std::vector<std::string>& passed_over_files() const = 0;
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_INGEST_READER_H_
