#include "encoder/tokenizer_config.h"

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "base/utf8.h"

namespace loci {
namespace {

using Json = nlohmann::json;

absl::Status Invalid(const std::string& file, const std::string& message) {
  return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat(file, ": ", message)), "INVALID_TOKENIZER", {{"file", file}});
}

// For messages: quoted, without bytes that a terminal or protobuf would not take, and not endless.
std::string Quote(std::string_view text) {
  const bool cut = text.size() > 60;
  return absl::StrCat("\"", absl::CHexEscape(std::string(text.substr(0, 60))), cut ? "...\"" : "\"");
}

// Member `name` of an object, or null where there is none.
const Json& Member(const Json& object, const char* name) {
  static const Json* const kNull = new Json();
  if (!object.is_object()) return *kNull;
  const auto found = object.find(name);
  return found == object.end() ? *kNull : *found;
}

std::string TypeOf(const Json& object) {
  const Json& type = Member(object, "type");
  return type.is_string() ? type.get<std::string>() : std::string(object.is_null() ? "null" : "no type");
}

absl::StatusOr<bool> RequiredBool(const Json& object, const char* name, const std::string& file, const std::string& where) {
  const Json& value = Member(object, name);
  if (!value.is_boolean()) return Invalid(file, absl::StrCat(where, ".", name, " is not true or false"));
  return value.get<bool>();
}

absl::StatusOr<std::string> RequiredString(const Json& object, const char* name, const std::string& file,
                                           const std::string& where) {
  const Json& value = Member(object, name);
  if (!value.is_string()) return Invalid(file, absl::StrCat(where, ".", name, " is not a string"));
  return value.get<std::string>();
}

absl::StatusOr<Json> ParseObject(std::string_view text, const std::string& file) {
  Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return Invalid(file, absl::StrCat("is not JSON (", text.size(), " bytes)"));
  if (!json.is_object()) return Invalid(file, "is not a JSON object");
  return json;
}

// tokenizer_config.json's own name beside `file`, for messages.
std::string ConfigName(const std::string& file) {
  const size_t slash = file.rfind('/');
  return absl::StrCat(slash == std::string::npos ? "" : file.substr(0, slash + 1), "tokenizer_config.json");
}

