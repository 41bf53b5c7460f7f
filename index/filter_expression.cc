#include "index/filter_expression.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/utf8.h"

namespace loci {
namespace {

constexpr double kTwoTo63 = 9223372036854775808.0;
constexpr size_t kMaxShownBytes = 40;  // Of what was found, in a message.

absl::Status BadFilter(size_t position, std::string_view expected, std::string_view found) {
  return ErrorWithReason(
      absl::InvalidArgumentError(absl::StrCat("filter has ", AbslView(found), " at byte ", position, "; expected ", AbslView(expected))),
      "INVALID_ARGUMENT", {{"field", "filter"}, {"position", absl::StrCat(position)}, {"expected", std::string(expected)}});
}

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool IsNameCharacter(char c) { return IsNameStart(c) || IsDigit(c) || c == '.'; }

enum class TokenKind { kEnd, kName, kQuotedName, kString, kNumber, kOperator, kOpen, kClose, kComma, kAnd, kOr, kNot, kIn, kHas, kTrue, kFalse };

struct Token {
  TokenKind kind = TokenKind::kEnd;
  size_t begin = 0, end = 0;  // In the filter.
  std::string text = {};      // Of a name or string, without quotes and escapes.
  FilterValue number = {};    // Of kNumber.
};

TokenKind WordKind(std::string_view word) {
  static constexpr std::pair<std::string_view, TokenKind> kWords[] = {
      {"and", TokenKind::kAnd}, {"or", TokenKind::kOr},     {"not", TokenKind::kNot},    {"in", TokenKind::kIn},
      {"has", TokenKind::kHas}, {"true", TokenKind::kTrue}, {"false", TokenKind::kFalse}};
  if (word.size() > 5) return TokenKind::kName;
  std::string lower(word);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  for (const auto& [name, kind] : kWords) {
    if (lower == name) return kind;
  }
  return TokenKind::kName;
}

void AppendUtf8(uint32_t character, std::string* out) {
  if (character < 0x80) {
    out->push_back(static_cast<char>(character));
  } else if (character < 0x800) {
    out->push_back(static_cast<char>(0xC0 | (character >> 6)));
    out->push_back(static_cast<char>(0x80 | (character & 0x3F)));
  } else {
    if (character < 0x10000) {
      out->push_back(static_cast<char>(0xE0 | (character >> 12)));
    } else {
      out->push_back(static_cast<char>(0xF0 | (character >> 18)));
      out->push_back(static_cast<char>(0x80 | ((character >> 12) & 0x3F)));
    }
    out->push_back(static_cast<char>(0x80 | ((character >> 6) & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (character & 0x3F)));
  }
}

std::string QuotedText(std::string_view text, char quote) {
  std::string result(1, quote);
  for (const char c : text) {
    if (c == '\\' || c == quote) result.push_back('\\');
    result.push_back(c);
  }
  result.push_back(quote);
  return result;
}

std::string ValueText(const FilterValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return QuotedText(*text, '"');
  if (const auto* integer = std::get_if<int64_t>(&value)) return absl::StrCat(*integer);
  if (const auto* truth = std::get_if<bool>(&value)) return *truth ? "true" : "false";
  char buffer[40];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof(buffer), std::get<double>(value));
  std::string text(buffer, end);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string FieldText(const FilterField& field) {
  switch (field.source) {
    case FieldSource::kId: return "id";
    case FieldSource::kDocumentId: return "document_id";
    case FieldSource::kChunkIndex: return "chunk_index";
    case FieldSource::kMetadata: break;
  }
  return QuotedText(field.name, '`');
}

}  // namespace

int CompareExactly(int64_t a, double b) {
  if (b >= kTwoTo63) return -1;
  if (b < -kTwoTo63) return 1;
  const double whole = std::trunc(b);
  const int64_t integer = static_cast<int64_t>(whole);
  if (a != integer) return a < integer ? -1 : 1;
  return b > whole ? -1 : b < whole ? 1 : 0;
}

// Recursive descent, one token ahead. Used by one thread: Parse's.
class FilterParser {
 public:
  explicit FilterParser(std::string_view text) : text_(text), expression_(std::make_shared<FilterExpression>()) {}

