#include "clients/cli/ingest_reader.h"

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/utf8.h"
#include "clients/cli/display.h"
#include "clients/cli/document_files.h"
#include "clients/cli/document_reader.h"
#include "clients/cli/input_file.h"
#include "clients/cli/tsv_record_reader.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

const std::map<std::string, IngestFormat, std::less<>>& FormatNames() {
  static const auto* const names = new std::map<std::string, IngestFormat, std::less<>>{
      {"auto", IngestFormat::kAuto}, {"jsonl", IngestFormat::kJsonl}, {"tsv", IngestFormat::kTsv},
      {"beir", IngestFormat::kBeir}, {"text", IngestFormat::kText},   {"markdown", IngestFormat::kMarkdown},
      {"html", IngestFormat::kHtml}, {"pdf", IngestFormat::kPdf},     {"documents", IngestFormat::kDocuments},
  };
  return *names;
}

// kJsonl, kTsv or kDocuments.
std::optional<IngestFormat> FormatOfFileName(const std::string& path) {
  const std::string name = absl::AsciiStrToLower(WithoutCompressionSuffix(path));
  for (const std::string_view suffix : {".jsonl", ".ndjson", ".json"}) {
    if (name.ends_with(suffix)) return IngestFormat::kJsonl;
  }
  if (name.ends_with(".tsv")) return IngestFormat::kTsv;
  if (DocumentFormatOfFileName(path).has_value()) return IngestFormat::kDocuments;
  return std::nullopt;
}

// The format of documents that `format` names; none for kDocuments.
std::optional<DocumentFormat> DocumentFormatOf(IngestFormat format) {
  switch (format) {
    case IngestFormat::kText:
      return DocumentFormat::kText;
    case IngestFormat::kMarkdown:
      return DocumentFormat::kMarkdown;
    case IngestFormat::kHtml:
      return DocumentFormat::kHtml;
    case IngestFormat::kPdf:
      return DocumentFormat::kPdf;
    default:
      return std::nullopt;
  }
}

bool IsDocumentFormat(IngestFormat format) { return format == IngestFormat::kDocuments || DocumentFormatOf(format).has_value(); }

int64_t FileBytes(const std::string& path) {
  struct stat info = {};
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) ? info.st_size : 0;
}

// A TSV header: which column holds what.
struct TsvColumns {
  int id = 0, text = 1, title = 2, document_id = -1, chunk_index = -1;
  int count = 0;  // 0: no header, 2 or 3 columns.
};

std::optional<TsvColumns> TsvHeader(const std::vector<std::string>& fields) {
  TsvColumns columns{-1, -1, -1, -1, -1, static_cast<int>(fields.size())};
  for (int i = 0; i < columns.count; ++i) {
    const std::string name = absl::AsciiStrToLower(fields[i]);
    int* const column = name == "id" || name == "_id" ? &columns.id
                        : name == "text"              ? &columns.text
                        : name == "title"             ? &columns.title
                        : name == "document_id"       ? &columns.document_id
                        : name == "chunk_index"       ? &columns.chunk_index
                                                      : nullptr;
    if (column == nullptr || *column != -1) return std::nullopt;
    *column = i;
  }
  if (columns.id < 0 || columns.text < 0) return std::nullopt;
  return columns;
}

class FilesReader final : public IngestReader {
 public:
  FilesReader(std::vector<std::string> paths, std::vector<std::string> passed_over, IngestFormat format, const Options& options)
      : paths_(std::move(paths)),
        passed_over_files_(std::move(passed_over)),
        format_(format),
        max_line_bytes_(options.max_line_bytes),
        interrupt_(options.interrupt) {
    for (const std::string& path : paths_) {
      const int64_t bytes = path == "-" ? 0 : FileBytes(path);
      if (bytes == 0) all_sizes_known_ = false;
      size_bytes_ += bytes;
    }
  }

  // Opens the first file, so that what is wrong with it is told before anything is sent.
  absl::Status Start() { return OpenNext(); }

