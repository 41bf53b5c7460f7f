#include "index/filter_testing.h"

#include <cmath>
#include <iterator>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace loci {
namespace {

constexpr const char* kKeys[] = {"a", "b", "tags", "and", "id", "x-y"};
constexpr const char* kStrings[] = {"", "a", "ab", "b", "\xC3\xA9", "q\"\\uote", "B"};
constexpr int64_t kIntegers[] = {0, 1, -1, 2, 9007199254740993, 9007199254740992, std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()};
constexpr double kDoubles[] = {0.0, -0.0, 1.0, 0.5, -1.5, 9007199254740992.0, 9223372036854775808.0, -9223372036854775808.0, 1e300};

template <typename Array>
auto Pick(const Array& array, std::mt19937_64& random) {
  return array[random() % std::size(array)];
}

std::string Quoted(const std::string& text, char quote) {
  std::string result(1, quote);
  for (const char c : text) result += c == quote || c == '\\' ? std::string("\\") + c : std::string(1, c);
  return result + quote;
}

struct Field {
  std::string text;
  std::function<std::vector<v1::MetadataValue>(const v1::Passage&)> values;  // The strings of a list one by one; none: no comparison holds.
  std::function<bool(const v1::Passage&)> is_there;
};

Field RandomField(std::mt19937_64& random) {
  const auto text_of = [](const std::string& text) {
    v1::MetadataValue value;
    value.set_string_value(text);
    return value;
  };
  switch (random() % 8) {
    case 0:
      return {"id", [text_of](const v1::Passage& p) { return std::vector{text_of(p.id())}; }, [](const v1::Passage&) { return true; }};
    case 1:
      return {"document_id",
              [text_of](const v1::Passage& p) {
                return p.document_id().empty() ? std::vector<v1::MetadataValue>() : std::vector{text_of(p.document_id())};
              },
              [](const v1::Passage& p) { return !p.document_id().empty(); }};
    case 2:
      return {"chunk_index",
              [](const v1::Passage& p) {
                std::vector<v1::MetadataValue> values;
                if (p.document_id().empty()) return values;
                values.emplace_back().set_int64_value(p.chunk_index());
                return values;
              },
              [](const v1::Passage& p) { return !p.document_id().empty(); }};
    default: break;
  }
  const std::string key = Pick(kKeys, random);
  return {random() % 2 == 0 && key.size() == 1 ? key : Quoted(key, '`'),
          [key, text_of](const v1::Passage& p) {
            std::vector<v1::MetadataValue> values;
            const auto found = p.metadata().find(key);
            if (found == p.metadata().end()) return values;
            if (!found->second.has_string_list_value()) return std::vector{found->second};
            for (const std::string& item : found->second.string_list_value().values()) values.push_back(text_of(item));
            return values;
          },
          [key](const v1::Passage& p) {
            const auto found = p.metadata().find(key);
            return found != p.metadata().end() && found->second.kind_case() != v1::MetadataValue::KIND_NOT_SET;
          }};
}

struct Literal {
  std::string text;
  v1::MetadataValue value;
};

Literal RandomLiteral(bool may_be_bool, std::mt19937_64& random) {
  Literal literal;
  switch (random() % (may_be_bool ? 4 : 3)) {
    case 0: {
      const std::string text = random() % 4 == 0 ? absl::StrCat("p", random() % 400) : Pick(kStrings, random);
      literal.value.set_string_value(text);
      literal.text = Quoted(text, random() % 2 == 0 ? '"' : '\'');
      break;
    }
    case 1:
      literal.value.set_int64_value(Pick(kIntegers, random));
      literal.text = absl::StrCat(literal.value.int64_value());
      break;
    case 2: {
      literal.value.set_double_value(Pick(kDoubles, random));
      char text[64];
      snprintf(text, sizeof(text), "%.17e", literal.value.double_value());
      literal.text = text;
      break;
    }
    default:
      literal.value.set_bool_value(random() % 2 == 0);
      literal.text = literal.value.bool_value() ? "true" : "False";
  }
  return literal;
}

// A long double holds every int64 and every double.
bool IsNumber(const v1::MetadataValue& value, long double* number) {
  if (value.has_int64_value()) {
    *number = value.int64_value();
  } else if (value.has_double_value()) {
    *number = value.double_value();
  } else {
    return false;
  }
  return true;
}

bool Compares(const v1::MetadataValue& value, const std::string& op, const v1::MetadataValue& wanted) {
  const auto holds = [&](const auto& a, const auto& b) {
    return op == "=" ? a == b : op == "<" ? a < b : op == "<=" ? a <= b : op == ">" ? a > b : a >= b;
  };
  long double a, b;
  if (IsNumber(value, &a) && IsNumber(wanted, &b)) return holds(a, b);
  if (value.has_string_value() && wanted.has_string_value()) return holds(value.string_value(), wanted.string_value());
  return value.has_bool_value() && wanted.has_bool_value() && value.bool_value() == wanted.bool_value();
}

NaiveFilter Negated(NaiveFilter filter, const std::string& text) {
  return {text, [inner = std::move(filter.matches)](const v1::Passage& passage) { return !inner(passage); }};
}

NaiveFilter RandomCondition(std::mt19937_64& random) {
  const Field field = RandomField(random);
  const auto any = [field](std::string op, std::vector<v1::MetadataValue> wanted) {
    return [field, op, wanted](const v1::Passage& passage) {
      for (const v1::MetadataValue& value : field.values(passage)) {
        for (const v1::MetadataValue& other : wanted) {
          if (Compares(value, op, other)) return true;
        }
      }
      return false;
    };
  };
  switch (random() % 6) {
    case 0: return {absl::StrCat("has(", field.text, ")"), field.is_there};
    case 1: {
      v1::MetadataValue truth;
      truth.set_bool_value(true);
      return {field.text, any("=", {truth})};
    }
    case 2: {
      std::string text;
      std::vector<v1::MetadataValue> wanted;
      for (int i = 0, count = 1 + static_cast<int>(random() % 6); i < count; ++i) {
        const Literal literal = RandomLiteral(true, random);
        absl::StrAppend(&text, i == 0 ? "" : ",", literal.text);
        wanted.push_back(literal.value);
      }
      NaiveFilter filter{absl::StrCat(field.text, " in (", text, ")"), any("=", wanted)};
      return random() % 2 == 0 ? filter : Negated(filter, absl::StrCat(field.text, " not in (", text, ")"));
    }
    case 3: {
      const std::string text = Pick(kStrings, random);
      v1::MetadataValue wanted;
      wanted.set_string_value(text);
      return {absl::StrCat(Quoted(text, '"'), " in ", field.text), any("=", {wanted})};
    }
    default: {
      static constexpr const char* kOperators[] = {"=", "!=", "<", "<=", ">", ">="};
      const std::string op = Pick(kOperators, random);
      const Literal literal = RandomLiteral(op == "=" || op == "!=", random);
      const std::string text = absl::StrCat(field.text, op, literal.text);
      if (op == "!=") return Negated({text, any("=", {literal.value})}, text);
      return {text, any(op, {literal.value})};
    }
  }
}

}  // namespace

