#include "index/faiss_factory.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "base/strings.h"

namespace loci {
namespace {

constexpr int64_t kMaxLists = 65536;
constexpr int64_t kMaxLinks = 256;

// Reads the parts of a factory string from left to right.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : rest_(text) {}
  bool Skip(std::string_view word) {
    if (rest_.substr(0, word.size()) != word) return false;
    rest_.remove_prefix(word.size());
    return true;
  }
  // Digits, the first not 0. Of 19 and more it is a number beyond every limit.
  std::optional<int64_t> Number() {
    constexpr size_t kMaxDigits = 18;  // Of a number that is sure to fit.
    size_t digits = 0;
    int64_t value = 0;
    for (; digits < rest_.size() && rest_[digits] >= '0' && rest_[digits] <= '9'; ++digits) {
      if (digits < kMaxDigits) value = value * 10 + (rest_[digits] - '0');
    }
    if (digits == 0 || rest_[0] == '0') return std::nullopt;
    if (digits > kMaxDigits) value = std::numeric_limits<int64_t>::max();
    written_ = rest_.substr(0, digits);
    rest_.remove_prefix(digits);
    return value;
  }
  // The last number as it was written, its begin where it is long.
  std::string written() const {
    constexpr size_t kShownDigits = 32;
    return absl::StrCat(AbslView(written_.substr(0, kShownDigits)), written_.size() > kShownDigits ? "..." : "");
  }
  bool done() const { return rest_.empty(); }

 private:
  std::string_view rest_, written_;
};

absl::Status Invalid(const std::string& factory, std::string_view why) {
  return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("index \"", factory.substr(0, 64), "\": ", AbslView(why))),
                         "INVALID_ARGUMENT", {{"field", "index.factory"}});
}

absl::Status ParseLinks(const std::string& factory, Cursor& cursor, FaissFactory* parsed) {
  const std::optional<int64_t> links = cursor.Number();
  if (!links.has_value()) return Invalid(factory, "the number of links must follow HNSW");
  if (*links < 2 || *links > kMaxLinks) {
    return Invalid(factory, absl::StrCat("HNSW takes 2 to ", kMaxLinks, " links, not ", cursor.written()));
  }
  parsed->links = *links;
  return absl::OkStatus();
}

absl::Status ParseCodec(const std::string& factory, Cursor& cursor, int dim, FaissFactory* parsed) {
  if (cursor.Skip("Flat")) return absl::OkStatus();
  for (const auto& [scalar, bits] : {std::pair("SQ4", 4), std::pair("SQ6", 6), std::pair("SQ8", 8), std::pair("SQfp16", 16)}) {
    if (!cursor.Skip(scalar)) continue;
    parsed->codec = FaissFactory::Codec::kScalar;
    parsed->bits = bits;
    return absl::OkStatus();
  }
  if (!cursor.Skip("PQ")) return Invalid(factory, "the vectors can be coded as Flat, SQ4, SQ6, SQ8, SQfp16 or PQ<parts>");
  parsed->codec = FaissFactory::Codec::kProduct;
  const std::optional<int64_t> parts = cursor.Number();
  if (!parts.has_value()) return Invalid(factory, "the number of parts must follow PQ");
  if (*parts > dim || dim % *parts != 0) {
    return Invalid(factory, absl::StrCat("dimension ", dim, " can't be divided into ", *parts, " parts"));
  }
  parsed->parts = *parts;
  if (!cursor.Skip("x")) return absl::OkStatus();
  const std::optional<int64_t> bits = cursor.Number();
  if (!bits.has_value() || *bits < 4 || *bits > 8) return Invalid(factory, "a part of a PQ takes 4 to 8 bits");
  parsed->bits = static_cast<int>(*bits);
  return absl::OkStatus();
}

}  // namespace

int64_t FaissFactory::CodeBytes(int dim) const {
  switch (codec) {
    case Codec::kFlat:
      return dim * static_cast<int64_t>(sizeof(float));
    case Codec::kScalar:
      return (int64_t{dim} * bits + 7) / 8;
    case Codec::kProduct:
      return (parts * bits + 7) / 8;
  }
  return 0;
}