  absl::StatusOr<Result> Next(PassageRecord* record) override {
    while (true) {
      LOCI_ASSIGN_OR_RETURN(const Result result, current_format_ == IngestFormat::kTsv ? NextTsv(record) : NextJson(record));
      position_bytes_.store(finished_bytes_ + CurrentLines().file().position_bytes(), std::memory_order_relaxed);
      if (result == kPassage) return CheckVector(*record);
      if (result == kBadLine || next_path_ == paths_.size()) return result;
      finished_bytes_ += CurrentLines().file().position_bytes();
      LOCI_RETURN_IF_ERROR(OpenNext());
    }
  }

  const InputPlace& place() const override { return place_; }
  const std::string& error() const override { return error_; }
  int64_t position_bytes() const override { return position_bytes_.load(std::memory_order_relaxed); }
  int64_t size_bytes() const override { return all_sizes_known_ ? size_bytes_ : 0; }
  const std::set<std::string>& unused_fields() const override { return unused_fields_; }
  const std::vector<std::string>& passed_over_files() const override { return passed_over_files_; }

 private:
  const LineReader& CurrentLines() const { return tsv_ != nullptr ? tsv_->lines() : *lines_; }

  absl::Status OpenNext() {
    const std::string& path = paths_[next_path_++];
    LOCI_ASSIGN_OR_RETURN(std::unique_ptr<InputFile> file, InputFile::Open(path, interrupt_));
    place_.file = path == "-" ? "standard input" : PrintablePath(path);
    auto lines = std::make_unique<LineReader>(std::move(file), place_.file, max_line_bytes_);
    current_format_ = format_;
    if (format_ == IngestFormat::kAuto) {
      const std::optional<IngestFormat> by_name = FormatOfFileName(path);
      if (by_name.has_value()) {
        current_format_ = *by_name;
      } else {
        LOCI_ASSIGN_OR_RETURN(current_format_, FormatOfContent(lines.get()));
      }
    }
    tsv_.reset();
    lines_.reset();
    at_first_record_ = true;
    columns_ = TsvColumns();
    if (current_format_ == IngestFormat::kTsv) {
      tsv_ = std::make_unique<TsvRecordReader>(std::move(lines));
    } else {
      lines_ = std::move(lines);
    }
    return absl::OkStatus();
  }

  static absl::StatusOr<IngestFormat> FormatOfContent(LineReader* lines) {
    std::string line;
    LOCI_ASSIGN_OR_RETURN(const LineReader::Result result, lines->Next(&line));
    if (result == LineReader::kEnd) return IngestFormat::kJsonl;  // Of nothing.
    const size_t first = line.find_first_not_of(" \t\r");
    const bool is_json = first != std::string::npos && line[first] == '{';
    if (result == LineReader::kTooLong || (!is_json && line.find('\t') == std::string::npos)) {
      return absl::InvalidArgumentError(
          absl::StrCat(lines->name(), ": its name and first line do not tell the format; name it with --format"));
    }
    lines->PutBack(std::move(line));
    return is_json ? IngestFormat::kJsonl : IngestFormat::kTsv;
  }

  Result Bad(std::string error) {
    error_ = std::move(error);
    return kBadLine;
  }

  absl::StatusOr<Result> NextJson(PassageRecord* record) {
    std::string line;
    do {
      LOCI_ASSIGN_OR_RETURN(const LineReader::Result result, lines_->Next(&line));
      if (result == LineReader::kEnd) return kEnd;
      place_.line = lines_->line_number();
      if (result == LineReader::kTooLong) return Bad(absl::StrCat("the line is longer than ", max_line_bytes_, " bytes"));
    } while (line.find_first_not_of(" \t\r") == std::string::npos);
    absl::StatusOr<PassageRecord> parsed = ParsePassageJson(line, &unused_fields_);
    if (!parsed.ok()) return Bad(std::string(parsed.status().message()));
    *record = *std::move(parsed);
    return kPassage;
  }