  absl::StatusOr<std::shared_ptr<const FilterExpression>> Parse() {
    LOCI_RETURN_IF_ERROR(Advance());
    LOCI_ASSIGN_OR_RETURN(expression_->root_, Disjunction(0));
    if (token_.kind != TokenKind::kEnd) return Unexpected("\"and\", \"or\" or the end");
    return std::shared_ptr<const FilterExpression>(std::move(expression_));
  }

 private:
  using Kind = FilterExpression::Kind;
  using Node = FilterExpression::Node;

  absl::Status Unexpected(std::string_view expected) const {
    if (token_.kind == TokenKind::kEnd) return BadFilter(token_.begin, expected, "its end");
    const std::string_view found = text_.substr(token_.begin, token_.end - token_.begin);
    if (found.size() <= kMaxShownBytes) return BadFilter(token_.begin, expected, absl::StrCat("'", AbslView(found), "'"));
    return BadFilter(token_.begin, expected, absl::StrCat("'", AbslView(found.substr(0, Utf8Prefix(found, kMaxShownBytes))), "...'"));
  }

  int Add(Node node) {
    expression_->nodes_.push_back(std::move(node));
    return expression_->node_count() - 1;
  }
  int Negated(int child) { return Add({.kind = Kind::kNot, .children = {child}}); }

  // --- Tokens ---

  absl::Status Advance() {
    size_t at = token_.end;
    while (at < text_.size() && IsSpace(text_[at])) ++at;
    token_ = Token{.kind = TokenKind::kEnd, .begin = at, .end = at};
    if (at == text_.size()) return absl::OkStatus();
    const char c = text_[at];
    const auto take = [&](TokenKind kind, size_t bytes) {
      token_.kind = kind;
      token_.end = at + bytes;
      return absl::OkStatus();
    };
    switch (c) {
      case '(': return take(TokenKind::kOpen, 1);
      case ')': return take(TokenKind::kClose, 1);
      case ',': return take(TokenKind::kComma, 1);
      case '"':
      case '\'': return Quoted(TokenKind::kString);
      case '`': return Quoted(TokenKind::kQuotedName);
      case '=':
      case '<':
      case '>':
      case '!': {
        const bool equal = at + 1 < text_.size() && text_[at + 1] == '=';
        if (c != '!' || equal) return take(TokenKind::kOperator, equal ? 2 : 1);
        break;
      }
      default: break;
    }
    if (IsNameStart(c)) {
      size_t end = at;
      while (end < text_.size() && IsNameCharacter(text_[end])) ++end;
      token_.text = text_.substr(at, end - at);
      return take(WordKind(token_.text), end - at);
    }
    if (IsDigit(c) || c == '-') return Number();
    size_t end = at + 1;
    while (end < text_.size() && (static_cast<uint8_t>(text_[end]) & 0xC0) == 0x80) ++end;
    token_.end = end;
    return BadFilter(at, "a name, a value, an operator or a parenthesis", absl::StrCat("'", AbslView(text_.substr(at, end - at)), "'"));
  }

  absl::Status Number() {
    size_t at = token_.begin;
    const auto digits = [&] {
      const size_t first = at;
      while (at < text_.size() && IsDigit(text_[at])) ++at;
      return at > first;
    };
    if (text_[at] == '-') ++at;
    const auto bad = [&](std::string_view expected) {
      if (at == text_.size()) return BadFilter(at, expected, "its end");
      size_t end = at + 1;
      while (end < text_.size() && (static_cast<uint8_t>(text_[end]) & 0xC0) == 0x80) ++end;
      return BadFilter(at, expected, absl::StrCat("'", AbslView(text_.substr(at, end - at)), "'"));
    };
    if (!digits()) return bad("a digit");
    bool integer = true;
    if (at < text_.size() && text_[at] == '.') {
      ++at;
      integer = false;
      if (!digits()) return bad("a digit");
    }
    if (at < text_.size() && (text_[at] == 'e' || text_[at] == 'E')) {
      ++at;
      integer = false;
      if (at < text_.size() && (text_[at] == '+' || text_[at] == '-')) ++at;
      if (!digits()) return bad("a digit");
    }
    if (at < text_.size() && IsNameCharacter(text_[at])) return bad("the end of the number");
    token_.kind = TokenKind::kNumber;
    token_.end = at;
    const char* const begin = text_.data() + token_.begin;
    const char* const end = text_.data() + at;
    if (integer) {
      int64_t value = 0;
      if (std::from_chars(begin, end, value).ec != std::errc()) return Unexpected("an integer of 64 bits; a larger number is written with a point");
      token_.number = value;
      return absl::OkStatus();
    }
    double value = 0;
    const std::from_chars_result parsed = std::from_chars(begin, end, value);
    if (parsed.ec == std::errc::result_out_of_range) {
      // Too small is zero; too large is refused.
      value = std::strtod(std::string(begin, end).c_str(), nullptr);
      if (std::isinf(value)) return Unexpected("a number within the range of a double");
    }
    token_.number = value;
    return absl::OkStatus();
  }

