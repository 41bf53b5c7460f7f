// The command line of loci_server.
#ifndef LOCI_SERVER_FLAGS_H_
#define LOCI_SERVER_FLAGS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace loci {

struct ServerFlags {
  std::string data_dir = "loci-data";
  std::string model = "models/all-MiniLM-L6-v2";
  std::string listen = "127.0.0.1:7440";
  std::string metrics_listen = "127.0.0.1:7441";
  std::string device = "auto";
  int threads = 0;  // 0: one a core.
  int max_in_flight = 1024;
  int max_ingests = 4;
  int drain_timeout_s = 30;
  double abstain_threshold = 0.42;  // That of retriever/sentence_reader.h.
  bool help = false;
  bool version = false;
};

// `arguments` without the program's name. Both "--flag value" and "--flag=value". INVALID_ARGUMENT names flag, value and limit;
// UNIMPLEMENTED for --config.
absl::StatusOr<ServerFlags> ParseServerFlags(const std::vector<std::string>& arguments);

std::string ServerHelp();

}  // namespace loci

#endif  // LOCI_SERVER_FLAGS_H_