  absl::StatusOr<Result> NextTsv(PassageRecord* record) {
    std::vector<std::string> fields;
    while (true) {
      LOCI_ASSIGN_OR_RETURN(const TsvRecordReader::Result result, tsv_->Next(&fields, &error_));
      if (result == TsvRecordReader::kEnd) return kEnd;
      place_.line = tsv_->line_number();
      const bool first = std::exchange(at_first_record_, false);
      if (result == TsvRecordReader::kBad) return kBadLine;
      if (!first) break;
      const std::optional<TsvColumns> header = TsvHeader(fields);
      if (!header.has_value()) break;
      columns_ = *header;
    }
    absl::StatusOr<v1::Passage> passage = PassageOfFields(fields);
    if (!passage.ok()) return Bad(std::string(passage.status().message()));
    record->passage = *std::move(passage);
    record->vector.clear();
    return kPassage;
  }

  absl::StatusOr<v1::Passage> PassageOfFields(const std::vector<std::string>& fields) const {
    const int count = static_cast<int>(fields.size());
    if (columns_.count > 0 ? count != columns_.count : count != 2 && count != 3) {
      return absl::InvalidArgumentError(
          absl::StrCat(count, count == 1 ? " column" : " columns", " where ",
                       columns_.count > 0 ? absl::StrCat("the header has ", columns_.count) : "id<TAB>text<TAB>title is needed"));
    }
    for (const std::string& field : fields) {
      if (const size_t offset = FindInvalidUtf8(field); offset != std::string_view::npos) {
        return absl::InvalidArgumentError(
            absl::StrCat("column ", &field - fields.data() + 1, " is not valid UTF-8 at byte ", offset + 1));
      }
    }
    v1::Passage passage;
    LOCI_RETURN_IF_ERROR(CheckId(fields[columns_.id]));
    passage.set_id(fields[columns_.id]);
    passage.set_text(fields[columns_.text]);
    if (columns_.title >= 0 && columns_.title < count) passage.set_title(fields[columns_.title]);
    if (columns_.document_id >= 0) passage.set_document_id(fields[columns_.document_id]);
    if (columns_.chunk_index >= 0 && !fields[columns_.chunk_index].empty()) {
      int32_t chunk_index = 0;
      if (!absl::SimpleAtoi(fields[columns_.chunk_index], &chunk_index) || chunk_index < 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("chunk_index \"", fields[columns_.chunk_index].substr(0, 64), "\" is not a whole number from 0"));
      }
      passage.set_chunk_index(chunk_index);
    }
    LOCI_RETURN_IF_ERROR(CheckHasContent(passage));
    return passage;
  }

  Result CheckVector(const PassageRecord& record) {
    const size_t dim = record.vector.size();
    if (!dim_.has_value()) dim_ = dim;
    if (dim == *dim_) return kPassage;
    if (*dim_ == 0) return Bad("field \"vector\" is there, but the passages before have none; all or none must bring one");
    if (dim == 0) return Bad("field \"vector\" is missing, but the passages before have one; all or none must bring one");
    return Bad(absl::StrCat("field \"vector\" has ", dim, " numbers, those before have ", *dim_));
  }

  const std::vector<std::string> paths_;
  const std::vector<std::string> passed_over_files_;
  const IngestFormat format_;
  const size_t max_line_bytes_;
  const InputInterrupt* const interrupt_;  // May be null.
  int64_t size_bytes_ = 0;
  bool all_sizes_known_ = true;

  size_t next_path_ = 0;
  IngestFormat current_format_ = IngestFormat::kAuto;
  std::unique_ptr<LineReader> lines_;  // One of the two is there.
  std::unique_ptr<TsvRecordReader> tsv_;
  TsvColumns columns_;
  bool at_first_record_ = true;
  std::optional<size_t> dim_;
  int64_t finished_bytes_ = 0;
  std::atomic<int64_t> position_bytes_{0};
  InputPlace place_;
  std::string error_;
  std::set<std::string> unused_fields_;
};

