// What flags of activations and plans mean.
#ifndef LOCI_CLIENTS_CLI_ACTIVATION_FLAGS_H_
#define LOCI_CLIENTS_CLI_ACTIVATION_FLAGS_H_

#include <string_view>

#include "proto/loci/v1/admin.pb.h"

namespace loci {

// Of --strategy.
inline constexpr char kBlueGreen[] = "blue-green", kInPlace[] = "in-place";
inline constexpr char kStrategyHelp[] = "Load beside what serves, or free that first: requests are refused meanwhile.";
inline v1::ActivationStrategy StrategyOf(std::string_view name) {
  return name == kInPlace ? v1::ACTIVATION_STRATEGY_IN_PLACE : v1::ACTIVATION_STRATEGY_BLUE_GREEN;
}

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_ACTIVATION_FLAGS_H_
