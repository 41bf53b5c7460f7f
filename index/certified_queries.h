// The queries of one pass of a certified scan: codes in tiles as the kernels want them, bounds, and padded as they are scored.
#ifndef LOCI_INDEX_CERTIFIED_QUERIES_H_
#define LOCI_INDEX_CERTIFIED_QUERIES_H_

#include <cstdint>
#include <vector>

#include "base/matrix.h"
#include "index/int8_kernels.h"
#include "index/quantized_vectors.h"

namespace loci {

// Immutable after construction.
class CertifiedQueries {
 public:
  // `queries` [query_count, dim] are copied, at least one.
  CertifiedQueries(MatrixView<const float> queries, const Int8Kernels& kernels);

  int64_t size() const { return count_; }
  // Tiles of nearly equal sizes, at most kMaxInt8Queries. The i-th has the queries from tile_begin(i) to tile_begin(i + 1).
  int64_t tile_count() const { return (count_ + kMaxInt8Queries - 1) / kMaxInt8Queries; }
  int64_t tile_begin(int64_t tile) const;
  const void* tile_codes(int64_t tile) const {
    return codes_.data() + tile_begin(tile) * PanelSteps(dim_) * kPanelElements * code_bytes_;
  }
  const float* padded(int64_t query) const { return padded_.data() + query * stride_; }
  float inverse_scale(int64_t query) const { return inverse_scales_[static_cast<size_t>(query)]; }
  // All codes are zero, as those of a zero query: no rows' codes could tell it anything.
  bool rounded_away(int64_t query) const { return rounded_away_[static_cast<size_t>(query)]; }
  // With no threshold.
  const std::vector<Int8Bound>& bounds() const { return bounds_; }

 private:
  Int8Bound BoundOf(const float* query, const QuantizedVector& figures, const std::vector<int8_t>& codes) const;
  void SetCodes(const std::vector<int8_t>& codes, int64_t tile, int64_t query);

  const int64_t count_;
  const int dim_;
  const int code_bytes_;
  const int64_t stride_;
  std::vector<float> padded_;
  std::vector<uint8_t> codes_;
  std::vector<Int8Bound> bounds_;
  std::vector<float> inverse_scales_;
  std::vector<bool> rounded_away_;
};

}  // namespace loci

#endif  // LOCI_INDEX_CERTIFIED_QUERIES_H_
