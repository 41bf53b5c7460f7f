// Completion of the command line in shells.
#ifndef LOCI_CLIENTS_CLI_COMPLETION_SCRIPT_H_
#define LOCI_CLIENTS_CLI_COMPLETION_SCRIPT_H_

#include <string>

#include "clients/cli/command_declaration.h"

namespace loci {

// A script for bash 4 or later, without need of the package bash-completion: commands, flags, the words of a choice, files where a
// file is wanted, and the stores of the server that the line names.
std::string BashCompletionScript(const CliDeclaration& declaration);

// The same for zsh 5, with the flags' help.
std::string ZshCompletionScript(const CliDeclaration& declaration);

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_COMPLETION_SCRIPT_H_
