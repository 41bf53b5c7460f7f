// One passage out of one JSON object: a line of a JSONL file or of a BEIR corpus.
#ifndef LOCI_CLIENTS_CLI_PASSAGE_JSON_H_
#define LOCI_CLIENTS_CLI_PASSAGE_JSON_H_

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "proto/loci/v1/common.pb.h"

namespace loci {

// A JSON text of strict grammar: valid UTF-8, no NaN or infinity, no number beyond the range of its type, no key twice in an object,
// nothing behind the value, at most 32 levels. INVALID_ARGUMENT says what is wrong and at which byte. Time and memory are linear in
// the text, also for hostile ones.
absl::StatusOr<nlohmann::json> ParseStrictJson(std::string_view text);

struct PassageRecord {
  v1::Passage passage;
  std::vector<float> vector;  // Empty where the line brings none.
};

// {"id" or "_id": string or integer, "title", "text": string, "metadata": {name: string, integer, double, bool or list of strings},
// "document_id": string or integer, "chunk_index": integer, "vector": [numbers]}. An id and a title or a text that is not blank are
// needed; null is the same as absent. INVALID_ARGUMENT names the field.
// Fields of other names are not used; their names are added to `unused_fields`, at most 20 of them. It may be null.
absl::StatusOr<PassageRecord> ParsePassageJson(std::string_view line, std::set<std::string>* unused_fields);

// The finite float32 numbers of a JSON array, at least one.
absl::StatusOr<std::vector<float>> VectorOfJson(const nlohmann::json& value);

// The text of a JSON string, or the digits of an integer: what may be an id. INVALID_ARGUMENT otherwise.
absl::StatusOr<std::string> IdOfJson(const nlohmann::json& value);

// An id is 1 to 512 bytes with no NUL.
absl::Status CheckId(std::string_view id);
// A passage needs something to encode.
absl::Status CheckHasContent(const v1::Passage& passage);

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_PASSAGE_JSON_H_
