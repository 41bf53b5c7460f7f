// Names for things that are made at some time: "20261121-094142-3f2a", so that they sort by it and people can read it.
#ifndef LOCI_BASE_TIMESTAMP_ID_H_
#define LOCI_BASE_TIMESTAMP_ID_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace loci {

// The UTC second of `unix_us` and 16 random bits: two of one second differ nearly always, and the caller looks whether they do. Thread-safe.
std::string MakeTimestampId(int64_t unix_us);

// Whether it has that shape: 8 digits, 6 digits, 4 lower-case hex digits. Such a name leads out of no folder. Thread-safe.
bool IsTimestampId(std::string_view name);

}  // namespace loci

#endif  // LOCI_BASE_TIMESTAMP_ID_H_