  absl::Status Quoted(TokenKind kind) {
    const size_t begin = token_.begin;
    const char quote = text_[begin];
    std::string value;
    size_t at = begin + 1;
    for (;;) {
      const size_t stop = std::min(text_.find(quote, at), text_.find('\\', at));
      if (stop == std::string_view::npos) return BadFilter(text_.size(), absl::StrCat("the closing ", std::string(1, quote)), "its end");
      value.append(text_.substr(at, stop - at));
      at = stop;
      if (text_[at] == quote) break;
      LOCI_RETURN_IF_ERROR(Escape(&at, &value));
    }
    token_.end = at + 1;
    if (kind == TokenKind::kQuotedName && value.empty()) return Unexpected("a name that is not empty");
    token_.kind = kind;
    token_.text = std::move(value);
    return absl::OkStatus();
  }

  // The number that 4 hex digits at `at` are.
  std::optional<uint32_t> HexDigits(size_t at) const {
    if (at + 4 > text_.size()) return std::nullopt;
    uint32_t number = 0;
    const char* const digits = text_.data() + at;
    const auto [end, error] = std::from_chars(digits, digits + 4, number, 16);
    if (error != std::errc() || end != digits + 4) return std::nullopt;
    return number;
  }

  // text_[*at] is the backslash.
  absl::Status Escape(size_t* at, std::string* value) const {
    const size_t begin = *at;
    const char c = begin + 1 < text_.size() ? text_[begin + 1] : '\0';
    *at += 2;
    switch (c) {
      case '\\':
      case '"':
      case '\'':
      case '`': value->push_back(c); return absl::OkStatus();
      case 'n': value->push_back('\n'); return absl::OkStatus();
      case 'r': value->push_back('\r'); return absl::OkStatus();
      case 't': value->push_back('\t'); return absl::OkStatus();
      case 'u': {
        std::optional<uint32_t> character = HexDigits(*at);
        *at += 4;
        if (character.has_value() && *character >= 0xD800 && *character < 0xDC00 && text_.substr(std::min(*at, text_.size()), 2) == "\\u") {
          // The first half of a surrogate pair: with the second it is one character.
          const std::optional<uint32_t> second = HexDigits(*at + 2);
          if (second.has_value() && *second >= 0xDC00 && *second <= 0xDFFF) {
            character = 0x10000 + ((*character - 0xD800) << 10) + (*second - 0xDC00);
            *at += 6;
          }
        }
        if (character.has_value() && (*character < 0xD800 || *character > 0xDFFF)) {
          AppendUtf8(*character, value);
          return absl::OkStatus();
        }
        return BadFilter(begin, "\\u with the 4 hex digits of a character, or two of a surrogate pair", "an escape that is none");
      }
      default: return BadFilter(begin, "\\\\, \\\", \\', \\`, \\n, \\r, \\t or \\uXXXX", "an escape that is none");
    }
  }

  // --- Grammar. Each is called with its first token in token_, and leaves the one after its last there. ---

  absl::StatusOr<int> Disjunction(int depth) { return Chain(depth, TokenKind::kOr); }

  // Conjunctions joined by "or", or terms joined by "and".
  absl::StatusOr<int> Chain(int depth, TokenKind word) {
    const bool is_or = word == TokenKind::kOr;
    std::vector<int> children;
    for (;;) {
      absl::StatusOr<int> child = is_or ? Chain(depth, TokenKind::kAnd) : Term(depth);
      LOCI_RETURN_IF_ERROR(child.status());
      children.push_back(*child);
      if (token_.kind != word) break;
      LOCI_RETURN_IF_ERROR(Advance());
    }
    if (children.size() == 1) return children[0];
    return Add({.kind = is_or ? Kind::kOr : Kind::kAnd, .children = std::move(children)});
  }

