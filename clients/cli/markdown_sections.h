// Plain text and Markdown as documents with sections.
#ifndef LOCI_CLIENTS_CLI_MARKDOWN_SECTIONS_H_
#define LOCI_CLIENTS_CLI_MARKDOWN_SECTIONS_H_

#include "absl/status/status.h"
#include "clients/cli/document.h"

namespace loci {

// Find the sections of document->text, which is all that is set; time and memory are linear in it.

// One section without the white space at its ends, or none.
void FindTextSections(Document* document);

// A section is what lies between two headings (ATX or underlined, not within code fences), as it is written, without the headings'
// own lines; a heading with nothing below it, not even another heading under it, is a section by itself. Front matter (YAML between
// "---", TOML between "+++") is left out, and where it names a "title", that is the document's; else it is the first heading, where
// that one is of level 1. INVALID_ARGUMENT for too many headings.
absl::Status FindMarkdownSections(Document* document);

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_MARKDOWN_SECTIONS_H_
