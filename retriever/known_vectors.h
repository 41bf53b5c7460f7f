// Vectors of texts that were encoded before, by the text: of a store's view.
//
//   LOCI_ASSIGN_OR_RETURN(auto known, KnownVectors::Scan(view, limits));
//   if (const auto row = known->Find(HashContent(PassageText(title, text)))) ...
#ifndef LOCI_RETRIEVER_KNOWN_VECTORS_H_
#define LOCI_RETRIEVER_KNOWN_VECTORS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "index/content_hash.h"
#include "index/view.h"

namespace loci {

// Holds the view, and 24 bytes a passage of it. Immutable after construction.
class KnownVectors {
 public:
  // Reads the texts of all passages of the view, replaced and deleted ones too. What can't be read is left out, with a warning.
  // CANCELLED or DEADLINE_EXCEEDED by `limits`. Blocks.
  static absl::StatusOr<std::unique_ptr<KnownVectors>> Scan(std::shared_ptr<const View> view, const RequestLimits& limits);

  int64_t count() const { return static_cast<int64_t>(places_.size()); }
  // A row of the view whose passage has this text; nullopt where there is none.
  std::optional<ViewRow> Find(const ContentHash& hash) const;

 private:
  struct Place {
    ContentHash hash;
    int64_t row;  // Of the body; -1 - row of the overlay.
    friend bool operator<(const Place& a, const Place& b) { return a.hash < b.hash; }
  };

  explicit KnownVectors(std::shared_ptr<const View> view) : view_(std::move(view)) {}

  const std::shared_ptr<const View> view_;
  std::vector<Place> places_;  // By hash.
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_KNOWN_VECTORS_H_
