// Inner products of 8-bit codes: a few queries with a panel of 64 rows (quantized_vectors.h), compared with a bound in the same pass.
// Integers throughout, so that every instruction set gives the same products.
#ifndef LOCI_INDEX_INT8_KERNELS_H_
#define LOCI_INDEX_INT8_KERNELS_H_

#include <cstdint>

#include "base/vector_type.h"

namespace loci {

inline constexpr int kPanelRows = 64;
inline constexpr int kMaxInt8Queries = 6;  // Of one call.

// Elements of a row that lie together in a panel.
inline constexpr int kPanelElements = 4;
constexpr int PanelSteps(int dim) { return (dim + kPanelElements - 1) / kPanelElements; }

// A panel: the figures of its rows, then code(element) + 128 of the row r's elements 4 s .. 4 s + 3 at codes[s][r].
// Followed in memory by uint8_t codes[PanelSteps(dim)][kPanelRows][kPanelElements]; zero codes where there is no row or element.
struct PanelHeader {
  float inverse_scale[kPanelRows];  // Codes are the elements times this, rounded.
  float length[kPanelRows];         // Of the codes, as a vector; not less than it.
  float error[kPanelRows];          // Of what rounding took away, as a vector, in steps; not less than it. Infinite: nothing is known of this row.
};
static_assert(sizeof(PanelHeader) == 3 * 4 * kPanelRows);

constexpr int64_t PanelBytes(int dim) {
  return static_cast<int64_t>(sizeof(PanelHeader)) + int64_t{PanelSteps(dim)} * kPanelRows * kPanelElements;
}

// Of a query, in steps of its own codes and of the row's. A row is passed over where
//   product + length * length_factor + error * error_factor + slack < threshold * inverse_scale.
struct Int8Bound {
  float threshold = 0;
  float length_factor = 0;
  float error_factor = 0;
  float slack = 0;
  int32_t offset = 0;  // -128 times the sum of the query's codes: what the panel's 128 adds.
};

// Functions of one instruction set. Immutable after construction.
struct Int8Kernels {
  // Codes of up to kMaxInt8Queries queries, [PanelSteps(dim)][query_count][kPanelElements] of int8 or int16: code_bytes says which.
  // For q < query_count and r < kPanelRows: products[q * kPanelRows + r], and bit r of survivors[q] set unless the row is passed over (where a NaN
  // comes in, it is not). `prefetch` (null, or what will be read after this panel, of which prefetch_bytes exist) is a hint.
  using Scan = void (*)(const void* queries, int query_count, const Int8Bound* bounds, const PanelHeader* panel, int steps, int32_t* products,
                        uint64_t* survivors, const char* prefetch, int64_t prefetch_bytes);
  // Makes the panel of row_count (1 to kPanelRows) rows [row_count, dim] of the type, row-major, as Quantize (quantized_vectors.h) would but for the
  // last bits of `length` and `error`, which are bounds all the same. `panel` has PanelBytes(dim). Null: no faster than to score the rows.
  using MakePanel = void (*)(const void* rows, ElementType type, int64_t row_count, int dim, PanelHeader* panel);
  Scan scan;
  MakePanel make_panel;
  int code_bytes;
};

extern const Int8Kernels kInt8KernelsAvx2;
extern const Int8Kernels kInt8KernelsVnni;

// The instruction set of a pass over codes. kVnni: AVX-512 with VNNI (vpdpbusd).
enum class ScanIsa { kAvx2, kVnni };
// kVnni where DetectCpuExtensions has it.
ScanIsa DetectScanIsa();
const Int8Kernels& GetInt8Kernels(ScanIsa isa);

}  // namespace loci

#endif  // LOCI_INDEX_INT8_KERNELS_H_
