// Checksums of files and records.
#ifndef LOCI_BASE_CHECKSUM_H_
#define LOCI_BASE_CHECKSUM_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace loci {

// SHA-256 (OpenSSL), fed in pieces. Used by one thread.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Update(std::string_view data);
  // 64 lower-case hex digits. Ends the hash: call once.
  std::string HexDigest();

  static std::string Hex(std::string_view data);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// XXH3, 64 bits: for records on disk, where an attacker is not the worry.
uint64_t Xxh3(std::string_view data);

// `body` followed by its XXH3 as 16 hex digits: what a file that holds one small record has in it.
std::string Sealed(std::string body);
// The body in what Sealed made; it points into `content`. DATA_LOSS where that is too short or its checksum differs.
absl::StatusOr<std::string_view> Unsealed(std::string_view content);

}  // namespace loci

#endif  // LOCI_BASE_CHECKSUM_H_
