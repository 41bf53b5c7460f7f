// What the commands are, as data: for completion scripts and manual pages.
#ifndef LOCI_CLIENTS_CLI_COMMAND_DECLARATION_H_
#define LOCI_CLIENTS_CLI_COMMAND_DECLARATION_H_

#include <string>
#include <vector>

#include "clients/cli/flags.h"

namespace loci {

struct CommandDeclaration {
  std::string name;  // "search", "get stores".
  std::string summary;
  std::string details;
  std::string examples;
  std::string usage;  // "STORE QUERY [flags]".
  std::vector<FlagSet::PositionalDeclaration> positionals;
  std::vector<FlagSet::Declaration> flags;  // Its own; those of every command are in CliDeclaration.
};

struct ExitCodeDeclaration {
  int code;
  const char* meaning;
};

inline constexpr ExitCodeDeclaration kExitCodes[] = {
    {0, "done"},
    {1, "the server refused the request, a file cannot be read, some of the input was not taken, a job that was watched failed, or what was planned "
        "would be refused"},
    {2, "the command line is wrong; nothing was sent"},
    {3, "no server answers at that address, or it is draining"},
    {4, "--timeout passed before the reply"},
};

struct CliDeclaration {
  std::vector<CommandDeclaration> commands;
  std::vector<FlagSet::Declaration> global_flags;
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_COMMAND_DECLARATION_H_
