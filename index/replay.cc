#include "index/replay.h"

#include <cstring>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status_macros.h"

namespace loci {

absl::StatusOr<ReplayedWrites> ReplayWrites(const WriteLog& log, int64_t after, int64_t upto, const Generation& generation) {
  const int dim = generation.dim();
  const std::string& passage_half = generation.manifest().passage_fingerprint();
  ReplayedWrites result;
  result.overlay = std::make_shared<Overlay>(dim, generation.vectors().element_type());

  // First which write is the last one to its id, so that what was replaced takes no memory.
  std::unordered_map<std::string, int64_t> last_write;
  int64_t number = 0;
  LOCI_RETURN_IF_ERROR(log.Read(after, upto, [&](const storage::WriteRecord& record) {
    last_write[record.id()] = number++;
    return absl::OkStatus();
  }));

  std::vector<int64_t> hidden_body;
  std::vector<float> vector(static_cast<size_t>(dim));
  int64_t need_encoding = 0;
  number = 0;
  LOCI_RETURN_IF_ERROR(log.Read(after, upto, [&](const storage::WriteRecord& record) -> absl::Status {
    if (last_write[record.id()] != number++) return absl::OkStatus();
    LOCI_ASSIGN_OR_RETURN(const std::optional<int64_t> row, generation.passages().FindRow(record.id()));
    if (row) hidden_body.push_back(*row);
    if (record.deleted()) {
      if (row) result.overlay->Delete(record.revision(), record.id());
      return absl::OkStatus();
    }
    const storage::WriteVector* found = nullptr;
    for (const storage::WriteVector& candidate : record.vectors()) {
      if (candidate.passage_fingerprint() == passage_half) found = &candidate;
    }
    if (found == nullptr) {
      ++need_encoding;
      return absl::OkStatus();
    }
    if (found->float32().size() != sizeof(float) * vector.size()) {
      return absl::DataLossError(absl::StrCat("a logged vector of passage half ", passage_half, " has ", found->float32().size(),
                                              " bytes, the generation's dimension is ", dim));
    }
    std::memcpy(vector.data(), found->float32().data(), found->float32().size());
    result.overlay->Append(record.revision(), record.passage(), vector.data());
    return absl::OkStatus();
  }));
  if (need_encoding > 0) {
    return ErrorWithReason(
        absl::FailedPreconditionError(absl::StrCat(need_encoding, " writes have no vector of passage half ", passage_half,
                                                   ", which generation ", generation.id(), " needs: they must be encoded first")),
        "WRITES_NEED_ENCODING", {{"count", absl::StrCat(need_encoding)}, {"generation", generation.id()}});
  }
  result.hidden_body = RowMask().WithHidden(hidden_body);
  return result;
}

}  // namespace loci