// The files that a folder stands for.
absl::Status ListFolder(const std::string& folder, IngestFormat format, std::vector<std::string>* paths,
                        std::vector<std::string>* passed_over, IngestFormat* found_format) {
  std::error_code error;
  for (const char* name : {"corpus.jsonl", "corpus.jsonl.gz", "corpus.jsonl.zst"}) {
    const std::string path = fs::path(folder) / name;
    if (format != IngestFormat::kTsv && fs::exists(path, error)) {
      paths->push_back(path);
      *found_format = IngestFormat::kBeir;
      return absl::OkStatus();
    }
  }
  if (format == IngestFormat::kBeir)
    return absl::NotFoundError(absl::StrCat(folder, ": no corpus.jsonl (or .gz or .zst of it) is in it"));
  std::vector<std::string> names;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->path().filename().string().starts_with(".")) continue;
    names.push_back(entry->path().string());
  }
  if (error) return absl::FailedPreconditionError(absl::StrCat(folder, ": ", error.message()));
  std::sort(names.begin(), names.end());
  for (std::string& name : names) {
    const std::optional<IngestFormat> of_name = FormatOfFileName(name);
    // A folder of documents may well hold a .json file that is none of passages.
    const bool wanted = of_name == IngestFormat::kTsv ||
                        (of_name == IngestFormat::kJsonl && (format == IngestFormat::kJsonl || !name.ends_with(".json")));
    if (fs::is_regular_file(name, error) && wanted && (format == IngestFormat::kAuto || format == of_name)) {
      if (fs::is_symlink(name, error) && !LinksInto(name, folder)) {
        passed_over->push_back(absl::StrCat(name, kLinksOut));
        continue;
      }
      paths->push_back(std::move(name));
    } else {
      passed_over->push_back(std::move(name));
    }
  }
  if (paths->empty() && format == IngestFormat::kAuto) {
    *found_format = IngestFormat::kDocuments;
  } else if (paths->empty()) {
    return absl::NotFoundError(absl::StrCat(folder, ": no *.jsonl, *.ndjson or *.tsv file (or .gz or .zst of one) is in it"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<IngestFormat> IngestFormatOfName(std::string_view name) {
  const auto entry = FormatNames().find(name);
  if (entry == FormatNames().end()) return absl::InvalidArgumentError(absl::StrCat("unknown format \"", AbslView(name), "\""));
  return entry->second;
}

absl::StatusOr<std::unique_ptr<IngestReader>> IngestReader::Open(const std::string& path, IngestFormat format,
                                                                 const Options& options) {
  std::vector<std::string> paths, passed_over;
  std::error_code error;
  const bool is_folder = path != "-" && fs::is_directory(path, error);
  if (is_folder && !IsDocumentFormat(format)) {
    LOCI_RETURN_IF_ERROR(ListFolder(path, format, &paths, &passed_over, &format));
  } else if (!is_folder) {
    if (format == IngestFormat::kAuto && FormatOfFileName(path) == IngestFormat::kDocuments) format = IngestFormat::kDocuments;
    if (format == IngestFormat::kDocuments && !DocumentFormatOfFileName(path).has_value()) {
      return absl::InvalidArgumentError(absl::StrCat(
          path == "-" ? "standard input" : path, ": its name does not tell the format; name it with --format text|markdown|html|pdf"));
    }
    paths.push_back(path);
  }
  if (IsDocumentFormat(format)) {
    LOCI_ASSIGN_OR_RETURN(std::unique_ptr<DocumentReader> reader, DocumentReader::Open(path, DocumentFormatOf(format), options.documents, options.interrupt));
    return std::unique_ptr<IngestReader>(std::move(reader));
  }
  auto reader = std::make_unique<FilesReader>(std::move(paths), std::move(passed_over), format, options);
  LOCI_RETURN_IF_ERROR(reader->Start());
  return reader;
}

}  // namespace loci
