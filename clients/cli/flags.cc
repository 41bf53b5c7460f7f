#include "clients/cli/flags.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "base/strings.h"

namespace loci {
namespace {

int EditDistance(std::string_view a, std::string_view b) {
  std::vector<int> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

std::string FormatMs(int64_t ms) {
  if (ms == 0) return "";
  if (ms % 1000 == 0) return absl::StrCat(ms / 1000, "s");
  return absl::StrCat(ms, "ms");
}

}  // namespace

absl::Status ParseDurationMs(std::string_view text, int64_t* duration_ms) {
  const struct {
    std::string_view suffix;
    double factor_ms;
  } kUnits[] = {{"ms", 1}, {"s", 1000}, {"m", 60e3}, {"h", 3600e3}, {"", 1000}};
  for (const auto& unit : kUnits) {
    if (!text.ends_with(unit.suffix)) continue;
    const std::string_view digits = text.substr(0, text.size() - unit.suffix.size());
    double number = 0;
    if (digits.empty() || digits.find_first_not_of("0123456789.") != std::string_view::npos ||
        !absl::SimpleAtod(AbslView(digits), &number)) {
      break;
    }
    const double ms = number * unit.factor_ms;
    if (!(ms <= 365.0 * 24 * 3600e3)) break;
    *duration_ms = static_cast<int64_t>(std::ceil(ms));  // Nothing but 0 is never.
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", AbslView(text), "\" is not a duration; write 250ms, 10s, 2m or 1h, at most a year"));
}

std::string NearestWord(std::string_view word, const std::vector<std::string>& candidates) {
  std::string nearest;
  int nearest_distance = std::min<int>(3, 1 + static_cast<int>(word.size()) / 3);
  for (const std::string& candidate : candidates) {
    if (candidate.size() > word.size() + 8 || word.size() > 64) continue;
    const int distance = EditDistance(word, candidate);
    if (distance < nearest_distance) {
      nearest = candidate;
      nearest_distance = distance;
    }
  }
  return nearest;
}

void FlagSet::Section(std::string heading) { section_ = std::move(heading); }

FlagSet::Flag& FlagSet::Add(std::string name, char short_name, std::string placeholder, std::string help,
                            std::string default_text) {
  Flag& flag = flags_.emplace_back();
  flag.name = std::move(name);
  flag.short_name = short_name;
  flag.placeholder = std::move(placeholder);
  flag.help = std::move(help);
  flag.default_text = std::move(default_text);
  flag.section = section_;
  return flag;
}

void FlagSet::Positional(std::string name, std::string* value, std::string help, bool required) {
  positionals_.push_back({std::move(name), std::move(help), value, nullptr, required ? 1 : 0});
}

void FlagSet::PositionalChoice(std::string name, std::string* value, std::vector<std::string> choices, std::string help) {
  positionals_.push_back({std::move(name), std::move(help), value, nullptr, 1, std::move(choices)});
}

void FlagSet::PositionalList(std::string name, std::vector<std::string>* values, std::string help, int min_count) {
  positionals_.push_back({std::move(name), std::move(help), nullptr, values, min_count});
}

void FlagSet::String(std::string name, std::string* value, std::string placeholder, std::string help, char short_name) {
  Add(std::move(name), short_name, std::move(placeholder), std::move(help), *value).set = [value](const std::string& text) {
    *value = text;
    return absl::OkStatus();
  };
}

void FlagSet::Choice(std::string name, std::string* value, std::vector<std::string> choices, std::string help, char short_name) {
  std::string placeholder = absl::StrJoin(choices, "|");
  Flag& flag = Add(std::move(name), short_name, placeholder, std::move(help), *value);
  flag.choices = choices;
  flag.set = [value, choices = std::move(choices), placeholder](const std::string& text) -> absl::Status {
    if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
      return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is not one of ", placeholder));
    }
    *value = text;
    return absl::OkStatus();
  };
}

