#include "clients/cli/document_reader.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/utf8.h"
#include "clients/cli/display.h"
#include "clients/cli/html_sections.h"
#include "clients/cli/input_file.h"
#include "clients/cli/markdown_sections.h"
#include "clients/cli/pdf_text.h"
#include "clients/cli/text_encoding.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSpaces = " \t\r\n\f\v";
constexpr std::string_view kSeparators[] = {"\n\n", ".\n", ". ", "\n", " "};  // The best first.
constexpr size_t kReadBytes = 256 * 1024;

// What opening or reading said, without the path before it: the place is told by the caller.
std::string WithoutPath(std::string_view message, const std::string& path) {
  if (message.starts_with(path) && message.substr(path.size()).starts_with(": ")) message.remove_prefix(path.size() + 2);
  return std::string(message);
}

std::string DisplayPath(const std::string& path) { return path == "-" ? "standard input" : PrintablePath(path); }

}  // namespace

absl::StatusOr<std::unique_ptr<DocumentReader>> DocumentReader::Open(const std::string& path, std::optional<DocumentFormat> format,
                                                                     DocumentLimits limits, const InputInterrupt* interrupt) {
  DocumentListing listing;
  std::error_code error;
  if (path != "-" && fs::is_directory(path, error)) {
    LOCI_ASSIGN_OR_RETURN(listing, ListDocuments(path, format));
    if (listing.documents.empty()) {
      return absl::NotFoundError(
          absl::StrCat(path, ": no document is in it: ", DocumentSuffixes(format), " (or .gz or .zst of one)"));
    }
  } else {
    const std::string id = path == "-" ? "stdin" : PrintablePath(fs::path(path).filename().native());
    const DocumentFormat of_name = DocumentFormatOfFileName(path).value_or(DocumentFormat::kText);
    listing.documents.push_back({path, id, format.value_or(of_name)});
    // What is wrong with the file is told before anything is sent.
    // A pipe is opened once, when it is read.
    const fs::file_status status = fs::status(path, error);
    if (path != "-" && (!fs::exists(status) || fs::is_regular_file(status))) LOCI_RETURN_IF_ERROR(InputFile::Open(path).status());
  }
  // A folder that has PDFs among others is not to be read without them.
  if (std::any_of(listing.documents.begin(), listing.documents.end(),
                  [](const DocumentFile& file) { return file.format == DocumentFormat::kPdf; })) {
    LOCI_RETURN_IF_ERROR(CheckPdfToText());
  }
  return std::unique_ptr<DocumentReader>(new DocumentReader(std::move(listing), limits, interrupt));
}

DocumentReader::DocumentReader(DocumentListing listing, DocumentLimits limits, const InputInterrupt* interrupt)
    : files_(std::move(listing.documents)), passed_over_files_(std::move(listing.passed_over)), limits_(limits), interrupt_(interrupt) {
  for (const DocumentFile& file : files_) {
    std::error_code error;
    const auto bytes = file.path == "-" ? 0 : fs::file_size(file.path, error);
    sizes_bytes_.push_back(error ? 0 : static_cast<int64_t>(bytes));
    size_bytes_ += sizes_bytes_.back();
  }
}

absl::StatusOr<std::string> DocumentReader::ReadBytes(const std::string& path) {
  LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<InputFile> file, InputFile::Open(path, interrupt_));
  std::string bytes;
  while (true) {
    const size_t old_size = bytes.size();
    bytes.resize(std::min(old_size + kReadBytes, limits_.max_text_bytes + 1));
    LOCI_ASSIGN_OR_RETURN(const size_t count, file->Read(bytes.data() + old_size, bytes.size() - old_size));
    bytes.resize(old_size + count);
    position_bytes_.store(finished_bytes_ + file->position_bytes(), std::memory_order_relaxed);
    if (count == 0) return bytes;
    if (bytes.size() > limits_.max_text_bytes) {
      return absl::InvalidArgumentError(absl::StrCat("the document has more than ", limits_.max_text_bytes, " bytes, the limit"));
    }
  }
}

