#include "index/graph_file.h"

#include <faiss/Index.h>

#include <cstring>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace loci {
namespace {

// Used by one thread.
class Reader {
 public:
  explicit Reader(std::string_view data) : rest_(data) {}

  template <typename Value>
  bool Read(Value* value) {
    return ReadBytes(value, sizeof(Value));
  }
  template <typename Element>
  bool ReadVector(std::vector<Element>* elements) {
    uint64_t size = 0;
    if (!Read(&size) || size > rest_.size() / sizeof(Element)) return false;
    elements->resize(size);
    return ReadBytes(elements->data(), size * sizeof(Element));
  }

 private:
  bool ReadBytes(void* bytes, size_t size) {
    if (size > rest_.size()) return false;
    if (size > 0) std::memcpy(bytes, rest_.data(), size);
    rest_.remove_prefix(size);
    return true;
  }

  std::string_view rest_;
};

}  // namespace

absl::StatusOr<faiss::HNSW> ReadGraph(std::string_view data, int64_t rows, int dim) {
  Reader reader(data);
  char magic[4];
  int32_t file_dim = 0, metric = 0;
  int64_t file_rows = 0, unused = 0;
  uint8_t is_trained = 0;
  if (!reader.Read(&magic) || (std::string_view(magic, 4) != "IHNf" && std::string_view(magic, 4) != "IHNs") ||
      !reader.Read(&file_dim) || !reader.Read(&file_rows) || !reader.Read(&unused) || !reader.Read(&unused) ||
      !reader.Read(&is_trained) || !reader.Read(&metric)) {
    return absl::DataLossError("it is not a graph");
  }
  if (file_rows != rows || file_dim != dim || metric != faiss::METRIC_INNER_PRODUCT) {
    return absl::DataLossError(absl::StrCat("it is a graph over ", file_rows, " rows of dimension ", file_dim, ", metric ", metric, ", not ",
                                            rows, " of ", dim, ", metric ", static_cast<int>(faiss::METRIC_INNER_PRODUCT)));
  }
  faiss::HNSW graph;
  const bool whole = reader.ReadVector(&graph.assign_probas) && reader.ReadVector(&graph.cum_nneighbor_per_level) &&
                     reader.ReadVector(&graph.levels) && reader.ReadVector(&graph.offsets) && reader.ReadVector(&graph.neighbors) &&
                     reader.Read(&graph.entry_point) && reader.Read(&graph.max_level) && reader.Read(&graph.efConstruction) &&
                     reader.Read(&graph.efSearch) && reader.Read(&graph.upper_beam);
  if (!whole) return absl::DataLossError("the graph is damaged: it ends too early");
  return graph;
}

}  // namespace loci
