#include "base/timestamp_id.h"

#include <time.h>

#include <random>

#include "absl/strings/str_format.h"

namespace loci {

std::string MakeTimestampId(int64_t unix_us) {
  const time_t seconds = static_cast<time_t>(unix_us / 1'000'000);
  struct tm utc;
  ::gmtime_r(&seconds, &utc);
  std::random_device random;
  return absl::StrFormat("%04d%02d%02d-%02d%02d%02d-%04x", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min,
                         utc.tm_sec, random() & 0xffff);
}

bool IsTimestampId(std::string_view name) {
  if (name.size() != 20 || name[8] != '-' || name[15] != '-') return false;
  for (size_t i = 0; i < name.size(); ++i) {
    if (i == 8 || i == 15) continue;
    const bool digit = name[i] >= '0' && name[i] <= '9';
    if (!digit && !(i > 15 && name[i] >= 'a' && name[i] <= 'f')) return false;
  }
  return true;
}

}  // namespace loci
