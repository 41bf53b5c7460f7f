// A document as it was read: its text, and where its sections lie in it.
#ifndef LOCI_CLIENTS_CLI_DOCUMENT_H_
#define LOCI_CLIENTS_CLI_DOCUMENT_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace loci {

// Limits of one document. What goes beyond is an INVALID_ARGUMENT that names the limit.
struct DocumentLimits {
  static constexpr size_t kMaxTextBytes = 64 << 20;  // Unpacked, and again of the text taken out of it.
  static constexpr std::chrono::milliseconds kMaxPdfTime{30'000};
  static constexpr size_t kMaxHeadings = 100'000;
  static constexpr size_t kMaxHeadingBytes = 256;  // What is longer is cut.
  size_t max_text_bytes = kMaxTextBytes;
  std::chrono::milliseconds max_pdf_time = kMaxPdfTime;  // That pdftotext has for one.
};

// A tree: sections tell of headings by index. Plain data.
struct DocumentHeading {
  int level = 1;         // 1 to 6.
  int64_t parent = -1;   // The heading that it stands under; -1: none.
  std::string text;      // Not empty.
};

// [start_byte, end_byte) of Document::text. Plain data.
struct DocumentSection {
  size_t start_byte = 0;
  size_t end_byte = 0;
  int64_t heading = -1;  // That it stands under; -1: none.
  int64_t line = 1;      // Of the file, where its lines are those of the text; of a PDF, the page.
  int64_t page = 0;      // From 1; 0 where there are none.
};

// Plain data.
struct Document {
  std::string text;   // Valid UTF-8 with no NUL.
  std::string title;  // Empty where the document has none of its own.
  // Added to offsets in `text` gives those in the file (a byte order mark was dropped).
  size_t offset_bytes = 0;
  std::vector<DocumentHeading> headings;
  std::vector<DocumentSection> sections;  // In order; they do not overlap, and those of white space are left out.
};

// The headings that are open while a document is read from its start. Used by one thread.
class HeadingStack {
 public:
  // Closes headings of this level or a deeper one and opens this; with an empty text, only closes. The text is one line, and cut.
  // False where the document has too many.
  bool Open(int level, std::string text, Document* document);
  int64_t current() const { return open_.empty() ? -1 : open_.back(); }

 private:
  std::vector<int64_t> open_;
};

// "Title > Heading > Subheading" for a section of `document`, whose title, or else `fallback_title`, comes first; not twice where the
// outermost heading is the title.
std::string SectionTitle(const Document& document, const DocumentSection& section, const std::string& fallback_title);

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_DOCUMENT_H_