int64_t FaissFactory::TrainingRowCount(int dim, int64_t row_count) const {
  constexpr int64_t kMaxTrainingBytes = 256 << 20;  // Where there are not more lists than that.
  if (list_count == 0 && codec == Codec::kFlat) return 0;
  const int64_t row_bytes = dim * static_cast<int64_t>(sizeof(float));
  const int64_t wanted = std::max<int64_t>(64 * list_count, codec == Codec::kProduct ? 65536 : 16384);
  return std::min({wanted, std::max(kMaxTrainingBytes / row_bytes, std::max<int64_t>(list_count, 256)), row_count});
}

int64_t FaissFactory::LinkBytes() const {
  if (!hnsw) return 0;
  // Twice as many on the lowest level, which all rows are on; one row in `links` is on the next one too.
  const int64_t in_mean = 2 * links + links / (links - 1) + 1;
  return in_mean * static_cast<int64_t>(sizeof(int32_t)) +
         static_cast<int64_t>(sizeof(int32_t) + sizeof(size_t));  // And a level and an offset.
}

absl::StatusOr<FaissFactory> ParseFaissFactory(const std::string& factory, int dim, int64_t row_count) {
  FaissFactory parsed;
  Cursor cursor(factory);
  if (cursor.Skip("IVF")) {
    const std::optional<int64_t> lists = cursor.Number();
    if (!lists.has_value()) return Invalid(factory, "the number of lists must follow IVF");
    if (*lists > kMaxLists) return Invalid(factory, absl::StrCat("IVF takes 1 to ", kMaxLists, " lists, not ", cursor.written()));
    if (*lists > row_count) {
      return Invalid(factory, absl::StrCat(*lists, " lists can't be made of ", row_count, " passages; the limit is one list a passage"));
    }
    parsed.list_count = *lists;
    if (cursor.Skip("_HNSW")) {
      parsed.hnsw_coarse = true;
      LOCI_RETURN_IF_ERROR(ParseLinks(factory, cursor, &parsed));
    }
    if (!cursor.Skip(",")) return Invalid(factory, "a comma and how the vectors are coded must follow the lists");
    LOCI_RETURN_IF_ERROR(ParseCodec(factory, cursor, dim, &parsed));
  } else if (cursor.Skip("HNSW")) {
    parsed.hnsw = true;
    LOCI_RETURN_IF_ERROR(ParseLinks(factory, cursor, &parsed));
    if (cursor.Skip(",")) {
      LOCI_RETURN_IF_ERROR(ParseCodec(factory, cursor, dim, &parsed));
      if (parsed.codec == FaissFactory::Codec::kProduct) {
        return Invalid(factory, "FAISS 1.7.3 has no inner product for HNSW over PQ");
      }
    }
  } else {
    const bool is_code = absl::StartsWith(factory, "Flat") || absl::StartsWith(factory, "SQ") || absl::StartsWith(factory, "PQ");
    if (!is_code)
      return Invalid(factory,
                     "it begins as none does that is served: exact, exact:int8, auto, HNSW<links>, IVF<lists>, or a code alone");
    LOCI_RETURN_IF_ERROR(ParseCodec(factory, cursor, dim, &parsed));
  }
  if (!cursor.done()) {
    return Invalid(factory, "it does not end where Flat, IVF<lists>,<code>, HNSW<links>, PQ<parts> or SQ8 would; fast-scan, refine and "
                            "pre-transformed indexes are not served");
  }
  const int64_t training_rows =
      parsed.codec == FaissFactory::Codec::kProduct ? int64_t{1} << parsed.bits : parsed.codec == FaissFactory::Codec::kScalar ? 1 : 0;
  if (row_count < training_rows) {
    return Invalid(factory, absl::StrCat("it is trained with at least ", training_rows, " passages, there are ", row_count));
  }
  return parsed;
}

}  // namespace loci
