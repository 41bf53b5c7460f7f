#include "clients/cli/manual_page.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/strings.h"

namespace loci {
namespace {

// Text within a line of roff. Dashes, carets and so on stay what they are, so that a line of it can be copied into a shell.
std::string Escape(std::string_view text) {
  return absl::StrReplaceAll(AbslView(text), {{"\\", "\\e"}, {"-", "\\-"}, {"'", "\\(aq"}, {"`", "\\(ga"}, {"^", "\\(ha"}, {"~", "\\(ti"}});
}

// A line of its own: one that begins with a period is no request.
std::string Line(std::string_view text) {
  const std::string escaped = Escape(text);
  return absl::StrCat(escaped.starts_with('.') ? "\\&" : "", escaped, "\n");
}

// Lines as they are.
std::string Verbatim(std::string_view text) {
  std::string roff = ".PP\n.nf\n";
  for (const absl::string_view line : absl::StrSplit(AbslView(text), '\n')) {
    if (!line.empty()) roff += Line(StdView(line));
  }
  return roff + ".fi\n";
}

// Paragraphs are parted by blank lines; one with lines that are indented (a table) is kept as it is.
std::string Paragraphs(std::string_view text) {
  std::string roff;
  for (const absl::string_view paragraph : absl::StrSplit(AbslView(text), "\n\n", absl::SkipEmpty())) {
    if (paragraph.find("\n  ") != absl::string_view::npos || paragraph.substr(0, 2) == "  ") {
      roff += Verbatim(StdView(paragraph));
      continue;
    }
    roff += ".PP\n";
    for (const absl::string_view line : absl::StrSplit(paragraph, '\n', absl::SkipEmpty())) roff += Line(StdView(line));
  }
  return roff;
}

std::string Header(std::string_view name, std::string_view version) {
  return absl::StrCat(".TH \"", absl::AsciiStrToUpper(AbslView(name)), "\" \"1\" \"\" \"loci ", AbslView(version),
                      "\" \"Loci\"\n.nh\n.ad l\n");
}

std::string FlagItem(const FlagSet::Declaration& flag) {
  std::string tag = absl::StrCat("\\fB\\-\\-", Escape(flag.name), "\\fR");
  if (flag.short_name != 0) tag = absl::StrCat("\\fB\\-", std::string(1, flag.short_name), "\\fR, ", tag);
  if (!flag.placeholder.empty()) absl::StrAppend(&tag, " \\fI", Escape(flag.placeholder), "\\fR");
  std::string help = flag.help;
  if (!flag.default_text.empty()) absl::StrAppend(&help, " Default ", flag.default_text, ".");
  return absl::StrCat(".TP\n", tag, "\n", Line(help));
}

std::string Flags(const std::vector<FlagSet::Declaration>& flags) {
  std::string roff;
  for (const FlagSet::Declaration& flag : flags) roff += FlagItem(flag);
  return roff;
}

std::string Arguments(const CommandDeclaration& command) {
  std::string roff;
  for (const FlagSet::PositionalDeclaration& positional : command.positionals) {
    absl::StrAppend(&roff, ".TP\n\\fI", Escape(positional.name), "\\fR", positional.is_list ? " ..." : "", "\n", Line(positional.help));
  }
  return roff;
}

std::string Synopsis(const CommandDeclaration& command) {
  return absl::StrCat("\\fBloci ", Escape(command.name), "\\fR ", Escape(command.usage), "\n");
}

std::string ExitStatus() {
  std::string roff = ".SH EXIT STATUS\n";
  for (const ExitCodeDeclaration& exit : kExitCodes) absl::StrAppend(&roff, ".TP\n.B ", exit.code, "\n", Line(exit.meaning));
  return roff;
}

constexpr char kEnvironment[] =
    ".SH ENVIRONMENT\n"
    ".TP\n.B LOCI_SERVER\nThe server, as HOST:PORT, where \\fB\\-\\-server\\fR is not given.\n"
    ".TP\n.B GRPC_VERBOSITY\nDEBUG, INFO or ERROR turns the log of gRPC on, on standard error; by default it is off.\n";

}  // namespace

std::string ManualPage(const CliDeclaration& declaration, std::string_view version) {
  std::string roff = Header("loci", version);
  absl::StrAppend(&roff,
                  ".SH NAME\nloci \\- ask, build, check and swap the passage stores of a Loci server\n"
                  ".SH SYNOPSIS\n\\fBloci\\fR \\fICOMMAND\\fR [\\fIarguments\\fR] [\\fB\\-\\-server\\fR \\fIHOST:PORT\\fR] "
                  "[\\fB\\-o\\fR table|json] [\\fB\\-\\-timeout\\fR \\fITIME\\fR]\n"
                  ".SH DESCRIPTION\n"
                  "A Loci server keeps passages and their vectors in stores, and finds those that are nearest to a query.\n"
                  "Every command asks one server, by gRPC.\n"
                  "Results go to standard output, as a table or as the response message in JSON; all else goes to standard error.\n"
                  ".SH OPTIONS\nThese are taken by every command.\n",
                  Flags(declaration.global_flags), ".SH COMMANDS\n");
  for (const CommandDeclaration& command : declaration.commands) {
    absl::StrAppend(&roff, ".SS ", Escape(command.name), "\n", Synopsis(command), ".PP\n", Line(command.summary + "."),
                    Paragraphs(command.details), Arguments(command), Flags(command.flags), ".PP\nExamples:\n", Verbatim(command.examples));
  }
  return absl::StrCat(roff, ExitStatus(), kEnvironment);
}

std::string CommandManualPage(const CliDeclaration& declaration, const CommandDeclaration& command, std::string_view version) {
  const std::string page = absl::StrCat("loci-", absl::StrReplaceAll(command.name, {{" ", "-"}}));
  std::string summary = command.summary;
  summary[0] = absl::ascii_tolower(summary[0]);
  return absl::StrCat(Header(page, version), ".SH NAME\n", Escape(page), " \\- ", Escape(summary), "\n.SH SYNOPSIS\n", Synopsis(command),
                      ".SH DESCRIPTION\n", Line(command.summary + "."), Paragraphs(command.details), ".SH OPTIONS\n", Arguments(command),
                      Flags(command.flags), ".PP\nTaken by every command:\n", Flags(declaration.global_flags), ".SH EXAMPLES\n",
                      Verbatim(command.examples), ExitStatus(), kEnvironment, ".SH SEE ALSO\n.BR loci (1)\n");
}

}  // namespace loci
