// ScanSoftmax (softmax_scan.h) over the body of a view, where a device holds its rows.
#ifndef LOCI_INDEX_DEVICE_SOFTMAX_H_
#define LOCI_INDEX_DEVICE_SOFTMAX_H_

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/matrix.h"
#include "index/row_mask.h"
#include "index/scan_segment.h"
#include "index/softmax_scan.h"

namespace loci {

// Thread-safe.
class DeviceSoftmax {
 public:
  virtual ~DeviceSoftmax() = default;

  // ScanSoftmax of one segment, all rows of the body, without block masses. `queries` [n, dim], finite, in float32. Rows of an overlay among
  // `skipped` are passed over: what an overlay adds is scanned on the CPU and joined by SoftmaxSums::Merge. Scores have the CPU's bits; log Z and the mean
  // agree with the CPU's to about 1e-5, and have the same bits each time on one device.
  // Beyond ScanSoftmax's errors: INVALID_ARGUMENT with options.block_masses; UNAVAILABLE once the device failed, for good: the CPU does not step in
  // for it; other errors of a call to the device are this scan's alone. The limits are looked at between passes of some queries, and while it waits for
  // another scan. The pool and the instruction set do not matter. Blocks.
  virtual absl::StatusOr<SoftmaxScan> Scan(MatrixView<const float> queries, const RowMask& hidden,
                                           std::span<const std::vector<ViewRow>> skipped, const SoftmaxScanOptions& options) const = 0;
};

}  // namespace loci

#endif  // LOCI_INDEX_DEVICE_SOFTMAX_H_
