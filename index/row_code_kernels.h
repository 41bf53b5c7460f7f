// Inner products of one query with rows of 8-bit codes that lie row by row: a few rows anywhere.
// Integers throughout, so that every instruction set gives the same products.
#ifndef LOCI_INDEX_ROW_CODE_KERNELS_H_
#define LOCI_INDEX_ROW_CODE_KERNELS_H_

#include <cstdint>

namespace loci {

enum class ScanIsa;  // index/int8_kernels.h.

// Codes of a row: code(element) + 128 of each, then anything, up to a stride that is a multiple of this.
inline constexpr int64_t kRowCodeBlock = 64;

// A query's codes, zero beyond its elements, as the kernels of an instruction set read them.
struct RowCodeQuery {
  const void* codes = nullptr;  // [stride] of int8 or int16: RowCodeKernels::code_bytes says which.
  int32_t offset = 0;           // -128 times the sum of the codes: what the rows' 128 adds.
};

// Functions of one instruction set. Immutable after construction.
struct RowCodeKernels {
  // products[i] = the sum over elements of the query's code times that of row rows[i], for i < count; row r lies at codes + r * stride.
  using Gather = void (*)(const RowCodeQuery& query, const uint8_t* codes, int64_t stride, const int32_t* rows, int64_t count,
                          int32_t* products);
  Gather gather;
  int code_bytes;
};

extern const RowCodeKernels kRowCodeKernelsAvx2;
extern const RowCodeKernels kRowCodeKernelsVnni;

const RowCodeKernels& GetRowCodeKernels(ScanIsa isa);

}  // namespace loci

#endif  // LOCI_INDEX_ROW_CODE_KERNELS_H_