// A special token's name: a string, or an object with its "content".
absl::Status ReadTokenName(const Json& config, const char* name, const std::string& file, std::string* token) {
  const Json& value = Member(config, name);
  if (value.is_null()) return absl::OkStatus();
  const Json& content = value.is_object() ? Member(value, "content") : value;
  if (!content.is_string()) return Invalid(file, absl::StrCat(name, " is not a token"));
  *token = content.get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadTokenNames(const Json& config, const std::string& file, TokenizerOptions* options) {
  LOCI_RETURN_IF_ERROR(ReadTokenName(config, "unk_token", file, &options->unk_token));
  LOCI_RETURN_IF_ERROR(ReadTokenName(config, "cls_token", file, &options->cls_token));
  LOCI_RETURN_IF_ERROR(ReadTokenName(config, "sep_token", file, &options->sep_token));
  LOCI_RETURN_IF_ERROR(ReadTokenName(config, "pad_token", file, &options->pad_token));
  return ReadTokenName(config, "mask_token", file, &options->mask_token);
}

absl::Status ReadNormalizer(const Json& normalizer, const std::string& file, TokenizerOptions* options) {
  if (TypeOf(normalizer) != "BertNormalizer") {
    return Invalid(file, absl::StrCat("normalizer is ", Quote(TypeOf(normalizer)), ", only \"BertNormalizer\" is supported"));
  }
  LOCI_ASSIGN_OR_RETURN(options->clean_text, RequiredBool(normalizer, "clean_text", file, "normalizer"));
  LOCI_ASSIGN_OR_RETURN(options->handle_chinese_chars, RequiredBool(normalizer, "handle_chinese_chars", file, "normalizer"));
  LOCI_ASSIGN_OR_RETURN(options->lowercase, RequiredBool(normalizer, "lowercase", file, "normalizer"));
  options->strip_accents = options->lowercase;
  if (!Member(normalizer, "strip_accents").is_null()) {
    LOCI_ASSIGN_OR_RETURN(options->strip_accents, RequiredBool(normalizer, "strip_accents", file, "normalizer"));
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const Json& model, const std::string& file, TokenizerSpec* spec) {
  if (TypeOf(model) != "WordPiece") {
    return Invalid(file, absl::StrCat("model is ", Quote(TypeOf(model)), ", only \"WordPiece\" is supported"));
  }
  LOCI_ASSIGN_OR_RETURN(spec->options.unk_token, RequiredString(model, "unk_token", file, "model"));
  LOCI_ASSIGN_OR_RETURN(spec->options.continuing_subword_prefix,
                        RequiredString(model, "continuing_subword_prefix", file, "model"));
  const Json& max_chars = Member(model, "max_input_chars_per_word");
  if (!max_chars.is_number_unsigned() || max_chars.get<uint64_t>() < 1 ||
      max_chars.get<uint64_t>() > kMaxInputCharsPerWordLimit) {
    return Invalid(file, absl::StrCat("model.max_input_chars_per_word is not in [1, ", kMaxInputCharsPerWordLimit, "]"));
  }
  spec->options.max_input_chars_per_word = max_chars.get<int>();

  const Json& vocabulary = Member(model, "vocab");
  if (!vocabulary.is_object()) return Invalid(file, "model.vocab is not an object");
  if (vocabulary.size() > kMaxVocabularySize) {
    return Invalid(file, absl::StrCat("model.vocab has ", vocabulary.size(), " pieces, the limit is ", kMaxVocabularySize));
  }
  spec->vocabulary.resize(vocabulary.size());
  std::vector<bool> taken(vocabulary.size(), false);
  for (const auto& [piece, id] : vocabulary.items()) {
    // An id beyond the number of pieces means that there is a gap somewhere.
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= taken.size()) {
      return Invalid(
          file, absl::StrCat("model.vocab[", Quote(piece), "] is ", Quote(id.dump(-1, ' ', true, Json::error_handler_t::replace)),
                             "; ids run from 0 to ", taken.size() - 1, " without gaps"));
    }
    const size_t index = id.get<size_t>();
    if (taken[index]) {
      return Invalid(file, absl::StrCat("model.vocab: id ", index, " is given to both ", Quote(spec->vocabulary[index]), " and ",
                                        Quote(piece)));
    }
    taken[index] = true;
    spec->vocabulary[index] = piece;
  }
  spec->piece_count = spec->vocabulary.size();
  return absl::OkStatus();
}

absl::Status ReadAddedTokens(const Json& tokens, const std::string& file, TokenizerSpec* spec) {
  if (tokens.is_null()) return absl::OkStatus();
  if (!tokens.is_array()) return Invalid(file, "added_tokens is not a list");
  std::unordered_map<std::string, int32_t> ids;
  for (size_t i = 0; i < spec->vocabulary.size(); ++i) ids.emplace(spec->vocabulary[i], static_cast<int32_t>(i));
  for (size_t i = 0; i < tokens.size(); ++i) {
    const Json& token = tokens[i];
    const std::string where = absl::StrCat("added_tokens[", i, "]");
    LOCI_ASSIGN_OR_RETURN(const std::string content, RequiredString(token, "content", file, where));
    if (content.empty()) return Invalid(file, absl::StrCat(where, ".content is empty"));
    LOCI_ASSIGN_OR_RETURN(const bool normalized, RequiredBool(token, "normalized", file, where));
    LOCI_ASSIGN_OR_RETURN(const bool single_word, RequiredBool(token, "single_word", file, where));
    // lstrip and rstrip take white space beside the token, which makes no token anyway: they don't change the ids.
    if (normalized || single_word) {
      return Invalid(
          file, absl::StrCat(where, " (", Quote(content), ") is matched in normalised text or as a single word: not supported"));
    }
    const auto [known, added] = ids.emplace(content, static_cast<int32_t>(spec->vocabulary.size()));
    if (added) spec->vocabulary.push_back(content);
    const Json& id = Member(token, "id");
    if (!id.is_number_unsigned() || id.get<uint64_t>() != static_cast<uint64_t>(known->second)) {
      return Invalid(file, absl::StrCat(where, " (", Quote(content), "): its id is not ", known->second,
                                        added ? ", the next after the vocabulary" : ", which the vocabulary gives it"));
    }
    spec->added_tokens.push_back({content, known->second});
  }
  return absl::OkStatus();
}

// The tokens around a text, which Loci's encoder puts there itself: they must be one before and one after.
absl::Status ReadPostProcessor(const Json& processor, const std::string& file, TokenizerOptions* options) {
  if (processor.is_null()) return absl::OkStatus();
  const std::string type = TypeOf(processor);
  if (type == "BertProcessing") {
    for (const auto& [name, token] : {std::pair{"cls", &options->cls_token}, std::pair{"sep", &options->sep_token}}) {
      const Json& pair = Member(processor, name);
      if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string()) {
        return Invalid(file, absl::StrCat("post_processor.", name, " is not a token and its id"));
      }
      *token = pair[0].get<std::string>();
    }
    return absl::OkStatus();
  }
  if (type != "TemplateProcessing") {
    return Invalid(file, absl::StrCat("post_processor is ", Quote(type),
                                      ", only \"TemplateProcessing\" and \"BertProcessing\" are supported"));
  }
  const Json& single = Member(processor, "single");
  const bool has_shape = single.is_array() && single.size() == 3 && Member(Member(single[0], "SpecialToken"), "id").is_string() &&
                         Member(Member(single[1], "Sequence"), "id") == "A" &&
                         Member(Member(single[2], "SpecialToken"), "id").is_string();
  if (!has_shape) return Invalid(file, "post_processor.single is not one special token, the text, and one special token");
  options->cls_token = Member(Member(single[0], "SpecialToken"), "id").get<std::string>();
  options->sep_token = Member(Member(single[2], "SpecialToken"), "id").get<std::string>();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerSpec> ParseTokenizerJson(std::string_view json, std::string_view tokenizer_config,
                                                 const std::string& file) {
  TokenizerSpec spec;
  if (!tokenizer_config.empty()) {
    LOCI_ASSIGN_OR_RETURN(const Json config, ParseObject(tokenizer_config, ConfigName(file)));
    LOCI_RETURN_IF_ERROR(ReadTokenNames(config, ConfigName(file), &spec.options));
  }
  LOCI_ASSIGN_OR_RETURN(const Json root, ParseObject(json, file));
  LOCI_RETURN_IF_ERROR(ReadNormalizer(Member(root, "normalizer"), file, &spec.options));
  if (TypeOf(Member(root, "pre_tokenizer")) != "BertPreTokenizer") {
    return Invalid(file, absl::StrCat("pre_tokenizer is ", Quote(TypeOf(Member(root, "pre_tokenizer"))),
                                      ", only \"BertPreTokenizer\" is supported"));
  }
  LOCI_RETURN_IF_ERROR(ReadModel(Member(root, "model"), file, &spec));
  LOCI_RETURN_IF_ERROR(ReadAddedTokens(Member(root, "added_tokens"), file, &spec));
  LOCI_RETURN_IF_ERROR(ReadPostProcessor(Member(root, "post_processor"), file, &spec.options));
  LOCI_RETURN_IF_ERROR(ValidateTokenizerSpec(spec, file));
  return spec;
}

absl::StatusOr<TokenizerSpec> ParseVocabularyText(std::string_view vocabulary, std::string_view tokenizer_config,
                                                  const std::string& file) {
  TokenizerOptions options;
  if (!tokenizer_config.empty()) {
    const std::string config_file = ConfigName(file);
    LOCI_ASSIGN_OR_RETURN(const Json config, ParseObject(tokenizer_config, config_file));
    LOCI_RETURN_IF_ERROR(ReadTokenNames(config, config_file, &options));
    if (!Member(config, "do_lower_case").is_null()) {
      LOCI_ASSIGN_OR_RETURN(options.lowercase, RequiredBool(config, "do_lower_case", config_file, "tokenizer"));
    }
    options.strip_accents = options.lowercase;
    if (!Member(config, "strip_accents").is_null()) {
      LOCI_ASSIGN_OR_RETURN(options.strip_accents, RequiredBool(config, "strip_accents", config_file, "tokenizer"));
    }
    if (!Member(config, "tokenize_chinese_chars").is_null()) {
      LOCI_ASSIGN_OR_RETURN(options.handle_chinese_chars,
                            RequiredBool(config, "tokenize_chinese_chars", config_file, "tokenizer"));
    }
    if (!Member(config, "do_basic_tokenize").is_null()) {
      LOCI_ASSIGN_OR_RETURN(const bool basic, RequiredBool(config, "do_basic_tokenize", config_file, "tokenizer"));
      if (!basic) return Invalid(config_file, "do_basic_tokenize is false: not supported");
    }
    const Json& never_split = Member(config, "never_split");
    if (!never_split.is_null() && !never_split.empty()) return Invalid(config_file, "never_split is not empty: not supported");
  }
  std::vector<std::string> pieces;
  while (!vocabulary.empty()) {
    const size_t line_end = vocabulary.find('\n');
    std::string_view line = vocabulary.substr(0, line_end);
    vocabulary.remove_prefix(line_end == std::string_view::npos ? vocabulary.size() : line_end + 1);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    pieces.emplace_back(line);
    if (pieces.size() > kMaxVocabularySize) return Invalid(file, absl::StrCat("has more than ", kMaxVocabularySize, " pieces"));
  }
  TokenizerSpec spec = MakeTokenizerSpec(std::move(pieces), std::move(options));
  LOCI_RETURN_IF_ERROR(ValidateTokenizerSpec(spec, file));
  return spec;
}

TokenizerSpec MakeTokenizerSpec(std::vector<std::string> vocabulary, TokenizerOptions options) {
  TokenizerSpec spec;
  spec.vocabulary = std::move(vocabulary);
  spec.piece_count = spec.vocabulary.size();
  spec.options = std::move(options);
  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t i = 0; i < spec.vocabulary.size(); ++i) ids.emplace(spec.vocabulary[i], static_cast<int32_t>(i));
  for (const std::string* token : {&spec.options.unk_token, &spec.options.cls_token, &spec.options.sep_token,
                                   &spec.options.pad_token, &spec.options.mask_token}) {
    const auto found = ids.find(*token);
    if (found != ids.end() && !token->empty()) spec.added_tokens.push_back({*token, found->second});
  }
  return spec;
}

