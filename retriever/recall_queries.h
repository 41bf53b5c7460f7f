// Queries to measure an approximate index with, made of passages but not equal to any.
#ifndef LOCI_RETRIEVER_RECALL_QUERIES_H_
#define LOCI_RETRIEVER_RECALL_QUERIES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "encoder/text_encoder.h"
#include "proto/loci/v1/common.pb.h"

namespace loci {

// What EncodeRecallQueries does, in words for the manifest.
inline constexpr char kRecallQuerySource[] = "the middle third of the words of sampled passages, encoded as queries";

// The text of a recall query for a passage: the middle third of its text's words (of its title's where the text has fewer than three).
// Empty where there is nothing to take.
std::string RecallQueryText(const loci::v1::Passage& passage);

// [n, dim], n <= sample.size(): one vector a passage that gives a text. Blocks.
absl::StatusOr<std::vector<float>> EncodeRecallQueries(TextEncoder& encoder, const std::vector<loci::v1::Passage>& sample,
                                                       const RequestLimits& limits);

}  // namespace loci

#endif  // LOCI_RETRIEVER_RECALL_QUERIES_H_