absl::Status DocumentReader::OpenNext() {
  const DocumentFile& file = files_[next_file_++];
  place_ = {DisplayPath(file.path), 1};
  document_ = Document();
  section_ = part_start_ = 0;
  next_part_ = 0;
  if (file.id.size() > kMaxIdBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the path within the folder is the document's id; it has ", file.id.size(), " bytes, the limit is ", kMaxIdBytes));
  }
  fallback_title_ = fs::path(WithoutCompressionSuffix(file.id)).stem().native();
  if (file.format == DocumentFormat::kPdf) {
    PdfLimits limits;
    limits.max_time = limits_.max_pdf_time;
    limits.max_cpu_seconds = static_cast<uint64_t>(std::chrono::ceil<std::chrono::seconds>(limits.max_time).count());
    limits.interrupt = interrupt_;
    return ReadPdf(file.path, &document_, limits);
  }
  LOCI_ASSIGN_OR_RETURN(std::string bytes, ReadBytes(file.path));
  if (file.format == DocumentFormat::kHtml) {
    LOCI_ASSIGN_OR_RETURN(const std::string html, DecodeHtml(std::move(bytes)));
    return ParseHtml(html, &document_);
  }
  LOCI_ASSIGN_OR_RETURN(DecodedText decoded, DecodeText(std::move(bytes)));
  document_.text = std::move(decoded.text);
  document_.offset_bytes = decoded.offset_bytes;
  if (file.format == DocumentFormat::kMarkdown) return FindMarkdownSections(&document_);
  FindTextSections(&document_);
  return absl::OkStatus();
}

size_t DocumentReader::PartEnd(size_t start, size_t section_end) const {
  if (section_end - start <= kMaxSectionBytes) return section_end;
  const std::string_view text = std::string_view(document_.text).substr(start, section_end - start);
  const size_t limit = Utf8Prefix(text, kMaxSectionBytes);
  const std::string_view part = text.substr(0, limit);
  for (const std::string_view separator : kSeparators) {
    const size_t at = part.rfind(separator);
    if (at != std::string_view::npos && at > limit / 2) return start + at + separator.size();
  }
  return start + limit;
}

absl::StatusOr<IngestReader::Result> DocumentReader::Next(PassageRecord* record) {
  while (section_ == document_.sections.size()) {
    // All of the file counts as read, also where reading ended before.
    if (next_file_ > 0) finished_bytes_ += std::exchange(sizes_bytes_[next_file_ - 1], 0);
    position_bytes_.store(finished_bytes_, std::memory_order_relaxed);
    if (next_file_ == files_.size()) return kEnd;
    const absl::Status opened = OpenNext();
    if (interrupt_ != nullptr) LOCI_RETURN_IF_ERROR(interrupt_->Check());
    if (!opened.ok()) {
      error_ = absl::StrCat(WithoutPath(StdView(opened.message()), place_.file),
                            "; the document is left out");
      document_ = Document();
      section_ = 0;
      return kBadLine;
    }
    if (document_.sections.empty()) {
      error_ = files_[next_file_ - 1].format == DocumentFormat::kPdf ? "no text is in it; its pages may be pictures" : "no text is in it";
      return kPassedOver;
    }
  }
  const DocumentFile& file = files_[next_file_ - 1];
  const DocumentSection& section = document_.sections[section_];
  const std::string_view text = document_.text;
  // A part has no white space at its ends. Sections have none either, so that a part follows.
  const size_t start = text.find_first_not_of(kSpaces, std::max(part_start_, section.start_byte));
  part_start_ = PartEnd(start, section.end_byte);
  const size_t end = text.find_last_not_of(kSpaces, part_start_ - 1) + 1;
  place_.line = section.line;
  if (file.format == DocumentFormat::kText || file.format == DocumentFormat::kMarkdown) {
    place_.line += std::count(text.begin() + section.start_byte, text.begin() + start, '\n');
  }
  record->vector.clear();
  record->passage.Clear();
  v1::Passage& passage = record->passage;
  passage.set_id(absl::StrCat(file.id, "#", next_part_++));
  passage.set_document_id(file.id);
  passage.set_text(document_.text.substr(start, end - start));
  passage.set_title(SectionTitle(document_, section, fallback_title_));
  auto& metadata = *passage.mutable_metadata();
  metadata["source"].set_string_value(place_.file);
  metadata["start_byte"].set_int64_value(static_cast<int64_t>(document_.offset_bytes + start));
  metadata["end_byte"].set_int64_value(static_cast<int64_t>(document_.offset_bytes + end));
  if (section.page > 0) metadata["page"].set_int64_value(section.page);
  if (part_start_ == section.end_byte) ++section_;
  return kPassage;
}

}  // namespace loci
