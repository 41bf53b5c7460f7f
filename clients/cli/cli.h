// The `loci` program without its process: commands are chosen, parsed and run here.
#ifndef LOCI_CLIENTS_CLI_CLI_H_
#define LOCI_CLIENTS_CLI_CLI_H_

#include <string>
#include <vector>

#include "clients/cli/cli_context.h"

namespace loci {

inline constexpr char kCliVersion[] = "0.1.0";

// Runs the command line `args` (without the program's name) and returns the exit code: see ExitCode. Blocks until it is done.
int RunCli(const std::vector<std::string>& args, const CliEnvironment& environment);

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_CLI_H_
