#include "index/faiss_index.h"

namespace loci {

absl::Status ValidateFaissFactory(const std::string&, int, int64_t) { return absl::UnimplementedError("FAISS indexes"); }

absl::Status BuildFaissIndex(FileSystem&, const std::string&, const VectorFile&, const std::string&, const RequestLimits&) {
  return absl::UnimplementedError("FAISS indexes");
}

absl::StatusOr<std::unique_ptr<PassageIndex>> OpenFaissIndex(FileSystem&, const std::string&, const std::string&,
                                                             std::shared_ptr<const VectorFile>, ThreadPool*) {
  return absl::UnimplementedError("FAISS indexes");
}

}  // namespace loci
