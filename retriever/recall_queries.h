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
inline constexpr char kRecallQuerySource[] = "three to five words in a row of sampled passages, encoded as queries";

// The text of a recall query for a passage: three to five words in a row from somewhere in its text, the same for the same text; six to ten
// characters of a text without spaces. Of its title where the text is too short to leave something out, empty where that is, too.
//
// So few words because people ask in few. A query is as hard for an approximate index as it is far from every passage, and what is a third of a
// passage lies beside the rest of it: an index that was chosen by such queries to find .95 found .907 for the questions of NQ-open.
std::string RecallQueryText(const loci::v1::Passage& passage);

// [n, dim], n <= sample.size(): one vector a passage that gives a text. Blocks.
absl::StatusOr<std::vector<float>> EncodeRecallQueries(TextEncoder& encoder, const std::vector<loci::v1::Passage>& sample,
                                                       const RequestLimits& limits);

}  // namespace loci

#endif  // LOCI_RETRIEVER_RECALL_QUERIES_H_