v1::Passage RandomPassage(const std::string& id, std::mt19937_64& random) {
  v1::Passage passage;
  passage.set_id(id);
  passage.set_text("text of " + id);
  if (random() % 3 == 0) {
    passage.set_document_id(Pick(kStrings, random));
    passage.set_chunk_index(static_cast<int32_t>(random() % 3));
  }
  for (const char* const key : kKeys) {
    if (random() % 3 == 0) continue;
    v1::MetadataValue& value = (*passage.mutable_metadata())[key];
    switch (random() % 8) {
      case 0:
      case 1: value.set_string_value(Pick(kStrings, random)); break;
      case 2: value.set_int64_value(Pick(kIntegers, random)); break;
      case 3: value.set_double_value(random() % 6 == 0 ? std::nan("") : random() % 6 == 0 ? INFINITY : Pick(kDoubles, random)); break;
      case 4: value.set_bool_value(random() % 2 == 0); break;
      case 5: break;  // No value.
      default:
        value.mutable_string_list_value();
        for (uint64_t i = random() % 4; i > 0; --i) value.mutable_string_list_value()->add_values(Pick(kStrings, random));
    }
  }
  return passage;
}

NaiveFilter RandomFilter(int depth, std::mt19937_64& random) {
  const uint64_t kind = depth == 0 ? 3 : random() % 5;
  if (kind >= 3) return RandomCondition(random);
  if (kind == 0) {
    NaiveFilter inner = RandomFilter(depth - 1, random);
    return Negated(inner, absl::StrCat("not (", inner.text, ")"));
  }
  NaiveFilter result = RandomFilter(depth - 1, random);
  result.text = absl::StrCat("(", result.text, ")");
  for (uint64_t i = 1 + random() % 2; i > 0; --i) {
    const NaiveFilter other = RandomFilter(depth - 1, random);
    absl::StrAppend(&result.text, kind == 1 ? " and " : " OR ", "(", other.text, ")");
    const bool is_and = kind == 1;
    result.matches = [a = std::move(result.matches), b = other.matches, is_and](const v1::Passage& passage) {
      return is_and ? a(passage) && b(passage) : a(passage) || b(passage);
    };
  }
  return result;
}

}  // namespace loci
