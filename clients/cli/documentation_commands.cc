// loci completion, loci man.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "clients/cli/cli_context.h"
#include "clients/cli/command.h"
#include "clients/cli/completion_script.h"
#include "clients/cli/manual_page.h"

namespace loci {
namespace {

class CompletionCommand final : public Command {
 public:
  explicit CompletionCommand(std::function<CliDeclaration()> declare) : declare_(std::move(declare)) {}
  std::string name() const override { return "completion"; }
  std::string summary() const override { return "Print the completion script for bash or zsh"; }
  std::string details() const override {
    return "Commands, flags, the words that a flag takes, files, and the names of the server's stores are completed.\n";
  }
  std::string examples() const override {
    return "  loci completion bash > /usr/share/bash-completion/completions/loci\n"
           "  source <(loci completion bash)\n"
           "  loci completion zsh > \"${fpath[1]}/_loci\"\n";
  }
  bool needs_server() const override { return false; }
  void DeclareFlags(FlagSet* flags) override { flags->PositionalChoice("SHELL", &shell_, {"bash", "zsh"}, "The shell: bash or zsh."); }
  int Run(CliContext& cli, const FlagSet&) override {
    cli.out() << (shell_ == "bash" ? BashCompletionScript(declare_()) : ZshCompletionScript(declare_()));
    return kExitOk;
  }

 private:
  const std::function<CliDeclaration()> declare_;
  std::string shell_;
};

class ManCommand final : public Command {
 public:
  ManCommand(std::function<CliDeclaration()> declare, std::string version) : declare_(std::move(declare)), version_(std::move(version)) {}
  std::string name() const override { return "man"; }
  std::string summary() const override { return "Print the manual page, or that of a command"; }
  std::string details() const override { return "The page is roff for man(1), on standard output.\n"; }
  std::string examples() const override {
    return "  loci man | man -l -\n"
           "  loci man get stores | man -l -\n"
           "  loci man > /usr/share/man/man1/loci.1\n";
  }
  bool needs_server() const override { return false; }
  void DeclareFlags(FlagSet* flags) override {
    flags->PositionalList("COMMAND", &words_, "The command, such as get stores; all of them without one.", 0);
  }
  int Run(CliContext& cli, const FlagSet&) override {
    const CliDeclaration declaration = declare_();
    if (words_.empty()) {
      cli.out() << ManualPage(declaration, version_);
      return kExitOk;
    }
    const std::string name = absl::StrJoin(words_, " ");
    std::vector<std::string> names;
    for (const CommandDeclaration& command : declaration.commands) {
      names.push_back(command.name);
      if (command.name != name) continue;
      cli.out() << CommandManualPage(declaration, command, version_);
      return kExitOk;
    }
    const std::string nearest = NearestWord(name, names);
    return cli.UsageError(absl::StrCat("there is no command \"", name, "\"",
                                       nearest.empty() ? "; see loci help" : absl::StrCat("; did you mean ", nearest, "?")));
  }

 private:
  const std::function<CliDeclaration()> declare_;
  const std::string version_;
  std::vector<std::string> words_;
};

}  // namespace

void AddDocumentationCommands(std::function<CliDeclaration()> declare, std::string version, Commands* commands) {
  commands->push_back(std::make_unique<CompletionCommand>(declare));
  commands->push_back(std::make_unique<ManCommand>(std::move(declare), std::move(version)));
}

}  // namespace loci
