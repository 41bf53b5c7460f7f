#include "clients/cli/passage_json.h"

#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/utf8.h"

namespace loci {
namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 32;
constexpr size_t kMaxIdBytes = 512;
constexpr size_t kMaxUnusedFields = 20;

// Builds the value, and stops at what nlohmann's own parser lets pass.
class StrictBuilder final : public nlohmann::json_sax<json> {
 public:
  explicit StrictBuilder(json* root) : root_(root) {}

  const std::string& error() const { return error_; }

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override { return Add(value); }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return Fail("binary data"); }
  bool start_object(size_t) override { return Start(json::object()); }
  bool start_array(size_t) override { return Start(json::array()); }
  bool end_object() override { return End(); }
  bool end_array() override { return End(); }
  bool key(string_t& key) override {
    const auto [entry, inserted] = stack_.back()->get_ref<json::object_t&>().emplace(key, nullptr);
    if (!inserted) return Fail(absl::StrCat("the key \"", key.substr(0, 64), "\" comes twice in an object"));
    slot_ = &entry->second;
    return true;
  }
  bool parse_error(size_t position, const std::string& token, const json::exception& exception) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error while parsing value - ..." The line number is
    // that of the text, always 1, and of no use.
    std::string reason = exception.what();
    // Of a number out of range: "[json.exception.out_of_range.406] number overflow parsing '1e400'".
    if (const size_t bracket = reason.find("] "); reason.starts_with('[') && bracket != std::string::npos) reason.erase(0, bracket + 2);
    if (const size_t colon = reason.find(": "); reason.starts_with("parse error at") && colon != std::string::npos) {
      reason.erase(0, colon + 2);
    }
    if (reason.starts_with("number overflow parsing ")) return Fail(absl::StrCat("the number ", reason.substr(24, 64), " at byte ", position, " is beyond float64"));
    if (const size_t last_read = reason.find("; last read"); last_read != std::string::npos) {
      std::string expected;
      if (const size_t at = reason.find("; expected", last_read); at != std::string::npos) expected = reason.substr(at);
      reason = reason.substr(0, last_read) + expected;
    }
    (void)token;
    return Fail(absl::StrCat("not valid JSON at byte ", position, ": ", reason.substr(0, 200)));
  }

 private:
  bool Fail(std::string error) {
    error_ = std::move(error);
    return false;
  }
  template <typename T>
  json* Place(T&& value) {
    if (stack_.empty()) {
      *root_ = std::forward<T>(value);
      return root_;
    }
    if (stack_.back()->is_array()) {
      auto& array = stack_.back()->get_ref<json::array_t&>();
      array.emplace_back(std::forward<T>(value));
      return &array.back();
    }
    *slot_ = std::forward<T>(value);
    return slot_;
  }
  template <typename T>
  bool Add(T&& value) {
    Place(std::forward<T>(value));
    return true;
  }
  bool Start(json container) {
    if (stack_.size() >= kMaxDepth) return Fail(absl::StrCat("JSON nested deeper than ", kMaxDepth, " levels"));
    stack_.push_back(Place(std::move(container)));
    return true;
  }
  bool End() {
    stack_.pop_back();
    return true;
  }

  json* const root_;
  // The containers that are open. Their addresses hold: an element is only added to the innermost one.
  std::vector<json*> stack_;
  json* slot_ = nullptr;
  std::string error_;
};

// "an object", "a string", "null".
std::string WithArticle(const json& value) {
  const std::string name = value.type_name();
  return value.is_null() ? name : absl::StrCat(name.find_first_of("aeiou") == 0 ? "an " : "a ", name);
}

absl::Status FieldError(std::string_view field, std::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat("field \"", AbslView(field), "\" ", AbslView(problem)));
}

absl::Status SetString(const json& object, const char* field, std::string* value) {
  const auto entry = object.find(field);
  if (entry == object.end() || entry->is_null()) return absl::OkStatus();
  if (!entry->is_string()) return FieldError(field, absl::StrCat("is ", WithArticle(*entry), "; it must be a string"));
  *value = entry->get<std::string>();
  return absl::OkStatus();
}

absl::Status SetMetadata(const std::string& name, const json& value, v1::MetadataValue* out) {
  const std::string field = absl::StrCat("metadata.", name.substr(0, 64));
  if (value.is_string()) {
    out->set_string_value(value.get<std::string>());
  } else if (value.is_boolean()) {
    out->set_bool_value(value.get<bool>());
  } else if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return FieldError(field, absl::StrCat("is ", value.get<uint64_t>(), ", beyond a 64-bit signed integer"));
  } else if (value.is_number_integer()) {
    out->set_int64_value(value.get<int64_t>());
  } else if (value.is_number_float()) {
    out->set_double_value(value.get<double>());
  } else if (value.is_array()) {
    v1::StringList* list = out->mutable_string_list_value();
    for (const json& element : value) {
      if (!element.is_string())
        return FieldError(field, absl::StrCat("is a list with ", WithArticle(element), "; only strings may be in it"));
      list->add_values(element.get<std::string>());
    }
  } else {
    return FieldError(field, absl::StrCat("is ", WithArticle(value), "; it must be a string, number, bool or list of strings"));
  }
  return absl::OkStatus();
}

