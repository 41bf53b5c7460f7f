// How much may lie over a generation before it is folded in the background.
#ifndef LOCI_RETRIEVER_FOLD_LIMITS_H_
#define LOCI_RETRIEVER_FOLD_LIMITS_H_

#include <cstdint>

namespace loci {

// Each is a limit of its own; 0: never.
struct FoldLimits {
  int64_t max_overlay_passages = 0;  // Of OverlayInfo::change_count.
  double max_overlay_share = 0;      // The same, of the body's passages, which are counted as at least 100,000.
  int64_t max_overlay_bytes = 0;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_FOLD_LIMITS_H_
