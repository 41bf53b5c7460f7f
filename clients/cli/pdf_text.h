// The text of PDF files, by poppler's pdftotext in a process of its own.
#ifndef LOCI_CLIENTS_CLI_PDF_TEXT_H_
#define LOCI_CLIENTS_CLI_PDF_TEXT_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "clients/cli/document.h"
#include "clients/cli/input_interrupt.h"

namespace loci {

// Of the process, so that no file takes more than this, whatever is in it.
struct PdfLimits {
  static constexpr int64_t kMaxPages = 100'000;
  uint64_t max_address_space_bytes = uint64_t{1} << 30;
  uint64_t max_cpu_seconds = 60;
  std::chrono::milliseconds max_time = DocumentLimits::kMaxPdfTime;
  const InputInterrupt* interrupt = nullptr;  // Ends it at once, with its own error.
  size_t max_text_bytes = DocumentLimits::kMaxTextBytes;
  size_t max_unpacked_bytes = 64 << 20;  // Of a PDF that is compressed by gzip or zstd, or comes from a pipe. Others are read in place.
};

// FAILED_PRECONDITION, naming the package, where there is no pdftotext on the PATH.
absl::Status CheckPdfToText();

// Reads a PDF, "-" for standard input; one section a page that has text. Sets document->text and sections; both stay empty where the pages
// have none (they may be pictures). INVALID_ARGUMENT for what is damaged, encrypted or beyond a limit, with pdftotext's own words or the
// limit; other codes where the file can't be read. May be called by any thread.
absl::Status ReadPdf(const std::string& path, Document* document, const PdfLimits& limits = {});

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_PDF_TEXT_H_
