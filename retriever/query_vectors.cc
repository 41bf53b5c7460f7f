#include "retriever/query_vectors.h"

#include <algorithm>
#include <cstddef>

#include "base/status_macros.h"

namespace loci {
namespace {

constexpr size_t kAtOnce = 64;

}  // namespace

absl::StatusOr<std::vector<float>> EncodeQueries(TextEncoder& encoder, const std::vector<std::string>& queries, const RequestLimits& limits) {
  std::vector<float> vectors;
  for (size_t begin = 0; begin < queries.size(); begin += kAtOnce) {
    const std::vector<std::string> part(queries.begin() + static_cast<std::ptrdiff_t>(begin),
                                        queries.begin() + static_cast<std::ptrdiff_t>(std::min(queries.size(), begin + kAtOnce)));
    LOCI_ASSIGN_OR_RETURN(const EncodedTexts encoded, encoder.EncodeAndWait(part, {.role = TextRole::kQuery, .limits = limits}));
    vectors.insert(vectors.end(), encoded.vectors.begin(), encoded.vectors.end());
  }
  return vectors;
}

}  // namespace loci