void FlagSet::Int(std::string name, int64_t* value, int64_t min, int64_t max, std::string help) {
  Add(std::move(name), 0, "N", std::move(help), *value == 0 ? "" : absl::StrCat(*value)).set =
      [value, min, max](const std::string& text) -> absl::Status {
    int64_t number = 0;
    if (!absl::SimpleAtoi(text, &number)) return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is not a whole number"));
    if (number < min || number > max) {
      return absl::InvalidArgumentError(absl::StrCat(number, " is outside ", min, " to ", max));
    }
    *value = number;
    return absl::OkStatus();
  };
}

void FlagSet::Double(std::string name, double* value, double min, double max, std::string help) {
  Add(std::move(name), 0, "X", std::move(help), *value == 0 ? "" : absl::StrCat(*value)).set =
      [value, min, max](const std::string& text) -> absl::Status {
    double number = 0;
    if (!absl::SimpleAtod(text, &number)) return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is not a number"));
    if (!(number >= min && number <= max)) {
      return absl::InvalidArgumentError(absl::StrCat(text, " is outside ", min, " to ", max));
    }
    *value = number;
    return absl::OkStatus();
  };
}

void FlagSet::Duration(std::string name, int64_t* value_ms, std::string help) {
  Add(std::move(name), 0, "TIME", std::move(help), FormatMs(*value_ms)).set = [value_ms](const std::string& text) {
    return ParseDurationMs(text, value_ms);
  };
}

void FlagSet::Bool(std::string name, bool* value, std::string help, char short_name) {
  Add(std::move(name), short_name, "", std::move(help), *value ? "true" : "").set =
      [value](const std::string& text) -> absl::Status {
    if (text != "true" && text != "false") {
      return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is neither true nor false"));
    }
    *value = text == "true";
    return absl::OkStatus();
  };
}

FlagSet::Flag* FlagSet::Find(std::string_view name) {
  for (Flag& flag : flags_) {
    if (flag.name == name) return &flag;
  }
  return nullptr;
}

bool FlagSet::WasGiven(std::string_view name) const {
  for (const Flag& flag : flags_) {
    if (flag.name == name) return flag.given;
  }
  return false;
}

absl::Status FlagSet::UnknownFlag(std::string_view name) const {
  std::vector<std::string> names;
  for (const Flag& flag : flags_) names.push_back(flag.name);
  const std::string nearest = NearestWord(name, names);
  return absl::InvalidArgumentError(
      absl::StrCat("unknown flag --", AbslView(name), nearest.empty() ? "" : absl::StrCat("; did you mean --", nearest, "?")));
}

absl::Status FlagSet::AssignPositionals(const std::vector<std::string>& given) {
  size_t next = 0;
  for (const PositionalArgument& positional : positionals_) {
    const size_t left = given.size() - next;
    size_t later_count = 0;  // Arguments that those behind it need.
    for (const PositionalArgument* later = &positional + 1; later != positionals_.data() + positionals_.size(); ++later) {
      later_count += static_cast<size_t>(later->min_count);
    }
    if (positional.min_count == 0 && positional.values == nullptr && left <= later_count) continue;
    if (left < static_cast<size_t>(positional.min_count)) {
      return absl::InvalidArgumentError(absl::StrCat("argument ", positional.name, " is missing"));
    }
    if (positional.values != nullptr) {
      positional.values->assign(given.begin() + next, given.end());
      next = given.size();
    } else if (left > 0) {
      const std::vector<std::string>& choices = positional.choices;
      if (!choices.empty() && std::find(choices.begin(), choices.end(), given[next]) == choices.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat("argument ", positional.name, ": \"", given[next], "\" is not one of ", absl::StrJoin(choices, "|")));
      }
      *positional.value = given[next++];
    }
  }
  if (next < given.size()) {
    return absl::InvalidArgumentError(absl::StrCat("surplus argument \"", given[next], "\"; quote what contains spaces"));
  }
  return absl::OkStatus();
}

