// Groups passages into messages of bounded size, and remembers where each came from.
#ifndef LOCI_CLIENTS_CLI_PASSAGE_BATCHER_H_
#define LOCI_CLIENTS_CLI_PASSAGE_BATCHER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "clients/cli/ingest_reader.h"
#include "proto/loci/v1/admin.pb.h"

namespace loci {

// Used by one thread: the reader.
class PassageBatcher {
 public:
  static constexpr int kMaxPassages = 256;
  static constexpr size_t kMaxBytes = 4 << 20;

  explicit PassageBatcher(size_t max_bytes = kMaxBytes) : max_bytes_(max_bytes) {}

  // Takes the record; returns whether the batch is full and must be taken. A batch exceeds `max_bytes` by at most one passage.
  bool Add(PassageRecord&& record);
  bool empty() const { return batch_.passages_size() == 0; }
  // The batch, with FLOAT32 vectors where the passages brought some; the next one begins.
  v1::PassageBatch Take();

 private:
  const size_t max_bytes_;
  v1::PassageBatch batch_;
  size_t batch_bytes_ = 0;
};

// Which place the n-th passage of a stream came from. Memory grows with the number of gaps (bad lines, new files), not of passages;
// after a million gaps later places are unknown.
// Used by one thread: the reader.
class StreamPlaces {
 public:
  // The next passage of the stream, from position 1 on.
  void Add(const InputPlace& place);
  // "corpus.jsonl:17", or "passage 17 of the input" where the place is not known. `position` is from 1.
  std::string Describe(int64_t position) const;
  // Where it came from; none where that is not known.
  std::optional<InputPlace> Find(int64_t position) const;

 private:
  struct Run {
    int64_t first_position;
    size_t file;
    int64_t first_line;
  };
  int64_t count_ = 0;
  std::vector<std::string> files_;
  std::vector<Run> runs_;
  bool full_ = false;
  int64_t known_count_ = 0;
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_PASSAGE_BATCHER_H_
