#include "base/checksum.h"

#include <openssl/evp.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/logging.h"

namespace loci {
namespace {

constexpr size_t kSealDigits = 16;

std::string SealOf(std::string_view body) { return absl::StrFormat("%016x", Xxh3(body)); }

}  // namespace

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  LOCI_CHECK(state_->context != nullptr);
  LOCI_CHECK(EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() = default;

void Sha256::Update(std::string_view data) { LOCI_CHECK(EVP_DigestUpdate(state_->context, data.data(), data.size()) == 1); }

std::string Sha256::HexDigest() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  LOCI_CHECK(EVP_DigestFinal_ex(state_->context, digest, &size) == 1);
  static constexpr char kHexDigits[] = "0123456789abcdef";
  std::string hex;
  hex.reserve(2 * size);
  for (unsigned int i = 0; i < size; ++i) {
    hex.push_back(kHexDigits[digest[i] >> 4]);
    hex.push_back(kHexDigits[digest[i] & 15]);
  }
  return hex;
}

std::string Sha256::Hex(std::string_view data) {
  Sha256 hash;
  hash.Update(data);
  return hash.HexDigest();
}

uint64_t Xxh3(std::string_view data) { return XXH3_64bits(data.data(), data.size()); }

std::string Sealed(std::string body) {
  body += SealOf(body);
  return body;
}

absl::StatusOr<std::string_view> Unsealed(std::string_view content) {
  if (content.size() < kSealDigits) {
    return absl::DataLossError(absl::StrCat("it has ", content.size(), " bytes, at least ", kSealDigits, " are needed"));
  }
  const std::string_view body = content.substr(0, content.size() - kSealDigits);
  if (SealOf(body) != content.substr(body.size())) return absl::DataLossError("its checksum differs");
  return body;
}

}  // namespace loci