absl::Status FlagSet::Parse(const std::vector<std::string>& args) {
  for (Flag& flag : flags_) flag.given = false;
  std::vector<std::string> positionals;
  bool flags_ended = false;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (flags_ended || arg.size() < 2 || arg[0] != '-') {
      positionals.push_back(arg);
      continue;
    }
    if (arg == "--") {
      flags_ended = true;
      continue;
    }
    Flag* flag = nullptr;
    std::string value;
    bool has_value = false;
    if (arg[1] == '-') {
      const size_t equals = arg.find('=');
      const std::string name = arg.substr(2, equals == std::string::npos ? equals : equals - 2);
      flag = Find(name);
      if (flag == nullptr) return UnknownFlag(name);
      if (equals != std::string::npos) {
        value = arg.substr(equals + 1);
        has_value = true;
      }
    } else {
      for (Flag& candidate : flags_) {
        if (candidate.short_name == arg[1]) flag = &candidate;
      }
      if (flag == nullptr) {
        return absl::InvalidArgumentError(
            absl::StrCat("unknown flag ", arg, "; write \"--\" before an argument that begins with a dash"));
      }
      if (arg.size() > 2) {
        value = arg.substr(arg[2] == '=' ? 3 : 2);
        has_value = true;
      }
    }
    if (flag->given) return absl::InvalidArgumentError(absl::StrCat("flag --", flag->name, " is given twice"));
    if (!has_value) {
      if (flag->placeholder.empty()) {
        value = "true";
      } else if (i + 1 < args.size()) {
        value = args[++i];
      } else {
        return absl::InvalidArgumentError(absl::StrCat("flag --", flag->name, " needs a value (", flag->placeholder, ")"));
      }
    }
    if (const absl::Status status = flag->set(value); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("flag --", flag->name, ": ", status.message()));
    }
    flag->given = true;
  }
  return AssignPositionals(positionals);
}

std::vector<FlagSet::Declaration> FlagSet::FlagDeclarations() const { return {flags_.begin(), flags_.end()}; }

std::vector<FlagSet::PositionalDeclaration> FlagSet::PositionalDeclarations() const {
  std::vector<PositionalDeclaration> declarations;
  for (const PositionalArgument& positional : positionals_) {
    declarations.push_back({positional.name, positional.help, positional.values != nullptr, positional.min_count > 0, positional.choices});
  }
  return declarations;
}

std::string FlagSet::Usage() const {
  std::string usage;
  for (const PositionalArgument& positional : positionals_) {
    const std::string name = positional.values != nullptr ? positional.name + "..." : positional.name;
    absl::StrAppend(&usage, positional.min_count > 0 ? name : absl::StrCat("[", name, "]"), " ");
  }
  return usage + "[flags]";
}

std::string FlagSet::Help() const {
  struct Line {
    std::string section, left, right;
  };
  std::vector<Line> lines;
  for (const PositionalArgument& positional : positionals_) lines.push_back({"Arguments", positional.name, positional.help});
  for (const Flag& flag : flags_) {
    std::string left = flag.short_name != 0 ? absl::StrCat("-", std::string(1, flag.short_name), ", --", flag.name)
                                            : absl::StrCat("--", flag.name);
    if (!flag.placeholder.empty()) absl::StrAppend(&left, " ", flag.placeholder);
    std::string right = flag.help;
    if (!flag.default_text.empty()) absl::StrAppend(&right, " Default ", flag.default_text, ".");
    lines.push_back({flag.section, std::move(left), std::move(right)});
  }
  constexpr size_t kLeftWidth = 26;
  std::string help, section;
  for (const Line& line : lines) {
    if (line.section != section) {
      section = line.section;
      absl::StrAppend(&help, help.empty() ? "" : "\n", section, ":\n");
    }
    absl::StrAppend(&help, "  ", line.left);
    if (line.left.size() > kLeftWidth) {
      absl::StrAppend(&help, "\n", std::string(kLeftWidth + 4, ' '));
    } else {
      absl::StrAppend(&help, std::string(kLeftWidth + 2 - line.left.size(), ' '));
    }
    absl::StrAppend(&help, line.right, "\n");
  }
  return help;
}

}  // namespace loci
