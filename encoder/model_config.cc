#include "encoder/model_config.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace loci {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxFileBytes = 1 << 20;

// A JSON object with the name of its file for messages.
class ConfigFile {
 public:
  static absl::StatusOr<ConfigFile> Read(FileSystem& fs, const std::string& path) {
    LOCI_ASSIGN_OR_RETURN(const int64_t size, fs.FileSize(path));
    if (size > kMaxFileBytes) {
      return absl::InvalidArgumentError(absl::StrCat(path, " has ", size, " bytes, the limit is ", kMaxFileBytes));
    }
    LOCI_ASSIGN_OR_RETURN(const std::string text, fs.ReadFile(path));
    ConfigFile file;
    file.path_ = path;
    file.json_ = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (file.json_.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(path, " is not JSON"));
    return file;
  }

  const Json& json() const { return json_; }

  absl::Status Invalid(const std::string& what) const { return absl::InvalidArgumentError(absl::StrCat(path_, ": ", what)); }

  absl::Status CheckObject() const { return json_.is_object() ? absl::OkStatus() : Invalid("not a JSON object"); }

  // Null where the key is missing or null.
  const Json* Find(const std::string& key) const {
    const auto found = json_.find(key);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }

  absl::StatusOr<int> Integer(const std::string& key, int64_t least, int64_t most,
                              std::optional<int> otherwise = std::nullopt) const {
    const Json* value = Find(key);
    if (value == nullptr && otherwise.has_value()) return *otherwise;
    if (value == nullptr) return Invalid(absl::StrCat(key, " is missing"));
    if (!value->is_number_integer()) return Invalid(absl::StrCat(key, " is not a whole number"));
    const int64_t number = value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)
                               ? INT64_MAX
                               : value->get<int64_t>();
    if (number < least || number > most) {
      return Invalid(absl::StrCat(key, " is ", number, ", it must lie in [", least, ", ", most, "]"));
    }
    return static_cast<int>(number);
  }

  absl::StatusOr<std::string> String(const std::string& key, const std::string& otherwise) const {
    const Json* value = Find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_string()) return Invalid(absl::StrCat(key, " is not a string"));
    return value->get<std::string>();
  }

  absl::StatusOr<bool> Bool(const std::string& key, bool otherwise) const {
    const Json* value = Find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) return Invalid(absl::StrCat(key, " is not a boolean"));
    return value->get<bool>();
  }

 private:
  std::string path_;
  Json json_;
};

absl::Status ReadArchitecture(const ConfigFile& file, ModelConfig* config) {
  LOCI_RETURN_IF_ERROR(file.CheckObject());
  LOCI_ASSIGN_OR_RETURN(const std::string model_type, file.String("model_type", ""));
  if (model_type != "bert") return file.Invalid(absl::StrCat("model_type \"", model_type, "\" is not supported, only bert is"));
  LOCI_ASSIGN_OR_RETURN(const std::string activation, file.String("hidden_act", "gelu"));
  if (activation != "gelu") return file.Invalid(absl::StrCat("hidden_act \"", activation, "\" is not supported, only gelu is"));
  LOCI_ASSIGN_OR_RETURN(const std::string positions, file.String("position_embedding_type", "absolute"));
  if (positions != "absolute") {
    return file.Invalid(absl::StrCat("position_embedding_type \"", positions, "\" is not supported, only absolute is"));
  }
  LOCI_ASSIGN_OR_RETURN(const bool decoder, file.Bool("is_decoder", false));
  if (decoder) return file.Invalid("is_decoder is true, only encoders are supported");
  LOCI_ASSIGN_OR_RETURN(config->hidden_size, file.Integer("hidden_size", 1, 16384));
  LOCI_ASSIGN_OR_RETURN(config->layer_count, file.Integer("num_hidden_layers", 1, 256));
  LOCI_ASSIGN_OR_RETURN(config->head_count, file.Integer("num_attention_heads", 1, 1024));
  LOCI_ASSIGN_OR_RETURN(config->intermediate_size, file.Integer("intermediate_size", 1, 65536));
  LOCI_ASSIGN_OR_RETURN(config->vocabulary_size, file.Integer("vocab_size", 1, 4 << 20));
  LOCI_ASSIGN_OR_RETURN(config->max_positions, file.Integer("max_position_embeddings", 3, 65536));
  LOCI_ASSIGN_OR_RETURN(config->type_vocabulary_size, file.Integer("type_vocab_size", 1, 1024, 2));
  if (config->hidden_size % config->head_count != 0) {
    return file.Invalid(
        absl::StrCat("hidden_size ", config->hidden_size, " is not a multiple of num_attention_heads ", config->head_count));
  }
  const Json* epsilon = file.Find("layer_norm_eps");
  if (epsilon != nullptr && (!epsilon->is_number() || !(epsilon->get<double>() >= 0 && epsilon->get<double>() < 1))) {
    return file.Invalid("layer_norm_eps is not a number in [0, 1)");
  }
  config->layer_norm_epsilon = epsilon == nullptr ? 1e-12f : epsilon->get<float>();
  return absl::OkStatus();
}

