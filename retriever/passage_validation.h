// What a client may store.
#ifndef LOCI_RETRIEVER_PASSAGE_VALIDATION_H_
#define LOCI_RETRIEVER_PASSAGE_VALIDATION_H_

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "proto/loci/v1/common.pb.h"

namespace loci {

inline constexpr int64_t kMaxPassageIdBytes = 512;
inline constexpr int64_t kMaxPassageTitleBytes = 64 << 10;
inline constexpr int64_t kMaxPassageTextBytes = 1 << 20;
inline constexpr int64_t kMaxMetadataEntries = 256;
inline constexpr int64_t kMaxMetadataKeyBytes = 256;
inline constexpr int64_t kMaxMetadataBytes = 64 << 10;  // All values of a passage together.

// 1 to 512 bytes of UTF-8 without NUL. INVALID_ARGUMENT names the limit.
absl::Status ValidatePassageId(std::string_view id);

// A valid id, title, text and document_id within the limits above and of UTF-8, title and text not both empty, chunk_index >= 0, metadata
// with values, its numbers finite. INVALID_ARGUMENT, reason INVALID_PASSAGE, names the field and the limit.
absl::Status ValidatePassage(const loci::v1::Passage& passage);
// The same of one that a store gave; earlier versions took metadata without a value.
absl::Status ValidateStoredPassage(const loci::v1::Passage& passage);

inline constexpr int64_t kMaxDocumentTextBytes = 64 << 20;
inline constexpr int64_t kMaxDocumentKeyBytes = kMaxPassageIdBytes - 11;  // "#" and a chunk_index come behind it.

inline constexpr int64_t kMaxSectionMetadataBytes = 4 << 10;  // Keys and values: they are repeated on each passage.

// The same of a document that is to be cut into passages, or of a section of one: of id and document_id one may be empty; its text may be
// longer, its name (document_id, else id) not, and two entries of metadata are left for "start_byte" and "end_byte",
// the others together within kMaxSectionMetadataBytes.
absl::Status ValidateDocumentSection(const loci::v1::Passage& section);

}  // namespace loci

#endif  // LOCI_RETRIEVER_PASSAGE_VALIDATION_H_
