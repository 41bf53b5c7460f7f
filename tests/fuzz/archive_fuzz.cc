// ArchiveReader over hostile bytes: as they are, and as records whose checksums fit, so that their contents are reached.
//
// The input for the latter is records: u8(kind) u16(payload bytes) payload.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/checksum.h"
#include "base/logging.h"
#include "base/vector_type.h"
#include "index/archive.h"

namespace {

// What its readers rely on.
class CheckingSink final : public loci::ArchiveSink {
 public:
  absl::Status TakeHeader(const loci::storage::ArchiveHeader& header) override {
    LOCI_CHECK(dim_ == 0);
    LOCI_CHECK(header.dim() >= 1 && header.dim() <= loci::kMaxDim && header.passage_count() >= 0 && header.revision() >= 0);
    LOCI_CHECK(header.vector_type() >= 1 && header.vector_type() <= 3);
    LOCI_CHECK(header.passage_fingerprint().size() == 16 && header.query_fingerprint().size() == 16);
    LOCI_CHECK(!header.index().empty() && header.index().size() <= 256 && header.store().size() <= 64);
    dim_ = static_cast<size_t>(header.dim());
    left_ = header.passage_count();
    return absl::OkStatus();
  }
  absl::Status TakeBlock(std::vector<loci::v1::Passage> passages, std::vector<float> vectors) override {
    LOCI_CHECK(dim_ > 0 && !passages.empty() && vectors.size() == passages.size() * dim_);
    left_ -= static_cast<int64_t>(passages.size());
    LOCI_CHECK(left_ >= 0);
    for (const float value : vectors) LOCI_CHECK(std::isfinite(value));
    for (const loci::v1::Passage& passage : passages) {
      LOCI_CHECK(passage.id().size() <= 512 && passage.id() > last_);
      last_ = passage.id();
    }
    return absl::OkStatus();
  }
  int64_t left() const { return left_; }

 private:
  size_t dim_ = 0;
  int64_t left_ = -1;
  std::string last_;
};

void Check(const absl::Status& status) {
  LOCI_CHECK(absl::IsDataLoss(status) || absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status));
  LOCI_CHECK(status.message().size() < 2000);
}

// The outcome does not depend on where the bytes are cut.
void Try(std::string_view archive) {
  absl::Status outcome[2];
  for (const int cut : {0, 1}) {
    const size_t piece = cut == 0 ? archive.size() + 1 : 13;
    CheckingSink sink;
    loci::ArchiveReader reader(&sink);
    absl::Status status;
    for (size_t at = 0; at < archive.size() && status.ok(); at += piece) status = reader.Feed(archive.substr(at, piece));
    if (status.ok()) status = reader.Finish();
    if (status.ok()) {
      LOCI_CHECK(sink.left() == 0);
    } else {
      Check(status);
    }
    outcome[cut] = status;
  }
  LOCI_CHECK(outcome[0].code() == outcome[1].code());
}

template <typename Unsigned>
std::string Number(Unsigned number) {
  std::string bytes;
  for (size_t i = 0; i < sizeof(number); ++i) bytes.push_back(static_cast<char>(number >> (8 * i)));
  return bytes;
}

std::string Record(uint32_t kind, std::string_view payload) {
  const std::string rest = Number(kind) + Number(static_cast<uint32_t>(payload.size())) + std::string(payload);
  return Number(loci::Xxh3(rest)) + rest;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  Try(input);
  std::string archive(loci::kArchiveMagic);
  loci::Sha256 sha256;
  loci::storage::ArchiveTrailer trailer;
  while (input.size() >= 3) {
    const uint32_t kind = static_cast<uint8_t>(input[0]) % 4;
    const size_t length = std::min<size_t>(static_cast<uint8_t>(input[1]) | static_cast<uint8_t>(input[2]) << 8, input.size() - 3);
    archive += Record(kind, input.substr(3, length));
    if (kind == 2) {
      trailer.set_block_count(trailer.block_count() + 1);
      trailer.set_passage_count(trailer.passage_count() + (length >= 1 ? static_cast<uint8_t>(input[3]) : 0));
    }
    input.remove_prefix(3 + length);
  }
  Try(archive);
  // With a trailer that fits, so that what is whole is taken.
  sha256.Update(archive);
  const std::string digits = sha256.HexDigest();
  for (size_t i = 0; i < digits.size(); i += 2) trailer.mutable_sha256()->push_back(static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16)));
  trailer.set_size_bytes(static_cast<int64_t>(archive.size()));
  Try(archive + Record(3, trailer.SerializeAsString()));
  return 0;
}
