#include "server/config.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/device.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/utf8.h"
#include "encoder/precision.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/text_format.h"
#include "index/settings_file.h"
#include "server/address.h"
#include "server/method.h"
#include "server/request_errors.h"

namespace loci {
namespace {

using config::ServerConfig;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::TextFormat;

struct Range {
  int64_t least;
  int64_t most;
};

// Of every number, by the field's name without "loci.config.".
const std::map<std::string, Range>& Ranges() {
  static const auto* const kRanges = new std::map<std::string, Range>{
      {"ServerConfig.threads", {0, 1024}},
      {"ServerConfig.drain_timeout_s", {0, 86'400}},
      {"ServerConfig.keep_generations", {0, kMaxKeepGenerations}},
      {"ServerConfig.live_recall_share", {0, 1}},
      {"ServerConfig.memory_budget_bytes", {0, int64_t{1} << 50}},
      {"ServerConfig.search_device_memory_bytes", {0, int64_t{1} << 50}},
      {"Limits.max_in_flight", {1, 1'000'000}},
      {"Limits.max_in_flight_bytes", {1 << 20, int64_t{1} << 40}},
      {"Limits.max_ingests", {1, 64}},
      {"Limits.max_connections", {1, 1'000'000}},
      {"Limits.pushback_ms", {0, 60'000}},
      {"Limits.ingest_idle_timeout_ms", {100, 86'400'000}},
      {"Keepalive.time_ms", {1'000, 86'400'000}},
      {"Keepalive.timeout_ms", {100, 3'600'000}},
      {"Keepalive.min_ping_interval_ms", {0, 86'400'000}},
      {"Batcher.max_batch_tokens", {0, 1 << 20}},
      {"Batcher.max_wait_us", {0, 1'000'000}},
      {"Batcher.max_queued_tokens", {1'024, int64_t{1} << 40}},
      {"Reader.abstain_threshold", {0, 1}},
      {"Fold.max_overlay_passages", {0, 1'000'000'000'000}},
      {"Fold.max_overlay_share", {0, 1'000}},
      {"Fold.max_overlay_bytes", {0, int64_t{1} << 50}},
      {"MethodLimit.max_in_flight", {1, 1'000'000}},
      {"MethodLimit.max_deadline_ms", {1, 86'400'000}},
  };
  return *kRanges;
}

// A mistake, and where: a message's field, `index` of it where it is repeated.
struct Mistake {
  const TextFormat::ParseInfoTree* tree;
  const FieldDescriptor* field;
  int index;
  std::string problem;
};

std::string NumberMistake(const Range& range, const std::string& value) {
  return absl::StrCat("is ", value, "; it must be from ", range.least, " to ", range.most);
}

std::string CheckMethod(const std::string& method) {
  for (int i = 0; i < kMethodCount; ++i) {
    const Method known = static_cast<Method>(i);
    if (AbslView(MethodName(known)) != method) continue;
    if (known == Method::kIngest || known == Method::kWatchJob) return absl::StrCat("is ", method, ", a stream; only other methods have limits of their own");
    return "";
  }
  return absl::StrCat("is ", Quoted(method), "; it must be a method's name, e.g. Search");
}

// What is wrong with the value of a field that is no message; empty where nothing is.
std::string CheckValue(const Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  const std::string name = absl::StrCat(field.containing_type()->name(), ".", field.name());
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64: {
      const bool narrow = field.cpp_type() == FieldDescriptor::CPPTYPE_INT32;
      const int64_t value = narrow ? reflection.GetInt32(message, &field) : reflection.GetInt64(message, &field);
      const Range& range = Ranges().at(name);
      return value >= range.least && value <= range.most ? "" : NumberMistake(range, absl::StrCat(value));
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      const double value = reflection.GetDouble(message, &field);
      const Range& range = Ranges().at(name);
      return value >= static_cast<double>(range.least) && value <= static_cast<double>(range.most) ? "" : NumberMistake(range, absl::StrCat(value));
    }
    case FieldDescriptor::CPPTYPE_STRING: {
      const std::string value = reflection.GetString(message, &field);
      if (name == "MethodLimit.method") return CheckMethod(value);
      if (name == "ServerConfig.device" || name == "ServerConfig.search_device") {
        // Whether this machine has it is seen at the start.
        CudaProbe probe;
        probe.detail = "not looked for";
        const absl::Status chosen = ChooseDevice(value, probe, /*cuda_backend=*/false).status();
        return absl::IsInvalidArgument(chosen) ? absl::StrCat("is ", Quoted(value), "; it must be auto, cpu or cuda:N") : "";
      }
      if (name == "ServerConfig.encoder_precision") {
        const absl::StatusOr<Precision> precision = ParsePrecision(value);
        // What float32 made may not be asked by int8, and the other way round.
        if (precision.ok() && *precision == Precision::kInt8) {
          return "is \"int8\", whose vectors do not interchange with the others'; it must be auto, float32, bfloat16 or float16 (`loci_server quantize` "
                 "shows what int8 would give; `loci set store STORE --encoder-precision int8` allows it for one store)";
        }
        return precision.ok() ? "" : absl::StrCat("is ", Quoted(value), "; it must be auto, float32, bfloat16 or float16");
      }
      if (value.empty()) return "is empty";
      if (value.find('\0') != std::string::npos) return "has a zero byte";
      if (field.name() == "listen" || field.name() == "metrics_listen") {
        const absl::StatusOr<HostPort> address = ParseHostPort(value);
        if (!address.ok()) return absl::StrCat(": ", address.status().message());
      }
      return "";
    }
    case FieldDescriptor::CPPTYPE_ENUM: {
      // Text proto takes any number.
      const int value = reflection.GetEnumValue(message, &field);
      return field.enum_type()->FindValueByNumber(value) != nullptr ? "" : absl::StrCat("is ", value, ", which has no name");
    }
    default:
      return "";
  }
}

// In the order of the fields' numbers. `path` is that of `message`, with a dot at its end.
void Check(const Message& message, const std::string& path, const TextFormat::ParseInfoTree* tree, std::vector<Mistake>* mistakes) {
  std::vector<const FieldDescriptor*> fields;
  const auto& reflection = *message.GetReflection();
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      const std::string problem = CheckValue(message, *field);
      if (!problem.empty()) mistakes->push_back({tree, field, -1, absl::StrCat(path, field->name(), problem[0] == ':' ? "" : " ", problem)});
      continue;
    }
    if (!field->is_repeated()) {
      Check(reflection.GetMessage(message, field), absl::StrCat(path, field->name(), "."),
            tree == nullptr ? nullptr : tree->GetTreeForNested(field, -1), mistakes);
      continue;
    }
    std::set<std::string> methods;
    for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
      const Message& item = reflection.GetRepeatedMessage(message, field, i);
      const std::string item_path = absl::StrCat(path, field->name(), "[", i, "].");
      if (field->message_type() == config::Encoder::descriptor()) {
        if (static_cast<const config::Encoder&>(item).model().empty()) {
          mistakes->push_back({tree, field, i, absl::StrCat(item_path, "model is not set")});
        }
      } else {
        const auto& limit = static_cast<const config::MethodLimit&>(item);
        if (limit.method().empty()) {
          mistakes->push_back({tree, field, i, absl::StrCat(item_path, "method is not set")});
        } else if (!methods.insert(limit.method()).second) {
          mistakes->push_back({tree, field, i, absl::StrCat(item_path, "method is ", Quoted(limit.method()), ", which has its limits above")});
        }
      }
      Check(item, item_path, tree == nullptr ? nullptr : tree->GetTreeForNested(field, i), mistakes);
    }
  }
}

// Where something is wrong; lines and columns from 1.
struct Located {
  int line;
  int column;
  std::string message;
  friend bool operator<(const Located& a, const Located& b) { return std::tie(a.line, a.column) < std::tie(b.line, b.column); }
};

Located At(int line, int column, std::string message) {
  // The parser's positions come from 0, and -1 stands for the whole file.
  return {std::max(line + 1, 1), std::max(column + 1, 1), std::move(message)};
}

// All errors; an unknown field is one.
class AllErrors : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, google::protobuf::io::ColumnNumber column, const std::string& message) override {
    errors.push_back(At(line, column, message));
  }
  void AddWarning(int line, google::protobuf::io::ColumnNumber column, const std::string& message) override { AddError(line, column, message); }
  std::vector<Located> errors;
};

absl::Status ToStatus(std::vector<Located> mistakes, const std::string& name) {
  std::stable_sort(mistakes.begin(), mistakes.end());
  const size_t told = std::min(mistakes.size(), kMaxConfigMistakes);
  std::string text;
  for (size_t i = 0; i < told; ++i) {
    absl::StrAppend(&text, i == 0 ? "" : "\n", name, ":", mistakes[i].line, ":", mistakes[i].column, ": ", mistakes[i].message);
  }
  if (told < mistakes.size()) absl::StrAppend(&text, "\nand more");
  return absl::InvalidArgumentError(text);
}

// The innermost block that is open at the end of a text, where there is one. Comments and strings are passed over.
std::optional<Located> FindOpenBlock(std::string_view text) {
  std::vector<Located> open;
  int line = 0;
  size_t line_start = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n') {
      ++line;
      line_start = i + 1;
    } else if (c == '#') {
      i = std::min(text.find('\n', i), text.size()) - 1;
    } else if (c == '"' || c == '\'') {
      for (++i; i < text.size() && text[i] != c && text[i] != '\n'; ++i) i += text[i] == '\\';
      if (i < text.size() && text[i] == '\n') --i;  // A string that is not closed ends with its line.
    } else if (c == '{' || c == '[') {
      open.push_back(At(line, static_cast<int>(i - line_start), absl::StrCat("the block that begins here with ", std::string(1, c), " is not closed")));
    } else if ((c == '}' || c == ']') && !open.empty()) {
      open.pop_back();
    }
  }
  if (open.empty()) return std::nullopt;
  return open.back();
}

// Blanks a line (from 1), so that what follows keeps its place. False where it opens or closes a block, or there is nothing to blank.
bool BlankLine(int line, std::string* text) {
  size_t begin = 0;
  for (int i = 1; i < line && begin != std::string::npos; ++i) {
    begin = text->find('\n', begin);
    if (begin != std::string::npos) ++begin;
  }
  if (begin == std::string::npos || begin >= text->size()) return false;
  const size_t end = std::min(text->find('\n', begin), text->size());
  const std::string_view content = std::string_view(*text).substr(begin, end - begin);
  if (content.find_first_of("{}[]<>") != std::string_view::npos || content.find_first_not_of(" \t\r") == std::string_view::npos) return false;
  text->replace(begin, end - begin, end - begin, ' ');
  return true;
}

absl::Status CannotRead(const std::string& path, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat("cannot read the configuration ", path, ": ", why));
}

}  // namespace

ServerConfig DefaultServerConfig() {
  const ServerOptions options;
  ServerConfig config;
  config.set_data_dir(options.data_directory);
  config.set_model(options.model_directory);
  config.set_listen(options.listen);
  config.set_metrics_listen(options.metrics_listen);
  config.set_device(options.device);
  config.set_encoder_precision(options.encoder_precision);
  config.set_search_device(options.search_device);
  config.set_search_device_memory_bytes(options.search_device_memory_bytes);
  config.set_threads(options.thread_count);
  config::Limits& limits = *config.mutable_limits();
  limits.set_max_in_flight(options.max_in_flight);
  limits.set_max_in_flight_bytes(options.max_in_flight_bytes);
  limits.set_max_ingests(options.max_ingests);
  limits.set_max_connections(options.max_connections);
  limits.set_pushback_ms(options.pushback_ms);
  limits.set_ingest_idle_timeout_ms(options.ingest_idle_timeout_ms);
  config.set_drain_timeout_s(static_cast<int32_t>(options.drain_timeout_ms / 1000));
  config.set_keep_generations(options.keep_generations);
  config.set_live_recall_share(options.live_recall_share);
  config.set_memory_budget_bytes(options.memory_budget_bytes);
  config::Keepalive& keepalive = *config.mutable_keepalive();
  keepalive.set_time_ms(options.keepalive.time_ms);
  keepalive.set_timeout_ms(options.keepalive.timeout_ms);
  keepalive.set_min_ping_interval_ms(options.keepalive.min_ping_interval_ms);
  config::Batcher& batcher = *config.mutable_batcher();
  batcher.set_max_batch_tokens(options.batcher.max_batch_tokens);
  batcher.set_max_wait_us(options.batcher.max_wait_us);
  batcher.set_max_queued_tokens(options.batcher.max_queued_tokens);
  config.mutable_log()->set_format(config::Log::TEXT);
  config.mutable_log()->set_level(config::Log::INFO);
  config.mutable_log()->set_requests(options.log_requests);
  config.mutable_reader()->set_abstain_threshold(options.abstain_threshold);
  config::Fold& fold = *config.mutable_fold();
  fold.set_max_overlay_passages(options.fold.max_overlay_passages);
  fold.set_max_overlay_share(options.fold.max_overlay_share);
  fold.set_max_overlay_bytes(options.fold.max_overlay_bytes);
  return config;
}

ServerOptions ToServerOptions(const ServerConfig& config) {
  ServerOptions options;
  options.data_directory = config.data_dir();
  options.model_directory = config.model();
  options.listen = config.listen();
  options.metrics_listen = config.metrics_listen();
  options.device = config.device();
  options.encoder_precision = config.encoder_precision();
  options.search_device = config.search_device();
  options.search_device_memory_bytes = config.search_device_memory_bytes();
  options.thread_count = config.threads();
  options.max_in_flight = config.limits().max_in_flight();
  options.max_in_flight_bytes = config.limits().max_in_flight_bytes();
  options.max_ingests = config.limits().max_ingests();
  options.max_connections = config.limits().max_connections();
  options.pushback_ms = config.limits().pushback_ms();
  options.ingest_idle_timeout_ms = config.limits().ingest_idle_timeout_ms();
  options.drain_timeout_ms = int64_t{1000} * config.drain_timeout_s();
  options.keep_generations = config.keep_generations();
  options.live_recall_share = config.live_recall_share();
  options.memory_budget_bytes = config.memory_budget_bytes();
  for (const config::Encoder& encoder : config.encoders()) options.encoder_directories.push_back(encoder.model());
  options.keepalive.time_ms = config.keepalive().time_ms();
  options.keepalive.timeout_ms = config.keepalive().timeout_ms();
  options.keepalive.min_ping_interval_ms = config.keepalive().min_ping_interval_ms();
  options.batcher.max_batch_tokens = config.batcher().max_batch_tokens();
  options.batcher.max_wait_us = config.batcher().max_wait_us();
  options.batcher.max_queued_tokens = config.batcher().max_queued_tokens();
  options.log_requests = config.log().requests();
  options.abstain_threshold = config.reader().abstain_threshold();
  options.fold.max_overlay_passages = config.fold().max_overlay_passages();
  options.fold.max_overlay_share = config.fold().max_overlay_share();
  options.fold.max_overlay_bytes = config.fold().max_overlay_bytes();
  for (const config::MethodLimit& limit : config.method_limits()) {
    options.method_limits.push_back({limit.method(), limit.max_in_flight(), limit.max_deadline_ms()});
  }
  return options;
}

absl::Status CheckServerConfig(const ServerConfig& config) {
  std::vector<Mistake> mistakes;
  Check(config, "", nullptr, &mistakes);
  return mistakes.empty() ? absl::OkStatus() : absl::InvalidArgumentError(mistakes.front().problem);
}

absl::StatusOr<ServerConfig> ParseServerConfig(std::string_view given, const std::string& name) {
  std::string text(given);
  std::vector<Located> mistakes;
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (given.starts_with(kByteOrderMark)) {
    mistakes.push_back(At(0, 0, "begins with a byte order mark; save it as UTF-8 without one"));
    text.replace(0, kByteOrderMark.size(), kByteOrderMark.size(), ' ');
  }
  if (const size_t bad = FindInvalidUtf8(text); bad != std::string::npos) {
    const size_t line_start = bad == 0 ? 0 : text.rfind('\n', bad - 1) + 1;  // 0 where there is none.
    mistakes.push_back(At(static_cast<int>(std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(bad), '\n')),
                          static_cast<int>(bad - line_start), "is not UTF-8"));
    return ToStatus(std::move(mistakes), name);
  }
  while (mistakes.size() <= kMaxConfigMistakes) {
    AllErrors errors;
    TextFormat::ParseInfoTree tree;
    TextFormat::Parser parser;
    parser.RecordErrorsTo(&errors);
    parser.WriteLocationsTo(&tree);
    parser.SetRecursionLimit(16);
    ServerConfig config;
    const bool parsed = parser.ParseFromString(text, &config);
    if (parsed && errors.errors.empty()) {
      std::vector<Mistake> values;
      Check(config, "", &tree, &values);
      for (const Mistake& value : values) {
        const TextFormat::ParseLocation at = value.tree == nullptr ? TextFormat::ParseLocation() : value.tree->GetLocation(value.field, value.index);
        mistakes.push_back(At(at.line, at.column, value.problem));
      }
      if (mistakes.empty()) return config;
      break;
    }
    if (const std::optional<Located> open = FindOpenBlock(text); open.has_value()) {
      // The parser's own words are about the end of the text.
      mistakes.push_back(*open);
      break;
    }
    const Located first = errors.errors.empty() ? At(0, 0, "is not a ServerConfig") : errors.errors.front();
    mistakes.push_back(first);
    // The others are looked for without that line.
    if (!BlankLine(first.line, &text)) break;
  }
  return ToStatus(std::move(mistakes), name);
}

absl::StatusOr<ServerConfig> LoadServerConfig(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) return CannotRead(path, strerror(errno));
  std::string text;
  absl::Status status;
  struct stat info {};
  if (fstat(fd, &info) != 0) {
    status = CannotRead(path, strerror(errno));
  } else if (!S_ISREG(info.st_mode) && !S_ISFIFO(info.st_mode)) {
    status = CannotRead(path, "it is not a file");
  }
  char buffer[16 << 10];
  while (status.ok() && text.size() <= kMaxConfigBytes) {
    const ssize_t count = read(fd, buffer, sizeof(buffer));
    if (count == 0) break;
    if (count > 0) {
      text.append(buffer, static_cast<size_t>(count));
    } else if (errno != EINTR) {
      status = CannotRead(path, strerror(errno));
    }
  }
  close(fd);
  LOCI_RETURN_IF_ERROR(status);
  if (text.size() > kMaxConfigBytes) return CannotRead(path, absl::StrCat("it is larger than ", kMaxConfigBytes, " bytes"));
  return ParseServerConfig(text, path);
}

std::string PrintServerConfig(const ServerConfig& config) {
  TextFormat::Printer printer;
  printer.SetUseUtf8StringEscaping(true);
  std::string text;
  printer.PrintToString(config, &text);
  return text;
}

}  // namespace loci
