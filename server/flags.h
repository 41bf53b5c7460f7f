// The command line of loci_server.
#ifndef LOCI_SERVER_FLAGS_H_
#define LOCI_SERVER_FLAGS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/loci/config/server_config.pb.h"

namespace loci {

struct ServerFlags {
  std::string config_file;         // Empty: none.
  config::ServerConfig overrides;  // What the flags set, each in its range.
  bool check_config = false;
  bool help = false;
  bool version = false;
};

// `arguments` without the program's name. Both "--flag value" and "--flag=value". INVALID_ARGUMENT names flag, value and limit.
absl::StatusOr<ServerFlags> ParseServerFlags(const std::vector<std::string>& arguments);

// The defaults, over them the file, over it the flags. Reads the file. INVALID_ARGUMENT "FILE:LINE:COLUMN: what is wrong".
absl::StatusOr<config::ServerConfig> EffectiveConfig(const ServerFlags& flags);

std::string ServerHelp();

}  // namespace loci

#endif  // LOCI_SERVER_FLAGS_H_
