// Strict command-line flags of one command: every argument is either declared here or an error.
//
//   FlagSet flags;
//   flags.Positional("STORE", &store, "Name of the store.");
//   flags.Int("top-k", &top_k, 1, 10000, "Passages a query.");
//   LOCI_RETURN_IF_ERROR(flags.Parse({"movies", "--top-k=5"}));
#ifndef LOCI_CLIENTS_CLI_FLAGS_H_
#define LOCI_CLIENTS_CLI_FLAGS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace loci {

// Flags are "--name VALUE", "--name=VALUE", "-o VALUE" or, for booleans, "--name" and "--name=true|false". "--" ends them; "-" alone
// is a positional. Flags and positionals may be mixed. A flag given twice, an unknown one, a value out of range, a missing or a
// surplus positional are INVALID_ARGUMENT naming it.
//
// The pointers are borrowed and must outlive the set; what they hold when declared is the default, and printed as such.
// Used by one thread: the one that parses.
class FlagSet {
 public:
  // Positionals are filled in the order of their declaration, one that is not required only where those behind it get theirs; a list comes last and takes the rest, at least `min_count`.
  void Positional(std::string name, std::string* value, std::string help, bool required = true);
  void PositionalList(std::string name, std::vector<std::string>* values, std::string help, int min_count);
  void PositionalChoice(std::string name, std::string* value, std::vector<std::string> choices, std::string help);  // Required.

  void String(std::string name, std::string* value, std::string placeholder, std::string help, char short_name = 0);
  void Choice(std::string name, std::string* value, std::vector<std::string> choices, std::string help, char short_name = 0);
  void Int(std::string name, int64_t* value, int64_t min, int64_t max, std::string help);  // Inclusive range.
  void Double(std::string name, double* value, double min, double max, std::string help);  // Inclusive range, finite.
  void Duration(std::string name, int64_t* value_ms, std::string help);  // "250ms", "10s", "2m", "1h", or a number of seconds.
  void Bool(std::string name, bool* value, std::string help, char short_name = 0);
  // Flags declared from here on are listed under this heading in Help().
  void Section(std::string heading);

  absl::Status Parse(const std::vector<std::string>& args);
  // Whether the last Parse() met the flag.
  bool WasGiven(std::string_view name) const;

  // What was declared, for help, completion and manual pages.
  struct Declaration {
    std::string name;
    char short_name = 0;
    std::string placeholder;  // Empty for booleans.
    std::string help;
    std::string default_text;  // Empty where there is none worth telling.
    std::string section;
    std::vector<std::string> choices;  // Of Choice().
  };
  struct PositionalDeclaration {
    std::string name;
    std::string help;
    bool is_list = false;
    bool required = false;
    std::vector<std::string> choices;  // Of PositionalChoice().
  };
  std::vector<Declaration> FlagDeclarations() const;
  std::vector<PositionalDeclaration> PositionalDeclarations() const;

  // "STORE QUERY [flags]".
  std::string Usage() const;
  // One line a positional and flag, under their headings.
  std::string Help() const;

 private:
  struct Flag : Declaration {
    std::function<absl::Status(const std::string& value)> set;
    bool given = false;
  };
  struct PositionalArgument {
    std::string name;
    std::string help;
    std::string* value = nullptr;
    std::vector<std::string>* values = nullptr;
    int min_count = 0;
    std::vector<std::string> choices = {};
  };

  Flag* Find(std::string_view name);
  Flag& Add(std::string name, char short_name, std::string placeholder, std::string help, std::string default_text);
  absl::Status UnknownFlag(std::string_view name) const;
  absl::Status AssignPositionals(const std::vector<std::string>& given);

  std::vector<Flag> flags_;
  std::vector<PositionalArgument> positionals_;
  std::string section_ = "Flags";
};

// Milliseconds of "250ms", "10s", "1.5m", "1h" or "10" (seconds); INVALID_ARGUMENT otherwise, or beyond a year.
absl::Status ParseDurationMs(std::string_view text, int64_t* duration_ms);

// The candidate that `word` is most likely a misspelling of, or empty.
std::string NearestWord(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_FLAGS_H_
