#include "encoder/fingerprint.h"

#include "absl/strings/str_cat.h"
#include "base/checksum.h"
#include "base/strings.h"

namespace loci {
namespace {

// How a passage becomes a text; hashed, since another template makes other vectors.
constexpr std::string_view kPassageTemplate = "title + \" \" + text; text alone without title";

void AddField(Sha256* hash, std::string_view name, std::string_view value) {
  hash->Update(absl::StrCat(AbslView(name), " ", value.size(), "\n"));
  hash->Update(value);
  hash->Update("\n");
}

void AddCommon(Sha256* hash, const VectorSpace& space) {
  AddField(hash, "weights", space.weights_sha256);
  AddField(hash, "architecture", space.architecture);
  AddField(hash, "tokenizer", space.tokenizer_digest);
  AddField(hash, "pooling", PoolingName(space.pooling));
  AddField(hash, "normalize", space.normalize ? "true" : "false");
  AddField(hash, "max_length", absl::StrCat(space.max_length));
  AddField(hash, "dim", absl::StrCat(space.dim));
}

}  // namespace

std::string_view PoolingName(Pooling pooling) {
  switch (pooling) {
    case Pooling::kMean:
      return "mean";
    case Pooling::kCls:
      return "cls";
    case Pooling::kMax:
      return "max";
  }
  return "unknown";
}

Fingerprint ComputeFingerprint(const VectorSpace& space, std::string_view served_passage_half) {
  constexpr size_t kDigits = 16;
  Fingerprint fingerprint;
  Sha256 passage;
  AddField(&passage, "half", "passage 1");
  AddCommon(&passage, space);
  AddField(&passage, "prefix", space.passage_prefix);
  AddField(&passage, "template", kPassageTemplate);
  fingerprint.passage = passage.HexDigest().substr(0, kDigits);
  Sha256 query;
  AddField(&query, "half", "query 1");
  AddCommon(&query, space);
  AddField(&query, "prefix", space.query_prefix);
  AddField(&query, "serves", served_passage_half.empty() ? std::string_view(fingerprint.passage) : served_passage_half);
  fingerprint.query = query.HexDigest().substr(0, kDigits);
  return fingerprint;
}

}  // namespace loci
