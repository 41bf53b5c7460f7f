#include "clients/cli/pdf_text.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "clients/cli/child_process.h"
#include "clients/cli/display.h"
#include "clients/cli/input_file.h"

namespace loci {
namespace {

constexpr char kProgram[] = "pdftotext";
constexpr char kMissing[] =
    "reading PDF needs the program pdftotext; install the Debian package poppler-utils (apt-get install poppler-utils)";
constexpr size_t kMaxToldErrors = 3;
constexpr std::string_view kSpaces = " \t\r\n\v";

// Closed with it. Used by one thread.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(Descriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  int value() const { return value_; }

 private:
  int value_;
};

// A file that can be read anywhere: the PDF itself, or a copy in memory where it is compressed or comes from a pipe.
absl::StatusOr<Descriptor> OpenSeekable(const std::string& path, const PdfLimits& limits) {
  if (path != "-") {
    struct stat info = {};
    unsigned char start[4] = {};
    // A pipe is opened once, below: whoever writes to it would notice.
    const bool regular = stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
    Descriptor file(regular ? open(path.c_str(), O_RDONLY | O_CLOEXEC) : -1);
    if (file.value() >= 0 && pread(file.value(), start, 4, 0) >= 0) {
      const bool gzip = start[0] == 0x1f && start[1] == 0x8b;
      const bool zstd = start[0] == 0x28 && start[1] == 0xb5 && start[2] == 0x2f && start[3] == 0xfd;
      if (!gzip && !zstd) return file;
    }
  }
  LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<InputFile> input, InputFile::Open(path, limits.interrupt));
  Descriptor copy(memfd_create("pdf", MFD_CLOEXEC));
  if (copy.value() < 0) return absl::ResourceExhaustedError(absl::StrCat("no memory for the PDF: ", std::strerror(errno)));
  std::string buffer(256 * 1024, '\0');
  for (size_t size = 0;;) {
    LOCI_ASSIGN_OR_RETURN(const size_t count, input->Read(buffer.data(), buffer.size()));
    if (count == 0) break;
    size += count;
    if (size > limits.max_unpacked_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("the PDF has more than ", limits.max_unpacked_bytes, " bytes, the limit of a compressed one; unpack it"));
    }
    for (size_t written = 0; written < count;) {
      const ssize_t more = write(copy.value(), buffer.data() + written, count - written);
      if (more < 0 && errno == EINTR) continue;
      if (more <= 0) return absl::ResourceExhaustedError(absl::StrCat("no memory for the PDF: ", std::strerror(errno)));
      written += static_cast<size_t>(more);
    }
  }
  lseek(copy.value(), 0, SEEK_SET);
  return copy;
}

// The first lines of what the program said, each once.
std::string OwnWords(const std::string& errors) {
  std::vector<std::string> lines;
  for (const auto& piece : absl::StrSplit(errors, '\n', absl::SkipWhitespace())) {
    std::string line = SanitizeLine(std::string_view(piece.data(), piece.size()));
    if (line.size() > 200) line = line.substr(0, Utf8Prefix(line, 200)) + "...";
    if (lines.size() < kMaxToldErrors && (lines.empty() || lines.back() != line)) lines.push_back(std::move(line));
  }
  return lines.empty() ? "" : absl::StrCat(": ", absl::StrJoin(lines, "; "));
}

