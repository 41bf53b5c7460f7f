// A value that is looked up when metrics are read, rather than kept up to date.
#ifndef LOCI_BASE_GAUGE_SAMPLE_H_
#define LOCI_BASE_GAUGE_SAMPLE_H_

#include <string>

#include "base/metrics.h"

namespace loci {

// `name` and `labels` as MetricsSink::gauge. Samples of one name have one help. Immutable after construction.
struct GaugeSample {
  std::string name;
  std::string help;
  MetricLabels labels;
  double value = 0;
};

}  // namespace loci

#endif  // LOCI_BASE_GAUGE_SAMPLE_H_
