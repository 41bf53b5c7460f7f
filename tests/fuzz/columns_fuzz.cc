// MetadataColumns::Open over hostile bytes: an error, or columns over which every filter can be evaluated.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "base/file.h"
#include "base/logging.h"
#include "index/forwarding_file_system.h"
#include "index/metadata_columns.h"

namespace {

// The bytes, aligned as a mapping is.
class Mapped : public loci::MappedFile {
 public:
  explicit Mapped(std::string_view data) : words_(new uint64_t[data.size() / 8 + 1]), size_(data.size()) {
    if (!data.empty()) std::memcpy(words_.get(), data.data(), data.size());
  }
  std::string_view data() const override { return {reinterpret_cast<const char*>(words_.get()), size_}; }
  absl::Status Check() const override { return absl::OkStatus(); }
  void Warm() const override {}

 private:
  std::unique_ptr<uint64_t[]> words_;
  size_t size_;
};

class OneFile : public loci::ForwardingFileSystem {
 public:
  explicit OneFile(std::string_view data) : data_(data) {}
  absl::StatusOr<std::unique_ptr<loci::MappedFile>> Map(const std::string&) override { return std::make_unique<Mapped>(data_); }

 private:
  std::string_view data_;
};

constexpr const char* kFilters[] = {"n < 500 and not draft", "lang in ('l1', 'l7', '') or score >= 1.5 or year = 1980", "has(n) or has(lang) and lang > 'l'",
                                    "not (year != 1999.0 or draft = false)"};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  OneFile fs({reinterpret_cast<const char*>(data), size});
  constexpr int64_t kRows = 5;
  const auto columns = loci::MetadataColumns::Open(fs, "columns.bin", kRows);
  if (!columns.ok()) {
    LOCI_CHECK(absl::IsDataLoss(columns.status()) || absl::IsFailedPrecondition(columns.status()));
    LOCI_CHECK(columns.status().message().size() < 1000);
    return 0;
  }
  for (const char* const text : kFilters) {
    const auto rows = loci::EvaluateFilter(**loci::FilterExpression::Parse(text), **columns, {}, {});
    LOCI_CHECK(rows.ok() && rows->count() <= kRows);
    LOCI_CHECK((rows->ToWords(kRows)[0] >> kRows) == 0);
  }
  return 0;
}
