// Cuts documents into passages that an encoder takes whole: at sentence ends, counted in its own tokens.
//
//   DocumentChunker chunker(encoder.tokenizer(), {.max_tokens = 256, .overlap_tokens = 32, .prefix = encoder.spec().passage_prefix});
//   int32_t chunk_index = 0;                                                    // Goes on over the sections of a document.
//   LOCI_RETURN_IF_ERROR(chunker.Cut(section, &chunk_index, [&](loci::v1::Passage passage) { ...; return absl::OkStatus(); }));
#ifndef LOCI_RETRIEVER_DOCUMENT_CHUNKER_H_
#define LOCI_RETRIEVER_DOCUMENT_CHUNKER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "encoder/tokenizer.h"
#include "proto/loci/v1/common.pb.h"

namespace loci {

// The passages of a document are named "<key>#<chunk_index>", where its key is its document_id or, without one, its id.
const std::string& DocumentKey(const loci::v1::Passage& section);
std::string ChunkId(std::string_view document_key, int32_t chunk_index);

// Immutable after construction.
class DocumentChunker {
 public:
  static constexpr int kMinTokens = 16;
  static constexpr size_t kMaxPassageBytes = 32 << 10;  // Of a passage's text: text may be long and have few tokens.

  struct Options {
    int max_tokens = 256;    // Of a passage: prefix, title and special tokens counted. At least kMinTokens.
    int overlap_tokens = 0;  // Of whole sentences that are repeated from the passage before. At most max_tokens / 2.
    std::string prefix;      // That the encoder puts before each text.
  };
  using Emit = std::function<absl::Status(loci::v1::Passage passage)>;

  // `tokenizer` is borrowed.
  DocumentChunker(const Tokenizer& tokenizer, Options options);

  // Gives the section's passages to `emit` in order and moves `chunk_index` on; ends with the first error of `emit`. Each byte of the
  // text that is not white space is in some passage, and no passage lies in two sections. A sentence that is too long is cut between
  // words, a word between characters (where that can be, not before a combining mark). A title that would leave less than half of the
  // tokens for text is cut. Where the section's text is empty its title alone makes a passage. White space and no title: none.
  // Each has the section's title and metadata, and "start_byte" and "end_byte": where its text lies in the section's text, moved by the
  // section's own "start_byte" where that is an integer. Time is linear in the text, memory beside it bounded. `section` is valid UTF-8.
  absl::Status Cut(const loci::v1::Passage& section, int32_t* chunk_index, const Emit& emit) const;

 private:
  class Assembler;
  struct Unit;

  int64_t CountTokens(std::string_view text) const;
  // The longest prefix found of at most `max_tokens` and kMaxPassageBytes that ends between characters; at least one character.
  size_t CharacterPrefix(std::string_view text, int64_t max_tokens, int64_t* tokens) const;
  std::string FitTitle(const std::string& title) const;
  // Gives [start, end) of `text`, a sentence, to `assembler` in units of at most `max_tokens`.
  absl::Status AddSentence(std::string_view text, size_t start, size_t end, int64_t max_tokens, Assembler* assembler) const;
  absl::Status AddWord(std::string_view text, size_t start, size_t end, int64_t max_tokens, Assembler* assembler) const;

  const Tokenizer& tokenizer_;
  const Options options_;
  const int64_t prefix_tokens_;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_DOCUMENT_CHUNKER_H_
