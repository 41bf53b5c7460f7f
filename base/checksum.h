// Checksums of files and records.
#ifndef LOCI_BASE_CHECKSUM_H_
#define LOCI_BASE_CHECKSUM_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

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

}  // namespace loci

#endif  // LOCI_BASE_CHECKSUM_H_
