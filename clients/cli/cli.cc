#include "clients/cli/cli.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/utf8.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/flags.h"

namespace loci {
namespace {

CliDeclaration Declare();

std::string ExitCodeHelp() {
  std::string text = "Exit codes:\n";
  for (const ExitCodeDeclaration& exit : kExitCodes) absl::StrAppend(&text, "  ", exit.code, "   ", exit.meaning, "\n");
  return text;
}

Commands AllCommands() {
  Commands commands;
  AddIngestCommand(&commands);
  AddUpsertCommand(&commands);
  AddQueryCommands(&commands);
  AddGetCommands(&commands);
  AddJobCommands(&commands);
  AddWriteCommands(&commands);
  AddGenerationCommands(&commands);
  AddPlanCommand(&commands);
  AddReembedCommand(&commands);
  AddExportCommand(&commands);
  AddImportCommand(&commands);
  AddTuneCommand(&commands);
  AddQuantizeCommand(&commands);
  AddEvalCommand(&commands);
  AddBenchCommand(&commands);
  AddDocumentationCommands(Declare, kCliVersion, &commands);
  return commands;
}

std::string ListCommands(const Commands& commands, const std::string& verb) {
  std::string text;
  for (const auto& command : commands) {
    const std::string name = command->name();
    if (!verb.empty() && !name.starts_with(verb + " ")) continue;
    absl::StrAppend(&text, "  ", name, std::string(name.size() < 20 ? 20 - name.size() : 1, ' '), command->summary(), "\n");
  }
  return text;
}

std::string OverviewHelp(const Commands& commands) {
  return absl::StrCat(
      "loci: ask, build, check and swap the passage stores of a Loci server.\n\n"
      "Usage:\n  loci COMMAND [arguments] [--server HOST:PORT] [-o table|json] [--timeout TIME]\n\n"
      "Commands:\n",
      ListCommands(commands, ""), "  ", "help [COMMAND]      This text, or that of a command (also COMMAND --help)\n\n",
      "Examples:\n"
      "  loci ingest movies corpus.jsonl.gz\n"
      "  loci search movies \"a heist in space\" --top-k 5\n"
      "  loci ask movies \"Who directed Alien?\"\n"
      "  loci ingest handbook docs/ --no-wait\n"
      "  loci get stores -o json\n\n"
      "The server is 127.0.0.1:7440 unless --server or $LOCI_SERVER says otherwise.\n\n",
      ExitCodeHelp());
}

void DeclareGlobalFlags(FlagSet* flags, GlobalOptions* options, bool* help) {
  flags->Section("Flags of every command");
  flags->String("server", &options->server, "HOST:PORT", "The server; also $LOCI_SERVER.");
  flags->Choice("output", &options->output, {"table", "json"}, "json is the response message in proto3 JSON.", 'o');
  flags->Duration("timeout", &options->timeout_ms, "Give up after this: 500ms, 10s, 2m; 0 is never.");
  flags->Bool("help", help, "This text.", 'h');
}

std::string CommandHelp(Command& command, const GlobalOptions& defaults) {
  FlagSet flags;
  GlobalOptions options = defaults;
  bool help = false;
  command.DeclareFlags(&flags);
  options.timeout_ms = 0;  // Not to be printed as a default.
  DeclareGlobalFlags(&flags, &options, &help);
  const std::string details = command.details();
  return absl::StrCat(command.summary(), "\n\nUsage:\n  loci ", command.name(), " ", flags.Usage(), "\n\n", details,
                      details.empty() ? "" : "\n", "Examples:\n", command.examples(), "\n", flags.Help(), "\n", ExitCodeHelp());
}

CliDeclaration Declare() {
  CliDeclaration declaration;
  for (const auto& command : AllCommands()) {
    FlagSet flags;
    command->DeclareFlags(&flags);
    declaration.commands.push_back({command->name(), command->summary(), command->details(), command->examples(), flags.Usage(),
                                    flags.PositionalDeclarations(), flags.FlagDeclarations()});
  }
  FlagSet flags;
  GlobalOptions options;
  options.timeout_ms = 0;  // Not to be printed as a default.
  bool help = false;
  DeclareGlobalFlags(&flags, &options, &help);
  declaration.global_flags = flags.FlagDeclarations();
  return declaration;
}

// The command that `words` begin with; *used is how many of them name it. Null where there is none.
Command* FindCommand(const Commands& commands, const std::vector<std::string>& words, size_t* used) {
  for (const size_t count : {2, 1}) {
    if (words.size() < count) continue;
    const std::string name = absl::StrJoin(words.begin(), words.begin() + static_cast<ptrdiff_t>(count), " ");
    for (const auto& command : commands) {
      if (command->name() == name) {
        *used = count;
        return command.get();
      }
    }
  }
  return nullptr;
}

// "unknown command" with what may have been meant.
std::string UnknownCommand(const Commands& commands, const std::vector<std::string>& words) {
  std::vector<std::string> firsts, nouns;
  for (const auto& command : commands) {
    const std::string name = command->name();
    const std::string verb = name.substr(0, name.find(' '));
    firsts.push_back(verb);
    if (verb == words[0] && verb.size() < name.size()) nouns.push_back(name.substr(verb.size() + 1));
  }
  if (!nouns.empty()) {
    const std::string given = words.size() > 1 ? absl::StrCat("\"", words[1], "\" is not something to ", words[0], "; ") : "";
    return absl::StrCat(given, "write loci ", words[0], " ", absl::StrJoin(nouns, "|"));
  }
  const std::string nearest = NearestWord(words[0], firsts);
  return absl::StrCat("unknown command \"", words[0], "\"",
                      nearest.empty() ? "; see loci help" : absl::StrCat("; did you mean ", nearest, "?"));
}

int PrintHelp(const Commands& commands, const std::vector<std::string>& words, const GlobalOptions& options,
              const CliEnvironment& environment) {
  size_t used = 0;
  if (words.empty()) {
    environment.out << OverviewHelp(commands);
  } else if (Command* const command = FindCommand(commands, words, &used); command != nullptr) {
    environment.out << CommandHelp(*command, options);
  } else if (const std::string list = ListCommands(commands, words[0]); !list.empty()) {
    environment.out << "Commands:\n" << list << "\nloci " << words[0] << " NOUN --help tells more.\n";
  } else {
    environment.err << "error: " << SanitizeLine(UnknownCommand(commands, words)) << '\n';
    return kExitUsage;
  }
  return kExitOk;
}

int Dispatch(const std::vector<std::string>& args, const CliEnvironment& environment) {
  const Commands commands = AllCommands();
  GlobalOptions options;
  if (!environment.server.empty()) options.server = environment.server;
  for (const std::string& arg : args) {
    if (!IsValidUtf8(arg)) {
      environment.err << "error: argument \"" << SanitizeLine(arg) << "\" is not valid UTF-8\n";
      return kExitUsage;
    }
  }
  if (args.empty()) {
    environment.err << OverviewHelp(commands);
    return kExitUsage;
  }
  if (args[0] == "--version" || args[0] == "version") {
    environment.out << "loci " << kCliVersion << '\n';
    return kExitOk;
  }
  if (args[0] == "help" || args[0] == "--help" || args[0] == "-h") {
    return PrintHelp(commands, {args.begin() + 1, args.end()}, options, environment);
  }

  // Flags of every command may stand before it, too.
  bool help = false;
  std::vector<std::string> leading, words(args.begin(), args.end());
  while (!words.empty() && words[0].size() > 1 && words[0][0] == '-') {
    const bool takes_next = words[0] == "--server" || words[0] == "--output" || words[0] == "-o" || words[0] == "--timeout";
    for (int i = 0; i < (takes_next ? 2 : 1) && !words.empty(); ++i) {
      leading.push_back(words[0]);
      words.erase(words.begin());
    }
  }
  if (words.empty()) {
    FlagSet flags;
    DeclareGlobalFlags(&flags, &options, &help);
    const absl::Status status = flags.Parse(leading);
    environment.err << "error: "
                    << (status.ok() ? "a command is missing; see loci help" : SanitizeLine(std::string(status.message())))
                    << '\n';
    return kExitUsage;
  }

  size_t used = 0;
  Command* const command = FindCommand(commands, words, &used);
  if (command == nullptr) {
    const bool wants_help = std::find(words.begin(), words.end(), "--help") != words.end() ||
                            std::find(words.begin(), words.end(), "-h") != words.end();
    if (wants_help) return PrintHelp(commands, {words[0]}, options, environment);
    environment.err << "error: " << SanitizeLine(UnknownCommand(commands, words)) << '\n';
    return kExitUsage;
  }
  FlagSet flags;
  const GlobalOptions defaults = options;
  command->DeclareFlags(&flags);
  DeclareGlobalFlags(&flags, &options, &help);
  leading.insert(leading.end(), words.begin() + static_cast<ptrdiff_t>(used), words.end());
  const absl::Status status = flags.Parse(leading);
  if (help) {
    for (auto& fresh : AllCommands()) {
      if (fresh->name() == command->name()) environment.out << CommandHelp(*fresh, defaults);
    }
    return kExitOk;
  }
  if (!status.ok()) {
    environment.err << "error: " << SanitizeLine(std::string(status.message())) << "\nUsage: loci " << command->name() << ' '
                    << flags.Usage() << "\nSee loci " << command->name() << " --help.\n";
    return kExitUsage;
  }
  if (const absl::Status address = CheckServerAddress(options.server); command->needs_server() && !address.ok()) {
    environment.err << "error: " << (flags.WasGiven("server") ? "flag --server: " : "$LOCI_SERVER: ")
                    << SanitizeLine(std::string(address.message())) << '\n';
    return kExitUsage;
  }
  CliContext cli(environment, options);
  return command->Run(cli, flags);
}

}  // namespace

int RunCli(const std::vector<std::string>& args, const CliEnvironment& environment) {
  const int exit_code = Dispatch(args, environment);
  environment.out.flush();
  if (!environment.out.good() && exit_code == kExitOk) {
    environment.err << "error: cannot write to standard output\n";
    return kExitFailed;
  }
  return exit_code;
}

}  // namespace loci