bool IsBlank(std::string_view text) { return text.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos; }

}  // namespace

absl::StatusOr<json> ParseStrictJson(std::string_view text) {
  if (const size_t offset = FindInvalidUtf8(text); offset != std::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("not valid UTF-8 at byte ", offset + 1));
  }
  json value;
  StrictBuilder builder(&value);
  if (!json::sax_parse(text.begin(), text.end(), &builder)) return absl::InvalidArgumentError(builder.error());
  return value;
}

absl::StatusOr<std::string> IdOfJson(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_integer()) return value.dump();
  return absl::InvalidArgumentError(absl::StrCat("is ", value.is_number() ? "a number that is not whole" : WithArticle(value),
                                                 "; it must be a string or an integer"));
}

absl::Status CheckId(std::string_view id) {
  if (id.empty()) return FieldError("id", "is empty");
  if (id.size() > kMaxIdBytes) {
    return FieldError("id", absl::StrCat("has ", id.size(), " bytes, the limit is ", kMaxIdBytes));
  }
  if (id.find('\0') != std::string_view::npos) return FieldError("id", "has a NUL character");
  return absl::OkStatus();
}

absl::Status CheckHasContent(const v1::Passage& passage) {
  if (IsBlank(passage.title()) && IsBlank(passage.text())) {
    return absl::InvalidArgumentError("title and text are both empty: there is nothing to find the passage by");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> VectorOfJson(const json& value) {
  if (!value.is_array() || value.empty()) return FieldError("vector", "must be a list of numbers");
  std::vector<float> vector;
  vector.reserve(value.size());
  for (const json& element : value) {
    const float number = element.is_number() ? element.get<float>() : std::numeric_limits<float>::quiet_NaN();
    if (!std::isfinite(number)) {
      return FieldError("vector", absl::StrCat("has at position ", vector.size(), " no number in the range of float32"));
    }
    vector.push_back(number);
  }
  return vector;
}

absl::StatusOr<PassageRecord> ParsePassageJson(std::string_view line, std::set<std::string>* unused_fields) {
  LOCI_ASSIGN_OR_RETURN(const json object, ParseStrictJson(line));
  if (!object.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(WithArticle(object), " where an object is needed: {\"id\": ..., \"text\": ...}"));
  }
  PassageRecord record;
  v1::Passage& passage = record.passage;
  const json* id = nullptr;
  for (const auto& [name, value] : object.items()) {
    if (value.is_null()) continue;
    if (name == "id" || name == "_id") {
      if (id != nullptr && *id != value) return absl::InvalidArgumentError("fields \"id\" and \"_id\" differ");
      id = &value;
    } else if (name == "document_id") {
      absl::StatusOr<std::string> document_id = IdOfJson(value);
      if (!document_id.ok()) return FieldError(name, StdView(document_id.status().message()));
      passage.set_document_id(*std::move(document_id));
    } else if (name == "chunk_index") {
      if (!value.is_number_integer()) return FieldError(name, "must be an integer");
      if (value < 0 || value > std::numeric_limits<int32_t>::max()) {
        return FieldError(name, absl::StrCat("is ", value.dump(), ", outside 0 to ", std::numeric_limits<int32_t>::max()));
      }
      passage.set_chunk_index(value.get<int32_t>());
    } else if (name == "metadata") {
      if (!value.is_object()) return FieldError(name, absl::StrCat("is ", WithArticle(value), "; it must be an object"));
      for (const auto& [key, element] : value.items()) {
        if (element.is_null()) continue;
        LOCI_RETURN_IF_ERROR(SetMetadata(key, element, &(*passage.mutable_metadata())[key]));
      }
    } else if (name == "vector") {
      LOCI_ASSIGN_OR_RETURN(record.vector, VectorOfJson(value));
    } else if (name != "title" && name != "text" && unused_fields != nullptr && unused_fields->size() < kMaxUnusedFields) {
      unused_fields->insert(name.substr(0, 64));
    }
  }
  if (id == nullptr) return absl::InvalidArgumentError("field \"id\" (or \"_id\") is missing");
  absl::StatusOr<std::string> id_text = IdOfJson(*id);
  if (!id_text.ok()) return FieldError("id", StdView(id_text.status().message()));
  LOCI_RETURN_IF_ERROR(CheckId(*id_text));
  passage.set_id(*std::move(id_text));
  LOCI_RETURN_IF_ERROR(SetString(object, "title", passage.mutable_title()));
  LOCI_RETURN_IF_ERROR(SetString(object, "text", passage.mutable_text()));
  LOCI_RETURN_IF_ERROR(CheckHasContent(passage));
  return record;
}

}  // namespace loci