  absl::StatusOr<int> Term(int depth) {
    if (token_.kind != TokenKind::kNot && token_.kind != TokenKind::kOpen) return Condition();
    if (depth >= kMaxFilterDepth) return Unexpected(absl::StrCat("at most ", kMaxFilterDepth, " levels of parentheses and \"not\""));
    const bool is_not = token_.kind == TokenKind::kNot;
    LOCI_RETURN_IF_ERROR(Advance());
    if (is_not) {
      LOCI_ASSIGN_OR_RETURN(const int child, Term(depth + 1));
      return Negated(child);
    }
    LOCI_ASSIGN_OR_RETURN(const int inner, Disjunction(depth + 1));
    if (token_.kind != TokenKind::kClose) return Unexpected("\"and\", \"or\" or \")\"");
    LOCI_RETURN_IF_ERROR(Advance());
    return inner;
  }

  absl::StatusOr<int> Condition() {
    if (++condition_count_ > kMaxFilterConditions) return Unexpected(absl::StrCat("at most ", kMaxFilterConditions, " conditions"));
    if (token_.kind == TokenKind::kString) return Membership();
    if (token_.kind == TokenKind::kHas) {
      LOCI_RETURN_IF_ERROR(Advance());
      if (token_.kind != TokenKind::kOpen) return Unexpected("\"(\" after \"has\"");
      LOCI_RETURN_IF_ERROR(Advance());
      Node node{.kind = Kind::kHas};
      LOCI_ASSIGN_OR_RETURN(node.field, Field("a field"));
      if (token_.kind != TokenKind::kClose) return Unexpected("\")\"");
      LOCI_RETURN_IF_ERROR(Advance());
      return Add(std::move(node));
    }
    Node node{.kind = Kind::kCompare};
    LOCI_ASSIGN_OR_RETURN(node.field, Field("a condition: a field, a string, \"has\", \"not\" or \"(\""));
    if (token_.kind == TokenKind::kOperator) return Comparison(std::move(node));
    bool negated = false;
    LOCI_ASSIGN_OR_RETURN(const bool is_in, TakeIn(&negated));
    if (is_in) {
      node.kind = Kind::kIn;
      LOCI_ASSIGN_OR_RETURN(node.values, ValueList());
      const int in = Add(std::move(node));
      return negated ? Negated(in) : in;
    }
    node.values.emplace_back(true);
    return Add(std::move(node));
  }

  absl::StatusOr<int> Comparison(Node node) {
    const std::string_view op = text_.substr(token_.begin, token_.end - token_.begin);
    const size_t operator_begin = token_.begin;
    const bool negated = op == "!=";
    node.op = op == "<"    ? FilterOperator::kLess
              : op == "<=" ? FilterOperator::kLessOrEqual
              : op == ">"  ? FilterOperator::kGreater
              : op == ">=" ? FilterOperator::kGreaterOrEqual
                           : FilterOperator::kEqual;
    LOCI_RETURN_IF_ERROR(Advance());
    LOCI_ASSIGN_OR_RETURN(FilterValue value, Value());
    if (std::holds_alternative<bool>(value) && node.op != FilterOperator::kEqual) {
      return BadFilter(operator_begin, "\"=\" or \"!=\" before true or false", absl::StrCat("'", AbslView(op), "'"));
    }
    node.values.push_back(std::move(value));
    const int comparison = Add(std::move(node));
    return negated ? Negated(comparison) : comparison;
  }

  absl::StatusOr<int> Membership() {
    Node node{.kind = Kind::kCompare};
    node.values.emplace_back(std::move(token_.text));
    LOCI_RETURN_IF_ERROR(Advance());
    bool negated = false;
    LOCI_ASSIGN_OR_RETURN(const bool is_in, TakeIn(&negated));
    if (!is_in) return Unexpected("\"in\" or \"not in\" after a string; a comparison begins with its field");
    LOCI_ASSIGN_OR_RETURN(node.field, Field("a field"));
    const int in = Add(std::move(node));
    return negated ? Negated(in) : in;
  }

  // Takes ["not"] "in" where it stands; "not" must be followed by "in".
  absl::StatusOr<bool> TakeIn(bool* negated) {
    *negated = token_.kind == TokenKind::kNot;
    if (*negated) {
      LOCI_RETURN_IF_ERROR(Advance());
      if (token_.kind != TokenKind::kIn) return Unexpected("\"in\" after \"not\"");
    }
    if (token_.kind != TokenKind::kIn) return false;
    LOCI_RETURN_IF_ERROR(Advance());
    return true;
  }

