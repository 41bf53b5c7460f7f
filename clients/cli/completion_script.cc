#include "clients/cli/completion_script.h"

#include <map>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/strings.h"

namespace loci {
namespace {

// Within single quotes of either shell.
std::string Quote(std::string_view text) {
  std::string quoted = "'";
  for (const char c : text) {
    if (c == '\'') {
      quoted += "'\\''";
    } else {
      quoted += c;
    }
  }
  return quoted + "'";
}

// What a value is completed with: "file", "store", "choice" or "none".
std::string KindOfPlaceholder(std::string_view placeholder) {
  return placeholder == "FILE" || placeholder == "FILE|DIR" ? "file" : placeholder == "STORE" ? "store" : "none";
}

std::string KindOfFlag(const FlagSet::Declaration& flag) {
  return flag.choices.empty() ? KindOfPlaceholder(flag.placeholder) : "choice";
}

std::vector<std::string> Spellings(const FlagSet::Declaration& flag) {
  std::vector<std::string> spellings = {"--" + flag.name};
  if (flag.short_name != 0) spellings.push_back(std::string("-") + flag.short_name);
  return spellings;
}

// First words, with the words that may follow: {"get", {"stores", ...}}, {"search", {}}.
std::map<std::string, std::vector<std::string>> Verbs(const CliDeclaration& declaration) {
  std::map<std::string, std::vector<std::string>> verbs;
  for (const CommandDeclaration& command : declaration.commands) {
    const size_t space = command.name.find(' ');
    std::vector<std::string>& nouns = verbs[command.name.substr(0, space)];
    if (space != std::string::npos) nouns.push_back(command.name.substr(space + 1));
  }
  return verbs;
}

// The lines of a bash `case` that set `flags`, and the kind and words of a flag's value.
std::string BashFlagCases(const std::vector<FlagSet::Declaration>& flags) {
  std::string text;
  for (const FlagSet::Declaration& flag : flags) {
    if (flag.placeholder.empty()) continue;
    absl::StrAppend(&text, "        ", absl::StrJoin(Spellings(flag), "|"), ") kind=", KindOfFlag(flag));
    if (!flag.choices.empty()) absl::StrAppend(&text, "; words=", Quote(absl::StrJoin(flag.choices, " ")));
    absl::StrAppend(&text, ";;\n");
  }
  return text;
}

std::string FlagNames(const std::vector<FlagSet::Declaration>& flags) {
  std::vector<std::string> names;
  for (const FlagSet::Declaration& flag : flags) names.push_back("--" + flag.name);
  return absl::StrJoin(names, " ");
}

constexpr char kBashHead[] = R"sh(# Completion of loci for bash. Written by `loci completion bash`; load it with
#   source <(loci completion bash)

# Sets `kind` (none where $2 is a flag without a value or no flag of the command $1) and `words`.
_loci_flag() {
  kind='' words=''
  case $1 in
)sh";

constexpr char kBashBody[] = R"sh(
_loci() {
  local cur word line=() i program=${COMP_WORDS[0]}
  local verb='' command='' expected='' server='' position=0 ended='' kind='' words='' flags='' nouns='' positionals=()
  COMPREPLY=()
  # The line's words as they were before bash cut them at ":" (of HOST:PORT).
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    if [[ ${#line[@]} -gt 0 && ($word == :* || ${line[-1]} == *:) ]]; then line[-1]+=$word; else line+=("$word"); fi
  done
  cur=${COMP_WORDS[COMP_CWORD]}
  [[ $cur == '=' ]] && cur=''
  for word in "${line[@]}"; do
    if [[ -n $expected ]]; then
      [[ $word == '=' ]] && continue
      [[ $expected == --server ]] && server=$word
      expected=''
    elif [[ -z $ended && $word == -- ]]; then
      ended=1
    elif [[ -z $ended && $word == -?* ]]; then
      _loci_flag "$command" "$word"
      [[ -n $kind ]] && expected=$word
    elif [[ -z $command ]]; then
      _loci_nouns "$verb$word"
      if [[ -n $nouns && -z $verb ]]; then verb="$word "; else command="$verb$word"; fi
    else
      ((++position))
    fi
  done
  # "--server 127.0.0.1:" is one value still.
  if [[ $expected == '' && ($cur == :* || (${#line[@]} -gt 0 && ${line[-1]} == *:)) ]]; then return; fi

  kind='' words=''
  if [[ -n $expected ]]; then
    _loci_flag "$command" "$expected"
  elif [[ -z $command ]]; then
    _loci_nouns "${verb% }"
    if [[ -n $verb ]]; then words=$nouns; else words=$(_loci_verbs); fi
    [[ $cur == -* ]] && words=$(_loci_flag_names '')
  elif [[ -z $ended && $cur == -* ]]; then
    words=$(_loci_flag_names "$command")
  else
    _loci_positionals "$command"
    if ((position < ${#positionals[@]})); then
      kind=${positionals[position]}
    elif [[ ${#positionals[@]} -gt 0 && ${positionals[-1]} == *+ ]]; then
      kind=${positionals[-1]}
    fi
    kind=${kind%+}
    if [[ $kind == choice:* ]]; then words=${kind#choice:} words=${words//,/ } kind=choice; fi
  fi
  case $kind in
    file) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
    store)
      words=$("$program" get stores ${server:+--server "$server"} --timeout 1s -o json 2>/dev/null |
        sed -n 's/^ *"store": "\([a-z0-9_-]*\)",*$/\1/p')
      mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur") ;;
    *) [[ -n $words ]] && mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur") ;;
  esac
}
complete -F _loci loci
)sh";

// What zsh's _arguments takes as an explanation.
std::string ZshText(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

std::string ZshAction(const std::string& kind, const std::vector<std::string>& choices) {
  if (kind == "choice") return absl::StrCat("(", absl::StrJoin(choices, " "), ")");
  return kind == "file" ? "_files" : kind == "store" ? "_loci_stores" : " ";
}

std::string ZshFlagSpecs(const std::vector<FlagSet::Declaration>& flags, const std::string& indent) {
  std::string text;
  for (const FlagSet::Declaration& flag : flags) {
    const std::vector<std::string> spellings = Spellings(flag);
    for (const std::string& spelling : spellings) {
      const bool is_long = spelling.size() > 2;
      std::string spec = absl::StrCat("(", absl::StrJoin(spellings, " "), ")", spelling);
      if (!flag.placeholder.empty()) absl::StrAppend(&spec, is_long ? "=" : "+");
      absl::StrAppend(&spec, "[", ZshText(flag.help), "]");
      if (!flag.placeholder.empty()) {
        absl::StrAppend(&spec, ":", ZshText(flag.name), ":", ZshAction(KindOfFlag(flag), flag.choices));
      }
      absl::StrAppend(&text, indent, Quote(spec), " \\\n");
    }
  }
  return text;
}

}  // namespace

std::string BashCompletionScript(const CliDeclaration& declaration) {
  std::string text = kBashHead;
  const auto own_flags = [&](std::string_view indent) {
    for (const CommandDeclaration& command : declaration.commands) {
      const std::string cases = BashFlagCases(command.flags);
      if (cases.empty()) continue;
      absl::StrAppend(&text, AbslView(indent), Quote(command.name), ")\n      case $2 in\n", cases, "      esac ;;\n");
    }
  };
  own_flags("    ");
  absl::StrAppend(&text, "  esac\n  if [[ -z $kind ]]; then\n      case $2 in\n", BashFlagCases(declaration.global_flags),
                  "      esac\n  fi\n}\n\n_loci_flag_names() {\n  case $1 in\n");
  for (const CommandDeclaration& command : declaration.commands) {
    absl::StrAppend(&text, "    ", Quote(command.name), ") echo ", Quote(FlagNames(command.flags)), " ;;\n");
  }
  absl::StrAppend(&text, "  esac\n  echo ", Quote(FlagNames(declaration.global_flags)), "\n}\n\n");

  const auto verbs = Verbs(declaration);
  std::vector<std::string> first_words;
  absl::StrAppend(&text, "_loci_nouns() {\n  nouns=''\n  case $1 in\n");
  for (const auto& [verb, nouns] : verbs) {
    first_words.push_back(verb);
    if (!nouns.empty()) absl::StrAppend(&text, "    ", verb, ") nouns=", Quote(absl::StrJoin(nouns, " ")), " ;;\n");
  }
  absl::StrAppend(&text, "  esac\n}\n\n_loci_verbs() {\n  echo ", Quote(absl::StrJoin(first_words, " ")),
                  "\n}\n\n# What each argument is; a + stands for more of it.\n_loci_positionals() {\n  positionals=()\n  case $1 in\n");
  for (const CommandDeclaration& command : declaration.commands) {
    std::vector<std::string> kinds;
    for (const FlagSet::PositionalDeclaration& positional : command.positionals) {
      std::string kind = KindOfPlaceholder(positional.name);
      if (!positional.choices.empty()) kind = absl::StrCat("choice:", absl::StrJoin(positional.choices, ","));
      kinds.push_back(Quote(absl::StrCat(kind, positional.is_list ? "+" : "")));
    }
    if (!kinds.empty()) absl::StrAppend(&text, "    ", Quote(command.name), ") positionals=(", absl::StrJoin(kinds, " "), ") ;;\n");
  }
  return absl::StrCat(text, "  esac\n}\n", kBashBody);
}

std::string ZshCompletionScript(const CliDeclaration& declaration) {
  std::string text =
      "#compdef loci\n"
      "# Completion of loci for zsh. Written by `loci completion zsh`; put it into a folder of $fpath as _loci, or load it with\n"
      "#   source <(loci completion zsh)\n\n"
      "_loci_stores() {\n"
      "  local -a stores\n"
      "  stores=(${(f)\"$(${loci_program:-loci} get stores ${opt_args[--server]:+--server} ${opt_args[--server]} --timeout 1s -o json "
      "2>/dev/null |\n"
      "    sed -n 's/^ *\"store\": \"\\([a-z0-9_-]*\\)\",*$/\\1/p')\"})\n"
      "  compadd -a stores\n"
      "}\n\n"
      "_loci() {\n"
      "  local loci_program=$words[1] command curcontext=$curcontext\n"
      "  local -A opt_args\n"
      "  local -a verbs nouns line\n"
      "  integer at=2\n"
      "  # Flags of every command may stand before it.\n"
      "  while (( at < CURRENT )) && [[ $words[at] == -* ]]; do\n"
      "    case $words[at] in\n"
      "      --server|--output|-o|--timeout) (( at += 2 )) ;;\n"
      "      *) (( at += 1 )) ;;\n"
      "    esac\n"
      "  done\n"
      "  if (( at >= CURRENT )); then\n"
      "    verbs=(\n";
  const auto verbs = Verbs(declaration);
  for (const auto& [verb, nouns] : verbs) {
    std::string summary = absl::StrJoin(nouns, ", ");
    for (const CommandDeclaration& command : declaration.commands) {
      if (command.name == verb) summary = command.summary;
    }
    absl::StrAppend(&text, "      ", Quote(absl::StrCat(verb, ":", ZshText(summary))), "\n");
  }
  absl::StrAppend(&text, "    )\n    _describe command verbs\n    _arguments \\\n", ZshFlagSpecs(declaration.global_flags, "      "),
                  "      && return\n    return\n  fi\n  command=$words[at]\n  nouns=()\n  case $command in\n");
  for (const auto& [verb, nouns] : verbs) {
    if (!nouns.empty()) absl::StrAppend(&text, "    ", verb, ") nouns=(", absl::StrJoin(nouns, " "), ") ;;\n");
  }
  absl::StrAppend(&text,
                  "  esac\n"
                  "  if (( $#nouns )); then\n"
                  "    if (( at + 1 == CURRENT )); then\n"
                  "      compadd -a nouns\n"
                  "      return\n"
                  "    fi\n"
                  "    (( at += 1 ))\n"
                  "    command+=\" $words[at]\"\n"
                  "  fi\n"
                  "  words=(\"$command\" \"${(@)words[at+1,-1]}\")\n"
                  "  (( CURRENT -= at - 1 ))\n"
                  "  case $command in\n");
  for (const CommandDeclaration& command : declaration.commands) {
    absl::StrAppend(&text, "    ", Quote(command.name), ")\n      _arguments -s \\\n", ZshFlagSpecs(command.flags, "        "),
                    ZshFlagSpecs(declaration.global_flags, "        "));
    int number = 0;
    for (const FlagSet::PositionalDeclaration& positional : command.positionals) {
      const std::string kind = positional.choices.empty() ? KindOfPlaceholder(positional.name) : "choice";
      const std::string place = positional.is_list ? "*" : absl::StrCat(++number);
      absl::StrAppend(&text, "        ",
                      Quote(absl::StrCat(place, positional.is_list || positional.required ? ":" : "::", ZshText(positional.name), ":",
                                         ZshAction(kind, positional.choices))),
                      " \\\n");
    }
    absl::StrAppend(&text, "        && return ;;\n");
  }
  return absl::StrCat(text,
                      "  esac\n}\n\n"
                      "# Read as a file of $fpath it is the function's body; sourced, it tells zsh of it.\n"
                      "if [[ $funcstack[1] == _loci ]]; then\n  _loci \"$@\"\nelse\n  compdef _loci loci\nfi\n");
}

}  // namespace loci
