#include "retriever/recall_queries.h"

#include <utility>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace loci {

std::string RecallQueryText(const loci::v1::Passage& passage) {
  for (const std::string& source : {passage.text(), passage.title()}) {
    const std::vector<std::string> words = absl::StrSplit(source, absl::ByAnyChar(" \t\r\n"), absl::SkipEmpty());
    if (words.size() < 3) continue;
    const auto first = words.begin() + static_cast<std::ptrdiff_t>(words.size() / 3);
    const auto last = words.begin() + static_cast<std::ptrdiff_t>(words.size() - words.size() / 3);
    return absl::StrJoin(first, last, " ");
  }
  return "";
}

absl::StatusOr<std::vector<float>> EncodeRecallQueries(TextEncoder& encoder, const std::vector<loci::v1::Passage>& sample,
                                                       const RequestLimits& limits) {
  std::vector<std::string> texts;
  for (const loci::v1::Passage& passage : sample) {
    std::string text = RecallQueryText(passage);
    if (!text.empty()) texts.push_back(std::move(text));
  }
  LOCI_ASSIGN_OR_RETURN(EncodedTexts encoded, encoder.EncodeAndWait(texts, {.role = TextRole::kQuery, .limits = limits}));
  return std::move(encoded.vectors);
}

}  // namespace loci
