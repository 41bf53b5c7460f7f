// The first pass of a certified scan, as one of its threads makes it: products of the queries' codes with those of all rows, panel by panel.
//
//   PanelPass pass(vectors, codes, kernels, queries, hidden, limits);
//   std::vector<CertifiedCandidates> found(queries.size(), CertifiedCandidates(top_k));     in each thread
//   LOCI_RETURN_IF_ERROR(PanelScanner(pass, found).Run());
#ifndef LOCI_INDEX_PANEL_SCANNER_H_
#define LOCI_INDEX_PANEL_SCANNER_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "base/cancellation.h"
#include "index/certified_candidates.h"
#include "index/certified_queries.h"
#include "index/int8_kernels.h"
#include "index/quantized_vectors.h"
#include "index/row_mask.h"
#include "index/vector_file.h"

namespace loci {

// What a worker takes at a time: as many rows as ExactIndex.
inline constexpr int64_t kRangePanels = 64;

// What the threads of a pass share. All is borrowed.
// Thread-safe.
struct PanelPass {
  // `codes` may be null where the kernels make panels.
  PanelPass(const VectorFile& vectors, const QuantizedVectors* codes, const Int8Kernels& kernels, const CertifiedQueries& queries,
            const RowMask& hidden, const RequestLimits& limits);

  const VectorFile& vectors;
  const QuantizedVectors* const codes;
  const Int8Kernels& kernels;
  const CertifiedQueries& queries;
  const RowMask& hidden;
  const RequestLimits& limits;

  std::atomic<int64_t> next_panel{0};
  std::atomic<bool> stopped{false};
  std::vector<std::atomic<double>> thresholds;  // What one worker has found is good for all. Infinite: the query was given up.
};

// Used by one thread.
class PanelScanner {
 public:
  // `found`: one a query of the pass.
  PanelScanner(PanelPass& pass, std::vector<CertifiedCandidates>& found);

  // Scans ranges until none is left, every query was given up, or the limits end, whose status it returns.
  absl::Status Run();

 private:
  struct alignas(64) Line {
    char bytes[64];
  };
  struct Panel {
    const PanelHeader* header;
    const char* next;  // What is read after it.
    int64_t next_lines;
  };

  bool ShareThresholds();
  void SetThreshold(int64_t query);
  uint64_t Visible(int64_t panel) const;
  Panel Load(int64_t panel);
  void Scan(const Panel& panel, uint64_t visible, int64_t first_row);
  void Add(int64_t query, uint64_t bits, const int32_t* products, const PanelHeader& panel, int64_t first_row);

  PanelPass& pass_;
  std::vector<CertifiedCandidates>& found_;
  const int64_t row_total_;
  const int64_t panel_total_;
  const int steps_;
  const int64_t panel_bytes_;
  const double underflow_;
  std::vector<Int8Bound> bounds_;
  std::vector<Line> made_;  // A panel, where there are no codes.
};

}  // namespace loci

#endif  // LOCI_INDEX_PANEL_SCANNER_H_
