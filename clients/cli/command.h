// The commands of `loci`.
#ifndef LOCI_CLIENTS_CLI_COMMAND_H_
#define LOCI_CLIENTS_CLI_COMMAND_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "clients/cli/cli_context.h"
#include "clients/cli/command_declaration.h"
#include "clients/cli/flags.h"

namespace loci {

// One verb, or verb and noun. An object serves one command line. Used by one thread: main's.
class Command {
 public:
  virtual ~Command() = default;
  virtual std::string name() const = 0;               // "search", "get stores".
  virtual std::string summary() const = 0;            // One line for the list of commands.
  virtual std::string details() const { return ""; }  // Paragraphs for --help, ended by '\n'.
  virtual std::string examples() const = 0;           // Lines for --help, each ended by '\n'.
  virtual bool needs_server() const { return true; }  // Whether --server must be an address.
  virtual void DeclareFlags(FlagSet* flags) = 0;
  // Returns the exit code. `flags` were parsed.
  virtual int Run(CliContext& cli, const FlagSet& flags) = 0;
};

using Commands = std::vector<std::unique_ptr<Command>>;

void AddIngestCommand(Commands* commands);
void AddUpsertCommand(Commands* commands);
void AddQueryCommands(Commands* commands);       // search, ask, encode.
void AddGetCommands(Commands* commands);         // get stores|generations|server|passages.
void AddJobCommands(Commands* commands);         // get jobs, watch, cancel.
void AddWriteCommands(Commands* commands);       // create store, delete store|generation|passages.
void AddGenerationCommands(Commands* commands);  // activate, rollback, verify, pin, set store, compare.
void AddPlanCommand(Commands* commands);
void AddReembedCommand(Commands* commands);
void AddExportCommand(Commands* commands);
void AddImportCommand(Commands* commands);
void AddTuneCommand(Commands* commands);
void AddQuantizeCommand(Commands* commands);
void AddEvalCommand(Commands* commands);
void AddBenchCommand(Commands* commands);
// completion, man: they print what `declare` tells of all commands.
void AddDocumentationCommands(std::function<CliDeclaration()> declare, std::string version, Commands* commands);

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_COMMAND_H_
