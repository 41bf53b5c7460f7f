#include "index/content_hash.h"

#include <charconv>
#include <string>

#include "base/checksum.h"

namespace loci {

ContentHash HashContent(std::string_view text) {
  const std::string hex = Sha256::Hex(text);
  ContentHash hash;
  std::from_chars(hex.data(), hex.data() + 16, hash.high, 16);
  std::from_chars(hex.data() + 16, hex.data() + 32, hash.low, 16);
  return hash;
}

}  // namespace loci
