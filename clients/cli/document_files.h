// Which files are documents, and how a folder of them is listed.
#ifndef LOCI_CLIENTS_CLI_DOCUMENT_FILES_H_
#define LOCI_CLIENTS_CLI_DOCUMENT_FILES_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace loci {

enum class DocumentFormat { kText, kMarkdown, kHtml, kPdf };

// "report.md" of "report.md.gz": without .gz or .zst, of any case.
std::string WithoutCompressionSuffix(std::string name);

// The format that a file's name tells, also with .gz or .zst behind it: .txt .text, .md .markdown, .html .htm .xhtml, .pdf, of any case.
std::optional<DocumentFormat> DocumentFormatOfFileName(const std::string& name);

// "*.md or *.markdown", for messages.
std::string DocumentSuffixes(std::optional<DocumentFormat> format);

// Plain data.
struct DocumentFile {
  std::string path;
  std::string id;  // The path within the folder, with "/" between names; see PrintablePath().
  DocumentFormat format;
};

// Plain data.
struct DocumentListing {
  std::vector<DocumentFile> documents;   // In the order of ids, byte by byte.
  std::vector<std::string> passed_over;  // Paths of what is no such document: other suffixes, links to folders, what is no file; with why.
};

// Whether `path`, a symbolic link, leads to something under `folder`, wherever that itself lies.
bool LinksInto(const std::string& path, const std::string& folder);
inline constexpr char kLinksOut[] = " (a link out of the folder)";

// All documents under a folder and the folders in it, of this format or of each. Names that begin with a period are passed over without
// a word; links to folders are not followed, so that there is no circle, and links to
// files only where they stay under the folder. FAILED_PRECONDITION names a folder that can't be read.
absl::StatusOr<DocumentListing> ListDocuments(const std::string& folder, std::optional<DocumentFormat> format);

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_DOCUMENT_FILES_H_
