// The server's configuration: defaults, over them a file (text proto), over it the command line.
//
//   LOCI_ASSIGN_OR_RETURN(config::ServerConfig config, LoadServerConfig("loci.txtpb"));
//   config.MergeFrom(overrides);
//   LOCI_RETURN_IF_ERROR(CheckServerConfig(config));
//   ServerOptions options = ToServerOptions(config);
#ifndef LOCI_SERVER_CONFIG_H_
#define LOCI_SERVER_CONFIG_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/loci/config/server_config.pb.h"
#include "server/server_options.h"

namespace loci {

inline constexpr size_t kMaxConfigBytes = 1 << 20;

// Every field but method_limits and encoders set.
config::ServerConfig DefaultServerConfig();

inline constexpr size_t kMaxConfigMistakes = 20;

// INVALID_ARGUMENT "NAME:LINE:COLUMN: what is wrong", lines and columns from 1, for text that is not a ServerConfig and for values out
// of their range: a line for each mistake, in their order, up to kMaxConfigMistakes; after one that leaves open where a block ends, and that
// is no value's, none is looked for. Fields that are not in the text are not set. An empty text is a configuration.
absl::StatusOr<config::ServerConfig> ParseServerConfig(std::string_view text, const std::string& name);

// ParseServerConfig of a file. INVALID_ARGUMENT where it is not a regular file (or a pipe), is larger than kMaxConfigBytes, or can't be read.
absl::StatusOr<config::ServerConfig> LoadServerConfig(const std::string& path);

// INVALID_ARGUMENT "limits.max_in_flight is 0; it must be from 1 to 1000000": the first field that is out of range.
absl::Status CheckServerConfig(const config::ServerConfig& config);

// Of a configuration with every field set that CheckServerConfig accepts; what a configuration can't say (clock, ...) has its default.
ServerOptions ToServerOptions(const config::ServerConfig& config);

// As a file that ParseServerConfig reads back.
std::string PrintServerConfig(const config::ServerConfig& config);

}  // namespace loci

#endif  // LOCI_SERVER_CONFIG_H_
