// Readers turn a question and the passages found for it into answers with evidence.
#ifndef LOCI_RETRIEVER_READER_H_
#define LOCI_RETRIEVER_READER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "encoder/text_encoder.h"
#include "proto/loci/v1/common.pb.h"

namespace loci {

struct ReadRequest {
  std::string question;
  std::vector<float> question_vector;  // [dim], as the passages were searched with.
  std::vector<loci::v1::Passage> passages;  // Best first.
  std::vector<float> passage_scores;        // One a passage.
  int max_answers = 1;
  RequestLimits limits;
};

struct ReadAnswer {
  std::string text;      // Verbatim: passages[passage].text()[start_byte, end_byte).
  double score = 0;      // Confidence in [0, 1] that it answers the question.
  int passage = 0;
  int32_t start_byte = 0;
  int32_t end_byte = 0;
};

struct ReadResult {
  std::vector<ReadAnswer> answers;  // Best first, at most max_answers; empty where `abstained`.
  bool abstained = false;
};

// Thread-safe.
class Reader {
 public:
  using Done = std::function<void(absl::StatusOr<ReadResult>)>;

  virtual ~Reader() = default;
  virtual std::string name() const = 0;
  // `encoder` is that of the serving set; the caller keeps it alive until `done` ran. `done` is called exactly once, on this thread or
  // another. Call from a pool thread.
  virtual void Read(ReadRequest request, TextEncoder& encoder, Done done) const = 0;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_READER_H_
