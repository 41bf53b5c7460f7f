// Log lines on standard error, as text or, by choice, one JSON object a line:
//
//   2026-11-21T09:41:42.123456Z I generation_manager: activated store=default
//   {"ts":"2026-11-21T09:41:42.123456Z","level":"info","module":"generation_manager","message":"activated","store":"default"}
//
//   LogInfo("server", absl::StrCat("listening on ", address));
//   Log(LogLevel::kWarning, "request", "failed", {{"method", "Search"}, {"request_id", id}});
#ifndef LOCI_BASE_LOGGING_H_
#define LOCI_BASE_LOGGING_H_

#include <initializer_list>
#include <string>
#include <string_view>

namespace loci {

enum class LogLevel { kInfo, kWarning, kError };
enum class LogFormat { kText, kJson };

struct LogField {
  std::string_view key;    // Letters, digits and '_'; not one of ts, level, module, message.
  std::string_view value;  // Empty: the field is left out.
};

// For all lines from now on. Thread-safe.
void SetLogFormat(LogFormat format);
void SetLogLevel(LogLevel least);  // Lines below it are not written.

// One line, written whole. Control characters are escaped; in JSON what is not UTF-8 becomes U+FFFD. Thread-safe.
void Log(LogLevel level, std::string_view component, std::string_view message);
void Log(LogLevel level, std::string_view component, std::string_view message, std::initializer_list<LogField> fields);
inline void LogInfo(std::string_view component, std::string_view message) { Log(LogLevel::kInfo, component, message); }
inline void LogWarning(std::string_view component, std::string_view message) { Log(LogLevel::kWarning, component, message); }
inline void LogError(std::string_view component, std::string_view message) { Log(LogLevel::kError, component, message); }

// `text` as a JSON string with its quotes; bytes that are not part of UTF-8 become U+FFFD.
std::string JsonQuoted(std::string_view text);

}  // namespace loci

// For broken invariants, never for input: prints the condition and ends the process.
#define LOCI_CHECK(condition) ((condition) ? (void)0 : ::loci::internal::CheckFailed(#condition, __FILE__, __LINE__))

namespace loci::internal {
[[noreturn]] void CheckFailed(const char* condition, const char* file, int line);
}  // namespace loci::internal

#endif  // LOCI_BASE_LOGGING_H_