absl::Status ValidateTokenizerSpec(const TokenizerSpec& spec, const std::string& file) {
  if (spec.vocabulary.empty()) return Invalid(file, "the vocabulary is empty");
  if (spec.vocabulary.size() > kMaxVocabularySize) {
    return Invalid(file,
                   absl::StrCat("the vocabulary has ", spec.vocabulary.size(), " pieces, the limit is ", kMaxVocabularySize));
  }
  const int max_chars = spec.options.max_input_chars_per_word;
  if (max_chars < 1 || max_chars > kMaxInputCharsPerWordLimit) {
    return Invalid(file,
                   absl::StrCat("max_input_chars_per_word is ", max_chars, ", not in [1, ", kMaxInputCharsPerWordLimit, "]"));
  }
  std::unordered_map<std::string_view, size_t> ids;
  ids.reserve(spec.vocabulary.size());
  for (size_t i = 0; i < spec.vocabulary.size(); ++i) {
    const std::string& piece = spec.vocabulary[i];
    if (piece.empty()) return Invalid(file, absl::StrCat("the piece with id ", i, " (line ", i + 1, ") is empty"));
    if (!IsValidUtf8(piece)) {
      return Invalid(file, absl::StrCat("the piece with id ", i, " (line ", i + 1, "), ", Quote(piece), ", is not UTF-8"));
    }
    const auto [known, added] = ids.emplace(piece, i);
    if (!added) return Invalid(file, absl::StrCat("the piece ", Quote(piece), " has two ids, ", known->second, " and ", i));
  }
  for (const auto& [name, token] : {std::pair{"unknown", &spec.options.unk_token}, std::pair{"[CLS]", &spec.options.cls_token},
                                    std::pair{"[SEP]", &spec.options.sep_token}}) {
    if (ids.find(*token) == ids.end()) {
      return Invalid(file, absl::StrCat("the vocabulary has no ", Quote(*token), ", which is its ", name, " token"));
    }
  }
  const auto unknown = ids.find(spec.options.unk_token);
  if (unknown->second >= spec.piece_count)
    return Invalid(file, absl::StrCat(Quote(spec.options.unk_token), " is not a piece of the model"));
  return absl::OkStatus();
}

}  // namespace loci
