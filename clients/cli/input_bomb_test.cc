// Small files that unpack to much: memory stays bounded, and each is a clear error or is read on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "clients/cli/ingest_reader.h"

namespace loci {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMiB = 1 << 20;

// `count` times `piece`, compressed while it is made.
void WriteGzip(const std::string& path, const std::string& piece, int64_t count) {
  gzFile file = gzopen(path.c_str(), "wb1");
  for (int64_t i = 0; i < count; ++i) gzwrite(file, piece.data(), static_cast<unsigned>(piece.size()));
  gzclose(file);
}

void WriteZstd(const std::string& path, const std::string& piece, int64_t count) {
  ZSTD_CCtx* const context = ZSTD_createCCtx();
  std::ofstream file(path, std::ios::binary);
  std::string buffer(1 << 20, '\0');
  for (int64_t i = 0; i <= count; ++i) {
    ZSTD_inBuffer in = {piece.data(), i < count ? piece.size() : 0, 0};
    size_t left = 1;
    while (i < count ? in.pos < in.size : left != 0) {
      ZSTD_outBuffer out = {buffer.data(), buffer.size(), 0};
      left = ZSTD_compressStream2(context, &out, &in, i < count ? ZSTD_e_continue : ZSTD_e_end);
      file.write(buffer.data(), static_cast<std::streamsize>(out.pos));
    }
  }
  ZSTD_freeCCtx(context);
}

// The greatest memory of this process since ResetPeak(), in MiB.
int64_t PeakMiB() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::atoll(line.c_str() + 6) / 1024;
  }
  return -1;
}
void ResetPeak() { std::ofstream("/proc/self/clear_refs") << 5; }

class InputBombTest : public ::testing::Test {
 protected:
  InputBombTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "loci_bomb_XXXXXX").string();
    directory_ = mkdtemp(pattern.data());
  }
  ~InputBombTest() override { std::filesystem::remove_all(directory_); }

  struct Counts {
    int64_t passages = 0;
    int64_t bad = 0;
    std::string first_error;
  };
  // Reads all of a file; its memory stays within `limit_mib` more than before.
  static Counts Read(const std::string& path, int64_t limit_mib, IngestFormat format = IngestFormat::kAuto) {
    EXPECT_LT(std::filesystem::file_size(path), 10 * kMiB);
    ResetPeak();
    const int64_t before = PeakMiB();
    Counts counts;
    auto reader = IngestReader::Open(path, format);
    EXPECT_TRUE(reader.ok()) << reader.status();
    PassageRecord record;
    while (reader.ok()) {
      const absl::StatusOr<IngestReader::Result> result = (*reader)->Next(&record);
      EXPECT_TRUE(result.ok()) << result.status();
      if (!result.ok() || *result == IngestReader::kEnd) break;
      if (*result == IngestReader::kPassage) {
        ++counts.passages;
      } else if (counts.bad++ == 0) {
        counts.first_error = (*reader)->error();
      }
    }
    EXPECT_LT(PeakMiB() - before, limit_mib) << path;
    return counts;
  }
  std::string Path(const std::string& name) const { return directory_ + "/" + name; }

  const std::string piece_ = std::string(kMiB, 'x');
  std::string directory_;
};

TEST_F(InputBombTest, OneLineWithoutAnEnd) {
  WriteZstd(Path("a.jsonl.zst"), piece_, 512);
  Counts counts = Read(Path("a.jsonl.zst"), 100);
  EXPECT_EQ(counts.bad, 1);
  EXPECT_THAT(counts.first_error, HasSubstr("longer than 16777216 bytes"));
  WriteGzip(Path("b.tsv.gz"), piece_, 256);
  counts = Read(Path("b.tsv.gz"), 100);
  EXPECT_EQ(counts.bad, 1);
  EXPECT_THAT(counts.first_error, HasSubstr("longer than 16777216 bytes"));
}

TEST_F(InputBombTest, ADeviceWithoutLinesIsGivenUp) {
  auto reader = IngestReader::Open("/dev/zero", IngestFormat::kJsonl);
  ASSERT_TRUE(reader.ok()) << reader.status();
  PassageRecord record;
  const absl::Status status = (*reader)->Next(&record).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/dev/zero:1: no end of the line in 1073741824 bytes"));
}

TEST_F(InputBombTest, ManyLinesAreReadOn) {
  const std::string line = "{\"id\": \"a\", \"text\": \"" + std::string(64 * 1024, 'x') + "\"}\n";
  WriteGzip(Path("lines.jsonl.gz"), line, 4096);  // 256 MiB.
  EXPECT_EQ(Read(Path("lines.jsonl.gz"), 50).passages, 4096);
  WriteZstd(Path("bad.jsonl.zst"), std::string(64 * 1024, 'x') + "\n", 4096);
  EXPECT_EQ(Read(Path("bad.jsonl.zst"), 50).bad, 4096);
  WriteZstd(Path("blank.jsonl.zst"), std::string(kMiB, '\n'), 16);
  EXPECT_EQ(Read(Path("blank.jsonl.zst"), 50).bad, 0);
}

TEST_F(InputBombTest, AQuotedFieldAndALineOfTabsTakeNoMoreThanLines) {
  WriteZstd(Path("quote.tsv.zst"), "\"" + std::string(8 * kMiB, 'x') + "\n", 8);
  EXPECT_EQ(Read(Path("quote.tsv.zst"), 250).bad, 4);  // Two lines each: the second one's quote ends the field.
  WriteZstd(Path("tabs.tsv.zst"), std::string(8 * kMiB, '\t') + "\n", 4);
  const Counts counts = Read(Path("tabs.tsv.zst"), 100);
  EXPECT_EQ(counts.bad, 4);
  EXPECT_THAT(counts.first_error, HasSubstr("1001 columns"));
}

TEST_F(InputBombTest, OneDocumentOfAnyFormatMeetsTheLimitOfDocuments) {
  for (const char* name : {"a.txt.zst", "a.md.zst", "a.html.zst"}) {
    WriteZstd(Path(name), piece_, 512);
    const Counts counts = Read(Path(name), 250);
    EXPECT_EQ(counts.bad, 1) << name;
    EXPECT_THAT(counts.first_error, HasSubstr("more than 67108864 bytes, the limit")) << name;
  }
  std::string headings;
  while (headings.size() < kMiB) headings += "# h\n";
  WriteGzip(Path("b.md.gz"), headings, 32);
  EXPECT_THAT(Read(Path("b.md.gz"), 150).first_error, HasSubstr("more than 100000 headings"));
  WriteZstd(Path("b.pdf.zst"), piece_, 512);
  EXPECT_THAT(Read(Path("b.pdf.zst"), 150).first_error, HasSubstr("more than 67108864 bytes, the limit of a compressed one"));
}

TEST_F(InputBombTest, ADocumentOfLinesWithinTheLimitComesInParts) {
  WriteZstd(Path("c.txt.zst"), std::string(1023, 'x') + "\n", 64 * 1024 - 1);  // 64 MiB but one line.
  const Counts counts = Read(Path("c.txt.zst"), 250);
  EXPECT_EQ(counts.bad, 0);
  EXPECT_EQ(counts.passages, 1024);
}

}  // namespace
}  // namespace loci