absl::Status StatusOfEnd(const ChildResult& result, const PdfLimits& limits) {
  const std::string words = OwnWords(result.errors);
  switch (result.end) {
    case ChildResult::kTooMuchOutput:
      return absl::InvalidArgumentError(absl::StrCat("the PDF has more than ", limits.max_text_bytes, " bytes of text, the limit"));
    case ChildResult::kTooLong:
      return absl::InvalidArgumentError(absl::StrCat("pdftotext took longer than ", static_cast<double>(limits.max_time.count()) / 1e3,
                                                     " s, the limit (--pdf-timeout)", words));
    case ChildResult::kSignalled:
      if (result.code == SIGXCPU) {
        return absl::InvalidArgumentError(
            absl::StrCat("pdftotext took more than ", limits.max_cpu_seconds, " s of CPU time, the limit", words));
      }
      return absl::InvalidArgumentError(
          absl::StrCat("pdftotext ended by signal ", result.code, " (", strsignal(result.code), "); it may have ",
                       FormatBytes(static_cast<int64_t>(limits.max_address_space_bytes)), " of memory", words));
    case ChildResult::kExited:
      break;
  }
  if (result.code == 0) return absl::OkStatus();
  if (words.find("emory") != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("pdftotext needed more than ",
                                                   FormatBytes(static_cast<int64_t>(limits.max_address_space_bytes)),
                                                   " of memory, the limit", words));
  }
  return absl::InvalidArgumentError(absl::StrCat("pdftotext can't read it", words));
}

// Valid UTF-8 without NULs, with U+FFFD for what was neither.
std::string Repair(std::string text) {
  const std::string_view view = text;
  std::string repaired;
  size_t begin = 0;
  size_t invalid = FindInvalidUtf8(view), nul = view.find('\0');  // At or after `begin`; each is looked for again only once it was passed.
  while (std::min(invalid, nul) != std::string_view::npos) {
    const size_t bad = std::min(invalid, nul);
    repaired.append(view.substr(begin, bad - begin)).append("\xEF\xBF\xBD");
    begin = bad + 1;
    if (nul < begin) nul = view.find('\0', begin);
    if (invalid < begin) {
      invalid = FindInvalidUtf8(view.substr(begin));
      if (invalid != std::string_view::npos) invalid += begin;
    }
  }
  if (begin == 0) return text;
  return repaired.append(view.substr(begin));
}

}  // namespace

absl::Status CheckPdfToText() {
  const char* const path = std::getenv("PATH");
  for (const auto& folder : absl::StrSplit(path != nullptr ? path : "/usr/bin:/bin", ':')) {
    if (access(absl::StrCat(folder, "/", kProgram).c_str(), X_OK) == 0) return absl::OkStatus();
  }
  return absl::FailedPreconditionError(kMissing);
}

absl::Status ReadPdf(const std::string& path, Document* document, const PdfLimits& limits) {
  LOCI_ASSIGN_OR_RETURN(const Descriptor file, OpenSeekable(path, limits));
  ChildLimits child_limits;
  child_limits.max_address_space_bytes = limits.max_address_space_bytes;
  child_limits.max_cpu_seconds = limits.max_cpu_seconds;
  child_limits.max_time = limits.max_time;
  child_limits.max_output_bytes = limits.max_text_bytes;
  // No name of a file on the command line: it might be read as an option.
  absl::StatusOr<ChildResult> result = RunChild({kProgram, "-enc", "UTF-8", "-eol", "unix", "/dev/stdin", "-"}, file.value(), child_limits,
                                                limits.interrupt);
  if (absl::IsNotFound(result.status())) return absl::FailedPreconditionError(kMissing);
  LOCI_RETURN_IF_ERROR(result.status());
  LOCI_RETURN_IF_ERROR(StatusOfEnd(*result, limits));
  document->text = Repair(std::move(result->output));
  const std::string_view text = document->text;
  int64_t page = 0;
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find('\f', start), text.size());
    if (++page > PdfLimits::kMaxPages) {
      return absl::InvalidArgumentError(absl::StrCat("the PDF has more than ", PdfLimits::kMaxPages, " pages, the limit"));
    }
    const size_t first = text.find_first_not_of(kSpaces, start);
    if (first < end) {
      const size_t last = text.find_last_not_of(kSpaces, end - 1) + 1;
      document->sections.push_back({first, last, -1, page, page});
    }
    start = end + 1;
  }
  if (document->sections.empty() && !result->errors.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("pdftotext found no text in it", OwnWords(result->errors)));
  }
  return absl::OkStatus();
}

}  // namespace loci