  absl::StatusOr<FilterField> Field(std::string_view expected) {
    FilterField field;
    if (token_.kind == TokenKind::kQuotedName) {
      field.name = std::move(token_.text);
    } else if (token_.kind != TokenKind::kName) {
      return Unexpected(expected);
    } else if (token_.text == "id") {
      field.source = FieldSource::kId;
    } else if (token_.text == "document_id") {
      field.source = FieldSource::kDocumentId;
    } else if (token_.text == "chunk_index") {
      field.source = FieldSource::kChunkIndex;
    } else if (token_.text == "title" || token_.text == "text") {
      return Unexpected("a field to filter by; a key of the metadata that has this name is written in backquotes");
    } else {
      field.name = std::move(token_.text);
    }
    LOCI_RETURN_IF_ERROR(Advance());
    return field;
  }

  absl::StatusOr<FilterValue> Value() {
    FilterValue value;
    switch (token_.kind) {
      case TokenKind::kString: value = std::move(token_.text); break;
      case TokenKind::kNumber: value = std::move(token_.number); break;
      case TokenKind::kTrue: value = true; break;
      case TokenKind::kFalse: value = false; break;
      default: return Unexpected("a value: a string in quotes, a number, true or false");
    }
    LOCI_RETURN_IF_ERROR(Advance());
    return value;
  }

  absl::StatusOr<std::vector<FilterValue>> ValueList() {
    if (token_.kind != TokenKind::kOpen) return Unexpected("\"(\" after \"in\"");
    std::vector<FilterValue> values;
    do {
      LOCI_RETURN_IF_ERROR(Advance());
      if (++list_value_count_ > kMaxFilterListValues) return Unexpected(absl::StrCat("at most ", kMaxFilterListValues, " values in lists"));
      LOCI_ASSIGN_OR_RETURN(FilterValue value, Value());
      values.push_back(std::move(value));
    } while (token_.kind == TokenKind::kComma);
    if (token_.kind != TokenKind::kClose) return Unexpected("\",\" or \")\"");
    LOCI_RETURN_IF_ERROR(Advance());
    std::sort(values.begin(), values.end());
    values.erase(std::unique(values.begin(), values.end()), values.end());
    return values;
  }

  const std::string_view text_;
  std::shared_ptr<FilterExpression> expression_;
  Token token_;
  int condition_count_ = 0;
  int list_value_count_ = 0;
};

absl::StatusOr<std::shared_ptr<const FilterExpression>> FilterExpression::Parse(std::string_view text) {
  if (static_cast<int64_t>(text.size()) > kMaxFilterBytes) {
    return BadFilter(static_cast<size_t>(kMaxFilterBytes), absl::StrCat("at most ", kMaxFilterBytes, " bytes"), absl::StrCat(text.size(), " bytes: more"));
  }
  if (const size_t invalid = FindInvalidUtf8(text); invalid != std::string_view::npos) return BadFilter(invalid, "UTF-8", "a byte that is none");
  return FilterParser(text).Parse();
}

std::string FilterExpression::ToString() const {
  // Children come before their parents.
  std::vector<std::string> texts(nodes_.size());
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    std::string& text = texts[i];
    switch (node.kind) {
      case Kind::kAnd:
      case Kind::kOr:
        for (const int child : node.children) {
          absl::StrAppend(&text, text.empty() ? "(" : node.kind == Kind::kAnd ? " and " : " or ", texts[static_cast<size_t>(child)]);
        }
        text += ")";
        break;
      case Kind::kNot: text = absl::StrCat("not ", texts[static_cast<size_t>(node.children[0])]); break;
      case Kind::kHas: text = absl::StrCat("has(", FieldText(node.field), ")"); break;
      case Kind::kIn:
        for (const FilterValue& value : node.values) absl::StrAppend(&text, text.empty() ? "" : ", ", ValueText(value));
        text = absl::StrCat(FieldText(node.field), " in (", text, ")");
        break;
      case Kind::kCompare: {
        static constexpr const char* kOperators[] = {"=", "<", "<=", ">", ">="};
        text = absl::StrCat(FieldText(node.field), " ", kOperators[static_cast<int>(node.op)], " ", ValueText(node.values[0]));
        break;
      }
    }
  }
  return texts[static_cast<size_t>(root_)];
}

}  // namespace loci
