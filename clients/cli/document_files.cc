#include "clients/cli/document_files.h"

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "clients/cli/display.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr std::pair<const char*, DocumentFormat> kSuffixes[] = {
    {".txt", DocumentFormat::kText},      {".text", DocumentFormat::kText}, {".md", DocumentFormat::kMarkdown},
    {".markdown", DocumentFormat::kMarkdown}, {".html", DocumentFormat::kHtml}, {".htm", DocumentFormat::kHtml},
    {".xhtml", DocumentFormat::kHtml},    {".pdf", DocumentFormat::kPdf},
};

}  // namespace

std::string WithoutCompressionSuffix(std::string name) {
  const std::string lower = absl::AsciiStrToLower(name);
  for (const std::string_view suffix : {".gz", ".zst"}) {
    if (lower.ends_with(suffix)) {
      name.resize(name.size() - suffix.size());
      break;
    }
  }
  return name;
}

std::optional<DocumentFormat> DocumentFormatOfFileName(const std::string& name) {
  const std::string lower = absl::AsciiStrToLower(WithoutCompressionSuffix(name));
  for (const auto& [suffix, format] : kSuffixes) {
    if (lower.ends_with(suffix)) return format;
  }
  return std::nullopt;
}

std::string DocumentSuffixes(std::optional<DocumentFormat> format) {
  std::vector<std::string> suffixes;
  for (const auto& [suffix, of_suffix] : kSuffixes) {
    if (!format.has_value() || format == of_suffix) suffixes.push_back(absl::StrCat("*", suffix));
  }
  return absl::StrJoin(suffixes, ", ");
}

bool LinksInto(const std::string& path, const std::string& folder) {
  std::error_code error;
  const fs::path root = fs::canonical(folder, error), target = error ? fs::path() : fs::canonical(path, error);
  if (error) return false;
  return std::mismatch(root.begin(), root.end(), target.begin(), target.end()).first == root.end();
}

absl::StatusOr<DocumentListing> ListDocuments(const std::string& folder, std::optional<DocumentFormat> format) {
  DocumentListing listing;
  std::vector<std::pair<std::string, std::string>> folders = {{folder, ""}};  // Path, and what ids in it begin with.
  while (!folders.empty()) {
    const auto [path, prefix] = std::move(folders.back());
    folders.pop_back();
    std::error_code error;
    for (fs::directory_iterator entry(path, error), end; !error && entry != end; entry.increment(error)) {
      const std::string name = entry->path().filename().native();
      if (name.starts_with('.')) continue;
      std::error_code ignored;
      const bool is_link = entry->is_symlink(ignored);
      if (!is_link && entry->is_directory(ignored)) {
        folders.emplace_back(entry->path().native(), absl::StrCat(prefix, name, "/"));
        continue;
      }
      const std::optional<DocumentFormat> of_name = DocumentFormatOfFileName(name);
      if (of_name.has_value() && (!format.has_value() || format == of_name) && entry->is_regular_file(ignored)) {
        if (is_link && !LinksInto(entry->path().native(), folder)) {
          listing.passed_over.push_back(absl::StrCat(entry->path().native(), kLinksOut));
          continue;
        }
        listing.documents.push_back({entry->path().native(), PrintablePath(absl::StrCat(prefix, name)), *of_name});
      } else {
        listing.passed_over.push_back(entry->path().native());
      }
    }
    if (error) return absl::FailedPreconditionError(absl::StrCat(PrintablePath(path), ": ", error.message()));
  }
  std::sort(listing.documents.begin(), listing.documents.end(),
            [](const DocumentFile& a, const DocumentFile& b) { return a.id < b.id; });
  std::sort(listing.passed_over.begin(), listing.passed_over.end());
  return listing;
}

}  // namespace loci
