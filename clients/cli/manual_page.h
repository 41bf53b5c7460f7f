// Manual pages.
#ifndef LOCI_CLIENTS_CLI_MANUAL_PAGE_H_
#define LOCI_CLIENTS_CLI_MANUAL_PAGE_H_

#include <string>
#include <string_view>

#include "clients/cli/command_declaration.h"

namespace loci {

// loci(1): every command with its flags and examples, exit codes, environment. In roff for man(7).
std::string ManualPage(const CliDeclaration& declaration, std::string_view version);

// loci-get-stores(1) and the like: one command.
std::string CommandManualPage(const CliDeclaration& declaration, const CommandDeclaration& command, std::string_view version);

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_MANUAL_PAGE_H_
