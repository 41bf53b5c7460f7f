#include "base/logging.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/log_context.h"
#include "base/utf8.h"

namespace loci {
namespace {

constexpr char kHexDigits[] = "0123456789abcdef";
constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

std::atomic<LogFormat> log_format{LogFormat::kText};
std::atomic<LogLevel> log_level{LogLevel::kInfo};

struct LogContext {
  std::string request_id;
  std::string trace_id;
};
thread_local LogContext log_context;

void AppendEscaped(std::string_view text, std::string* line) {
  for (const char c : text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      line->append("\\n");
    } else if (byte < 0x20 || byte == 0x7f) {
      line->append("\\x");
      line->push_back(kHexDigits[byte >> 4]);
      line->push_back(kHexDigits[byte & 15]);
    } else {
      line->push_back(c);
    }
  }
}

// One write, so that lines of several threads and processes do not mix. What can't be written is lost.
void WriteLine(const std::string& line) {
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t written = ::write(STDERR_FILENO, line.data() + done, line.size() - done);
    if (written < 0) {
      if (errno == EINTR) continue;
      return;
    }
    done += static_cast<size_t>(written);
  }
}

// "2026-11-21T09:41:42.123456Z"
std::string Timestamp() {
  const int64_t now_us = RealClock().UnixMicros();
  const time_t seconds = static_cast<time_t>(now_us / 1'000'000);
  struct tm parts;
  gmtime_r(&seconds, &parts);
  char text[64];
  std::string result(text, strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts));
  std::snprintf(text, sizeof(text), ".%06dZ", static_cast<int>(now_us % 1'000'000));
  return result + text;
}

void AppendJsonString(std::string_view text, std::string* line) {
  line->push_back('"');
  size_t invalid = FindInvalidUtf8(text);
  for (size_t i = 0; i < text.size(); ++i) {
    if (i == invalid) {
      line->append(kReplacement);
      const size_t next = FindInvalidUtf8(text.substr(i + 1));
      invalid = next == std::string_view::npos ? next : i + 1 + next;
      continue;
    }
    const unsigned char byte = static_cast<unsigned char>(text[i]);
    if (byte == '"' || byte == '\\') {
      line->push_back('\\');
      line->push_back(text[i]);
    } else if (byte == '\n') {
      line->append("\\n");
    } else if (byte < 0x20 || byte == 0x7f) {
      line->append("\\u00");
      line->push_back(kHexDigits[byte >> 4]);
      line->push_back(kHexDigits[byte & 15]);
    } else {
      line->push_back(text[i]);
    }
  }
  line->push_back('"');
}

// `fields`, and those of the thread that `fields` does not have.
std::vector<LogField> WithContext(std::initializer_list<LogField> fields) {
  std::vector<LogField> all(fields);
  const LogContext& context = log_context;
  for (const LogField& field : {LogField{"request_id", context.request_id}, LogField{"trace_id", context.trace_id}}) {
    bool given = false;
    for (const LogField& other : fields) given = given || other.key == field.key;
    if (!given) all.push_back(field);
  }
  return all;
}

std::string TextLine(LogLevel level, std::string_view component, std::string_view message, const std::vector<LogField>& fields) {
  std::string line = Timestamp();
  line.append(level == LogLevel::kInfo ? " I " : level == LogLevel::kWarning ? " W " : " E ");
  AppendEscaped(component, &line);
  line.append(": ");
  AppendEscaped(message, &line);
  for (const LogField& field : fields) {
    if (field.value.empty()) continue;
    line.push_back(' ');
    line.append(field.key);
    line.push_back('=');
    // Quoted where it could be taken for several fields.
    if (field.value.find_first_of(" \"=") != std::string_view::npos) {
      AppendJsonString(field.value, &line);
    } else {
      AppendEscaped(field.value, &line);
    }
  }
  return line;
}

std::string JsonLine(LogLevel level, std::string_view component, std::string_view message, const std::vector<LogField>& fields) {
  std::string line = "{\"ts\":\"" + Timestamp() + "\",\"level\":\"";
  line.append(level == LogLevel::kInfo ? "info" : level == LogLevel::kWarning ? "warning" : "error");
  line.append("\",\"module\":");
  AppendJsonString(component, &line);
  line.append(",\"message\":");
  AppendJsonString(message, &line);
  for (const LogField& field : fields) {
    if (field.value.empty()) continue;
    line.push_back(',');
    AppendJsonString(field.key, &line);
    line.push_back(':');
    AppendJsonString(field.value, &line);
  }
  line.push_back('}');
  return line;
}

}  // namespace

ScopedLogContext::ScopedLogContext(std::string request_id, std::string trace_id)
    : request_id_(std::exchange(log_context.request_id, std::move(request_id))), trace_id_(std::exchange(log_context.trace_id, std::move(trace_id))) {}

ScopedLogContext::~ScopedLogContext() {
  log_context.request_id = std::move(request_id_);
  log_context.trace_id = std::move(trace_id_);
}

const std::string& CurrentRequestId() { return log_context.request_id; }
const std::string& CurrentTraceId() { return log_context.trace_id; }

void SetLogFormat(LogFormat format) { log_format.store(format, std::memory_order_relaxed); }
void SetLogLevel(LogLevel least) { log_level.store(least, std::memory_order_relaxed); }

std::string JsonQuoted(std::string_view text) {
  std::string result;
  AppendJsonString(text, &result);
  return result;
}

void Log(LogLevel level, std::string_view component, std::string_view message) { Log(level, component, message, {}); }

void Log(LogLevel level, std::string_view component, std::string_view message, std::initializer_list<LogField> fields) {
  if (level < log_level.load(std::memory_order_relaxed)) return;
  const std::vector<LogField> all = WithContext(fields);
  std::string line = log_format.load(std::memory_order_relaxed) == LogFormat::kJson ? JsonLine(level, component, message, all)
                                                                                    : TextLine(level, component, message, all);
  line.push_back('\n');
  WriteLine(line);
}

namespace internal {

void CheckFailed(const char* condition, const char* file, int line) {
  Log(LogLevel::kError, "check", std::string("failed: ") + condition + " at " + file + ":" + std::to_string(line));
  abort();
}

}  // namespace internal
}  // namespace loci
