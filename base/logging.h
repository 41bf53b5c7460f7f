// Log lines on standard error: "2026-11-21T09:41:42.123456Z I generation_manager: activated store=default generation=...".
//
//   LogInfo("server", absl::StrCat("listening on ", address));
#ifndef LOCI_BASE_LOGGING_H_
#define LOCI_BASE_LOGGING_H_

#include <string_view>

namespace loci {

enum class LogLevel { kInfo, kWarning, kError };

// One line, written whole; control characters of `message` are escaped. Thread-safe.
void Log(LogLevel level, std::string_view component, std::string_view message);
inline void LogInfo(std::string_view component, std::string_view message) { Log(LogLevel::kInfo, component, message); }
inline void LogWarning(std::string_view component, std::string_view message) { Log(LogLevel::kWarning, component, message); }
inline void LogError(std::string_view component, std::string_view message) { Log(LogLevel::kError, component, message); }

}  // namespace loci

// For broken invariants, never for input: prints the condition and ends the process.
#define LOCI_CHECK(condition) ((condition) ? (void)0 : ::loci::internal::CheckFailed(#condition, __FILE__, __LINE__))

namespace loci::internal {
[[noreturn]] void CheckFailed(const char* condition, const char* file, int line);
}  // namespace loci::internal

#endif  // LOCI_BASE_LOGGING_H_
