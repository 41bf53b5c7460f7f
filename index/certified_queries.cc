#include "index/certified_queries.h"

#include <algorithm>
#include <limits>

#include "index/certified_bound.h"
#include "index/certified_plan.h"
#include "index/exact_kernels.h"

namespace loci {

CertifiedQueries::CertifiedQueries(MatrixView<const float> queries, const Int8Kernels& kernels)
    : count_(queries.rows),
      dim_(static_cast<int>(queries.cols)),
      code_bytes_(kernels.code_bytes),
      stride_(PaddedDim(queries.cols)) {
  const int64_t padded_codes = int64_t{PanelSteps(dim_)} * kPanelElements;
  padded_.resize(static_cast<size_t>(count_ * stride_));
  codes_.resize(static_cast<size_t>(count_ * padded_codes * code_bytes_));
  bounds_.resize(static_cast<size_t>(count_));
  inverse_scales_.resize(static_cast<size_t>(count_));
  rounded_away_.resize(static_cast<size_t>(count_));
  std::vector<int8_t> codes(static_cast<size_t>(padded_codes));
  for (int64_t tile = 0; tile < tile_count(); ++tile) {
    for (int64_t q = tile_begin(tile); q < tile_begin(tile + 1); ++q) {
      std::copy_n(queries.row(q), dim_, padded_.data() + q * stride_);
      const QuantizedVector figures = Quantize(queries.row(q), dim_, codes.data());
      inverse_scales_[static_cast<size_t>(q)] = figures.inverse_scale;
      rounded_away_[static_cast<size_t>(q)] = figures.length == 0;
      bounds_[static_cast<size_t>(q)] = BoundOf(queries.row(q), figures, codes);
      SetCodes(codes, tile, q);
    }
  }
}

int64_t CertifiedQueries::tile_begin(int64_t tile) const { return PartBegin(count_, tile_count(), tile); }

Int8Bound CertifiedQueries::BoundOf(const float* query, const QuantizedVector& figures, const std::vector<int8_t>& codes) const {
  const CertifiedBound bound = CertifiedBoundOf(query, dim_, figures);
  int32_t sum = 0;
  for (const int8_t code : codes) sum += code;
  return {.threshold = -std::numeric_limits<float>::infinity(),
          .length_factor = bound.length_factor,
          .error_factor = bound.error_factor,
          .slack = bound.slack,
          .offset = -128 * sum};
}

void CertifiedQueries::SetCodes(const std::vector<int8_t>& codes, int64_t tile, int64_t query) {
  const int64_t first = tile_begin(tile), tile_queries = tile_begin(tile + 1) - first;
  const int64_t tile_offset = first * static_cast<int64_t>(codes.size());
  for (int64_t i = 0; i < static_cast<int64_t>(codes.size()); ++i) {
    const int64_t place = tile_offset + (i / kPanelElements * tile_queries + query - first) * kPanelElements + i % kPanelElements;
    if (code_bytes_ == 1) {
      codes_[static_cast<size_t>(place)] = static_cast<uint8_t>(codes[static_cast<size_t>(i)]);
    } else {
      const uint16_t wide = static_cast<uint16_t>(int16_t{codes[static_cast<size_t>(i)]});
      codes_[static_cast<size_t>(2 * place)] = static_cast<uint8_t>(wide);
      codes_[static_cast<size_t>(2 * place + 1)] = static_cast<uint8_t>(wide >> 8);
    }
  }
}

}  // namespace loci
