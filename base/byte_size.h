// Sizes as people write them.
#ifndef LOCI_BASE_BYTE_SIZE_H_
#define LOCI_BASE_BYTE_SIZE_H_

#include <cstdint>
#include <optional>
#include <string_view>

namespace loci {

// digits [ "KiB" | "MiB" | "GiB" | "TiB" | "KB" | "MB" | "GB" | "TB" ], without a sign or a space: "2GiB" is 2147483648. nullopt for anything
// else, and for what int64 can't hold.
std::optional<int64_t> ParseByteSize(std::string_view text);

}  // namespace loci

#endif  // LOCI_BASE_BYTE_SIZE_H_
