#include "base/logging.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <string>

#include "base/clock.h"

namespace loci {
namespace {

void AppendEscaped(std::string_view text, std::string* line) {
  static constexpr char kHexDigits[] = "0123456789abcdef";
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

}  // namespace

void Log(LogLevel level, std::string_view component, std::string_view message) {
  const int64_t now_us = RealClock().UnixMicros();
  const time_t seconds = static_cast<time_t>(now_us / 1'000'000);
  struct tm parts;
  gmtime_r(&seconds, &parts);
  char time_text[64];
  const size_t size = strftime(time_text, sizeof(time_text), "%Y-%m-%dT%H:%M:%S", &parts);
  std::string line(time_text, size);
  std::snprintf(time_text, sizeof(time_text), ".%06dZ ", static_cast<int>(now_us % 1'000'000));
  line.append(time_text);
  line.push_back(level == LogLevel::kInfo ? 'I' : level == LogLevel::kWarning ? 'W' : 'E');
  line.push_back(' ');
  AppendEscaped(component, &line);
  line.append(": ");
  AppendEscaped(message, &line);
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