absl::Status ReadPooling(const ConfigFile& file, ModelConfig* config) {
  LOCI_RETURN_IF_ERROR(file.CheckObject());
  LOCI_ASSIGN_OR_RETURN(const int dim, file.Integer("word_embedding_dimension", 1, 1 << 20, config->hidden_size));
  if (dim != config->hidden_size) {
    return file.Invalid(absl::StrCat("word_embedding_dimension is ", dim, ", hidden_size is ", config->hidden_size));
  }
  std::vector<std::string> modes;
  LOCI_ASSIGN_OR_RETURN(const std::string mode, file.String("pooling_mode", ""));
  if (!mode.empty()) modes.push_back(mode);
  constexpr const char* kPrefix = "pooling_mode_";
  for (const auto& [key, value] : file.json().items()) {
    if (key.rfind(kPrefix, 0) != 0) continue;
    LOCI_ASSIGN_OR_RETURN(const bool on, file.Bool(key, false));
    if (on) modes.push_back(key);
  }
  if (modes.size() != 1) return file.Invalid(absl::StrCat("names ", modes.size(), " pooling modes, exactly one is supported"));
  if (modes[0] == "mean" || modes[0] == "pooling_mode_mean_tokens")
    config->pooling = Pooling::kMean;
  else if (modes[0] == "cls" || modes[0] == "pooling_mode_cls_token")
    config->pooling = Pooling::kCls;
  else if (modes[0] == "max" || modes[0] == "pooling_mode_max_tokens")
    config->pooling = Pooling::kMax;
  else
    return file.Invalid(absl::StrCat("pooling mode ", modes[0], " is not supported, only mean, cls and max are"));
  LOCI_ASSIGN_OR_RETURN(const bool include_prompt, file.Bool("include_prompt", true));
  if (!include_prompt) return file.Invalid("include_prompt false is not supported");
  return absl::OkStatus();
}

absl::Status ReadModules(FileSystem& fs, const std::string& directory, ModelConfig* config) {
  const std::string path = JoinPath(directory, "modules.json");
  if (!fs.Exists(path)) return absl::OkStatus();
  LOCI_ASSIGN_OR_RETURN(const ConfigFile file, ConfigFile::Read(fs, path));
  if (!file.json().is_array()) return file.Invalid("not a JSON array");
  std::vector<std::string> kinds;
  for (const Json& module : file.json()) {
    const auto type = module.is_object() ? module.find("type") : module.end();
    const auto folder = module.is_object() ? module.find("path") : module.end();
    if (!module.is_object() || type == module.end() || !type->is_string() || folder == module.end() || !folder->is_string()) {
      return file.Invalid("a module has no type or path");
    }
    const std::string name = type->get<std::string>();
    const std::string kind = name.substr(name.rfind('.') + 1);
    const std::string at = folder->get<std::string>();
    if (at == ".." || at.find('/') != std::string::npos || at.find('\0') != std::string::npos) {
      return file.Invalid(absl::StrCat("the path \"", at, "\" does not name a folder of the model"));
    }
    if (kind == "Transformer") {
      if (!at.empty())
        return file.Invalid(absl::StrCat("the Transformer lies in \"", at, "\", only the model's folder itself is supported"));
    } else if (kind == "Pooling") {
      LOCI_ASSIGN_OR_RETURN(const ConfigFile pooling, ConfigFile::Read(fs, JoinPath(JoinPath(directory, at), "config.json")));
      LOCI_RETURN_IF_ERROR(ReadPooling(pooling, config));
    } else if (kind == "Normalize") {
      config->normalize = true;
    } else {
      return file.Invalid(absl::StrCat("module ", name, " is not supported, only Transformer, Pooling and Normalize are"));
    }
    kinds.push_back(kind);
  }
  const std::vector<std::string> order = {"Transformer", "Pooling", "Normalize"};
  if (kinds.size() < 2 || kinds.size() > 3 || !std::equal(kinds.begin(), kinds.end(), order.begin())) {
    return file.Invalid("the modules are not Transformer, Pooling and perhaps Normalize, in this order");
  }
  return absl::OkStatus();
}

