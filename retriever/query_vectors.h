// The vectors of many queries, for what looks through a whole file of them: gates, comparisons, tuning.
#ifndef LOCI_RETRIEVER_QUERY_VECTORS_H_
#define LOCI_RETRIEVER_QUERY_VECTORS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "encoder/text_encoder.h"

namespace loci {

// [queries, dim], encoded as queries, a few at once so that requests find room between them. Blocks. Errors as TextEncoder's, and those of
// `limits`.
absl::StatusOr<std::vector<float>> EncodeQueries(TextEncoder& encoder, const std::vector<std::string>& queries, const RequestLimits& limits);

}  // namespace loci

#endif  // LOCI_RETRIEVER_QUERY_VECTORS_H_
