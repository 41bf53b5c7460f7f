#include "retriever/recall_queries.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/checksum.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/utf8.h"

namespace loci {

namespace {

constexpr uint64_t kMinWords = 3, kWordCounts = 3;
constexpr uint64_t kMinCharacters = 6, kCharacterCounts = 5;
constexpr size_t kMaxBytes = 80;  // Words of a script that seldom has spaces are sentences.

// The part of `text` that `number` chooses, without the rest of it; "" where it is too short.
std::string PartOf(std::string_view text, uint64_t number) {
  const std::vector<absl::string_view> words = absl::StrSplit(AbslView(text), absl::ByAnyChar(" \t\r\n"), absl::SkipEmpty());
  if (words.size() > 1) {
    const uint64_t count = std::min<uint64_t>(kMinWords + number % kWordCounts, words.size() - 1);
    const auto first = words.begin() + static_cast<std::ptrdiff_t>(number / kWordCounts % (words.size() - count + 1));
    std::string part = absl::StrJoin(first, first + static_cast<std::ptrdiff_t>(count), " ");
    part.resize(Utf8Prefix(part, kMaxBytes));
    return part;
  }
  std::vector<size_t> starts;  // Of characters.
  for (size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) starts.push_back(i);
  }
  const uint64_t count = kMinCharacters + number % kCharacterCounts;
  if (starts.size() <= count) return "";
  starts.push_back(text.size());
  const size_t first = number / kCharacterCounts % (starts.size() - count);
  return std::string(text.substr(starts[first], starts[first + count] - starts[first]));
}

}  // namespace

std::string RecallQueryText(const loci::v1::Passage& passage) {
  const uint64_t number = Xxh3(passage.text());
  std::string part = PartOf(passage.text(), number);
  return part.empty() ? PartOf(passage.title(), number) : part;
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
