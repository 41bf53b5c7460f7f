// loci: the command line of Loci.
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "clients/cli/cli.h"

namespace {

// Columns of the terminal behind a descriptor; 0 where there is none.
int TerminalWidth(int descriptor) {
  winsize size = {};
  if (isatty(descriptor) == 0) return 0;
  return ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

int main(int argc, char** argv) {
  // gRPC's own log would mix with our messages; $GRPC_VERBOSITY turns it on.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  std::ios::sync_with_stdio(false);
  const char* const server = std::getenv("LOCI_SERVER");
  loci::CliEnvironment environment{std::cout, std::cerr};
  environment.out_width = TerminalWidth(STDOUT_FILENO);
  environment.err_width = TerminalWidth(STDERR_FILENO);
  environment.stdin_is_terminal = isatty(STDIN_FILENO) != 0;
  environment.server = server != nullptr ? server : "";
  return loci::RunCli(std::vector<std::string>(argv + 1, argv + argc), environment);
}