// max_seq_length, or sentence-transformers' default: what the tokenizer's configuration allows.
absl::Status ReadMaxLength(FileSystem& fs, const std::string& directory, ModelConfig* config) {
  config->max_length = config->max_positions;
  bool lowercase_first = false;
  const std::string path = JoinPath(directory, "sentence_bert_config.json");
  if (fs.Exists(path)) {
    LOCI_ASSIGN_OR_RETURN(const ConfigFile file, ConfigFile::Read(fs, path));
    LOCI_RETURN_IF_ERROR(file.CheckObject());
    LOCI_ASSIGN_OR_RETURN(lowercase_first, file.Bool("do_lower_case", false));
    if (file.Find("max_seq_length") != nullptr) {
      LOCI_ASSIGN_OR_RETURN(const int length, file.Integer("max_seq_length", 3, 1 << 30));
      config->max_length = std::min(length, config->max_positions);
      if (!lowercase_first) return absl::OkStatus();
    }
  }
  const std::string tokenizer_path = JoinPath(directory, "tokenizer_config.json");
  bool tokenizer_lowercases = true;  // BERT's default.
  if (fs.Exists(tokenizer_path)) {
    LOCI_ASSIGN_OR_RETURN(const ConfigFile file, ConfigFile::Read(fs, tokenizer_path));
    LOCI_RETURN_IF_ERROR(file.CheckObject());
    LOCI_ASSIGN_OR_RETURN(tokenizer_lowercases, file.Bool("do_lower_case", true));
    const Json* length = file.Find("model_max_length");  // Often 1e30, which is a float.
    if (length != nullptr && length->is_number() && length->get<double>() >= 3 && length->get<double>() < config->max_length) {
      config->max_length = static_cast<int>(length->get<double>());
    }
  }
  if (lowercase_first && !tokenizer_lowercases) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": do_lower_case true with a cased tokenizer is not supported"));
  }
  return absl::OkStatus();
}

absl::Status ReadPrompts(FileSystem& fs, const std::string& directory, ModelConfig* config) {
  const std::string path = JoinPath(directory, "config_sentence_transformers.json");
  if (!fs.Exists(path)) return absl::OkStatus();
  LOCI_ASSIGN_OR_RETURN(const ConfigFile file, ConfigFile::Read(fs, path));
  LOCI_RETURN_IF_ERROR(file.CheckObject());
  LOCI_ASSIGN_OR_RETURN(const std::string similarity, file.String("similarity_fn_name", "cosine"));
  if (similarity != "cosine" && similarity != "dot") {
    return file.Invalid(absl::StrCat("similarity_fn_name \"", similarity, "\" is not supported, only cosine and dot are"));
  }
  const Json* prompts = file.Find("prompts");
  if (prompts == nullptr) return absl::OkStatus();
  if (!prompts->is_object()) return file.Invalid("prompts is not an object");
  for (const auto& [key, value] : prompts->items()) {
    if (!value.is_string()) return file.Invalid(absl::StrCat("prompt \"", key, "\" is not a string"));
  }
  LOCI_ASSIGN_OR_RETURN(const std::string fallback, file.String("default_prompt_name", ""));
  if (!fallback.empty() && !prompts->contains(fallback)) {
    return file.Invalid(absl::StrCat("default_prompt_name \"", fallback, "\" is not among the prompts"));
  }
  const auto pick = [&](const std::vector<std::string>& names) {
    for (const std::string& name : names) {
      if (prompts->contains(name)) return (*prompts)[name].get<std::string>();
    }
    return fallback.empty() ? std::string() : (*prompts)[fallback].get<std::string>();
  };
  config->query_prefix = pick({"query"});
  config->passage_prefix = pick({"document", "passage", "corpus"});
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> LoadModelConfig(FileSystem& fs, const std::string& model_directory) {
  ModelConfig config;
  LOCI_ASSIGN_OR_RETURN(const ConfigFile file, ConfigFile::Read(fs, JoinPath(model_directory, "config.json")));
  LOCI_RETURN_IF_ERROR(ReadArchitecture(file, &config));
  LOCI_RETURN_IF_ERROR(ReadModules(fs, model_directory, &config));
  LOCI_RETURN_IF_ERROR(ReadMaxLength(fs, model_directory, &config));
  LOCI_RETURN_IF_ERROR(ReadPrompts(fs, model_directory, &config));
  return config;
}

}  // namespace loci
