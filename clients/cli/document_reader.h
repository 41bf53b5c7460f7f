// Sections of documents as passages: text, Markdown, HTML and PDF.
#ifndef LOCI_CLIENTS_CLI_DOCUMENT_READER_H_
#define LOCI_CLIENTS_CLI_DOCUMENT_READER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/cli/document.h"
#include "clients/cli/document_files.h"
#include "clients/cli/ingest_reader.h"
#include "clients/cli/input_interrupt.h"

namespace loci {

// Reads one document after another, with memory for one. What it gives are sections, in order, that the server cuts into passages: a
// section of more than kMaxSectionBytes comes in several parts, cut at an empty line, else at a sentence's end, a line's, or between words.
// Of each:
//   document_id  the file's path within the folder, or its name ("stdin" of standard input); 1 to kMaxIdBytes bytes
//   id           document_id with "#" and the section's number in the document, from 0
//   title        see SectionTitle(); the file's name without suffix where the document has no title of its own
//   metadata     "source" (the path as given), "start_byte" and "end_byte" (of the file, unpacked, where it is UTF-8 text or Markdown;
//                else of the text taken out of it), "page" (PDF; from 1)
// What is wrong with one document (not text, too large, damaged, unreadable) is one bad line, and none of it comes; one without any text
// is passed over.
// Used by one thread: the reader; position_bytes() may be asked by any.
class DocumentReader final : public IngestReader {
 public:
  static constexpr size_t kMaxSectionBytes = 64 << 10;  // So that the server can tell of progress, and cancel, in between.
  static constexpr size_t kMaxIdBytes = 480;  // Of document_id: "#" and a number must have room in 512.

  // `path` is a file, "-", or a folder: see ListDocuments(). `format` none: by each file's name. NOT_FOUND where there is no document,
  // FAILED_PRECONDITION where there are PDFs and no pdftotext. `interrupt`, which may be null and must outlive the reader, ends the input.
  static absl::StatusOr<std::unique_ptr<DocumentReader>> Open(const std::string& path, std::optional<DocumentFormat> format,
                                                              DocumentLimits limits = {}, const InputInterrupt* interrupt = nullptr);

  absl::StatusOr<Result> Next(PassageRecord* record) override;

  const InputPlace& place() const override { return place_; }
  const std::string& error() const override { return error_; }
  bool reads_documents() const override { return true; }
  int64_t position_bytes() const override { return position_bytes_.load(std::memory_order_relaxed); }
  int64_t size_bytes() const override { return size_bytes_; }
  const std::set<std::string>& unused_fields() const override { return unused_fields_; }
  const std::vector<std::string>& passed_over_files() const override { return passed_over_files_; }

 private:
  DocumentReader(DocumentListing listing, DocumentLimits limits, const InputInterrupt* interrupt);
  // Reads the next document into document_; an error is of that document alone.
  absl::Status OpenNext();
  absl::StatusOr<std::string> ReadBytes(const std::string& path);
  // The end of the part of the current section that begins at `start`.
  size_t PartEnd(size_t start, size_t section_end) const;

  const std::vector<DocumentFile> files_;
  const std::vector<std::string> passed_over_files_;
  const DocumentLimits limits_;
  const InputInterrupt* const interrupt_;  // May be null.
  std::vector<int64_t> sizes_bytes_;  // Of each file; 0 once it was added to finished_bytes_.
  int64_t size_bytes_ = 0;
  int64_t finished_bytes_ = 0;

  size_t next_file_ = 0;
  Document document_;
  std::string fallback_title_;
  size_t section_ = 0;     // The one that is being given out.
  size_t part_start_ = 0;  // Of document_.text; 0: the section's start.
  int64_t next_part_ = 0;  // In the document.
  std::atomic<int64_t> position_bytes_{0};
  InputPlace place_;
  std::string error_;
  const std::set<std::string> unused_fields_;
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_DOCUMENT_READER_H_
