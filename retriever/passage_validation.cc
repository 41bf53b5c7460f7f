#include <cmath>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/strings.h"
#include "base/utf8.h"
#include "retriever/passage_validation.h"

namespace loci {
namespace {

absl::Status Refuse(std::string_view field, std::string_view problem) {
  return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat(AbslView(field), " ", AbslView(problem))), "INVALID_PASSAGE",
                         {{"field", std::string(field)}});
}

absl::Status CheckString(std::string_view field, std::string_view value, int64_t max_bytes) {
  if (static_cast<int64_t>(value.size()) > max_bytes) {
    return Refuse(field, absl::StrCat("has ", value.size(), " bytes, the limit is ", max_bytes));
  }
  const size_t invalid = FindInvalidUtf8(value);
  if (invalid != std::string_view::npos) return Refuse(field, absl::StrCat("is not UTF-8 at byte ", invalid));
  return absl::OkStatus();
}

absl::Status CheckMetadata(const loci::v1::Passage& passage, int64_t max_entries, bool may_be_unset) {
  if (passage.metadata_size() > max_entries) {
    return Refuse("metadata", absl::StrCat("has ", passage.metadata_size(), " entries, the limit is ", max_entries));
  }
  int64_t total_bytes = 0;
  for (const auto& [key, value] : passage.metadata()) {
    if (absl::Status status = CheckString("metadata key", key, kMaxMetadataKeyBytes); !status.ok()) return status;
    if (key.empty()) return Refuse("metadata key", "is empty");
    if (value.kind_case() == loci::v1::MetadataValue::KIND_NOT_SET && !may_be_unset) {
      return Refuse(absl::StrCat("metadata[\"", key, "\"]"), "has no value; set one of its kinds");
    }
    total_bytes += static_cast<int64_t>(value.ByteSizeLong());
    if (value.kind_case() == loci::v1::MetadataValue::kDoubleValue && !std::isfinite(value.double_value())) {
      return Refuse("metadata", absl::StrCat("value of \"", key, "\" is not a finite number"));
    }
    if (value.kind_case() == loci::v1::MetadataValue::kStringValue) {
      if (absl::Status status = CheckString("metadata value", value.string_value(), kMaxMetadataBytes); !status.ok()) return status;
    }
    if (value.kind_case() == loci::v1::MetadataValue::kStringListValue) {
      for (const std::string& item : value.string_list_value().values()) {
        if (absl::Status status = CheckString("metadata value", item, kMaxMetadataBytes); !status.ok()) return status;
      }
    }
  }
  if (total_bytes > kMaxMetadataBytes) {
    return Refuse("metadata", absl::StrCat("has ", total_bytes, " bytes, the limit is ", kMaxMetadataBytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidatePassageId(std::string_view id) {
  if (id.empty()) return Refuse("id", "is empty");
  if (id.find('\0') != std::string_view::npos) return Refuse("id", "contains a NUL byte");
  return CheckString("id", id, kMaxPassageIdBytes);
}

namespace {

// All but the id.
absl::Status CheckContent(const loci::v1::Passage& passage, int64_t max_text_bytes, int64_t max_metadata_entries, bool may_be_unset) {
  if (absl::Status status = CheckString("title", passage.title(), kMaxPassageTitleBytes); !status.ok()) return status;
  if (absl::Status status = CheckString("text", passage.text(), max_text_bytes); !status.ok()) return status;
  if (absl::Status status = CheckString("document_id", passage.document_id(), kMaxPassageIdBytes); !status.ok()) return status;
  if (passage.title().empty() && passage.text().empty()) return Refuse("text", "and title are both empty");
  if (passage.chunk_index() < 0) return Refuse("chunk_index", absl::StrCat("is ", passage.chunk_index(), "; it must be 0 or more"));
  return CheckMetadata(passage, max_metadata_entries, may_be_unset);
}

}  // namespace

absl::Status ValidatePassage(const loci::v1::Passage& passage) {
  if (absl::Status status = ValidatePassageId(passage.id()); !status.ok()) return status;
  return CheckContent(passage, kMaxPassageTextBytes, kMaxMetadataEntries, /*may_be_unset=*/false);
}

absl::Status ValidateStoredPassage(const loci::v1::Passage& passage) {
  if (absl::Status status = ValidatePassageId(passage.id()); !status.ok()) return status;
  return CheckContent(passage, kMaxPassageTextBytes, kMaxMetadataEntries, /*may_be_unset=*/true);
}

absl::Status ValidateDocumentSection(const loci::v1::Passage& section) {
  const bool has_document_id = !section.document_id().empty();
  const std::string& key = has_document_id ? section.document_id() : section.id();
  if (absl::Status status = ValidatePassageId(key); !status.ok()) return status;
  if (static_cast<int64_t>(key.size()) > kMaxDocumentKeyBytes) {
    return Refuse(has_document_id ? "document_id" : "id",
                  absl::StrCat("has ", key.size(), " bytes, the limit of a document's is ", kMaxDocumentKeyBytes));
  }
  if (absl::Status status = CheckString("id", section.id(), kMaxPassageIdBytes); !status.ok()) return status;
  if (absl::Status status = CheckContent(section, kMaxDocumentTextBytes, kMaxMetadataEntries - 2, /*may_be_unset=*/false); !status.ok()) return status;
  int64_t metadata_bytes = 0;
  for (const auto& [name, value] : section.metadata()) metadata_bytes += static_cast<int64_t>(name.size() + value.ByteSizeLong());
  if (metadata_bytes > kMaxSectionMetadataBytes) {
    return Refuse("metadata", absl::StrCat("has ", metadata_bytes, " bytes, the limit of a document's is ", kMaxSectionMetadataBytes,
                                           ": they are repeated on each of its passages"));
  }
  return absl::OkStatus();
}

}  // namespace loci
