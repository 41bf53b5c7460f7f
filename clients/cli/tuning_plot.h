// A picture of measured indexes: recall over latency.
#ifndef LOCI_CLIENTS_CLI_TUNING_PLOT_H_
#define LOCI_CLIENTS_CLI_TUNING_PLOT_H_

#include <string>
#include <string_view>

#include "proto/loci/v1/common.pb.h"

namespace loci {

// A standalone SVG document, UTF-8, 960 by 560: one line an index, its points by latency (logarithmic), each with its mean recall at 10 and a
// whisker down to the bound that targets are compared with; the target as a dashed line, the chosen point in a ring. `title` is any text.
std::string TuningPlotSvg(const loci::v1::IndexTuning& tuning, std::string_view title);

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_TUNING_PLOT_H_
