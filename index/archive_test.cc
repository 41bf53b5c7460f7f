#include "index/archive.h"

#include <cmath>
#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using ::testing::HasSubstr;

constexpr int kDim = 3;

struct Collected final : ArchiveSink {
  absl::Status TakeHeader(const storage::ArchiveHeader& taken) override {
    ++header_count;
    header = taken;
    return absl::OkStatus();
  }
  absl::Status TakeBlock(std::vector<loci::v1::Passage> taken, std::vector<float> values) override {
    for (loci::v1::Passage& passage : taken) passages.push_back(std::move(passage));
    vectors.insert(vectors.end(), values.begin(), values.end());
    return absl::OkStatus();
  }
  int header_count = 0;
  storage::ArchiveHeader header;
  std::vector<loci::v1::Passage> passages;
  std::vector<float> vectors;
};

storage::ArchiveHeader Header(int64_t passage_count, loci::v1::VectorType type = loci::v1::VECTOR_TYPE_FLOAT32) {
  storage::ArchiveHeader header;
  header.set_store("movies");
  header.set_generation("20261121-094142-3f2a");
  header.set_revision(7);
  header.set_query_fingerprint("00112233445566aa");
  header.set_passage_fingerprint("8899aabbccddeeff");
  header.set_dim(kDim);
  header.set_vector_type(type);
  header.set_metric("inner_product");
  header.set_index("exact");
  header.set_passage_count(passage_count);
  return header;
}

loci::v1::Passage MakePassage(int i) {
  loci::v1::Passage passage;
  passage.set_id(absl::StrCat("p", 1000 + i));
  passage.set_title("title");
  passage.set_text(absl::StrCat("text of ", i));
  (*passage.mutable_metadata())["year"].set_int64_value(1990 + i);
  return passage;
}

std::vector<float> MakeVectors(int first, int count) {
  std::vector<float> vectors;
  for (int i = 0; i < count * kDim; ++i) vectors.push_back(0.1f * static_cast<float>(first * kDim + i) - 1.0f);
  return vectors;
}

// Archives of `block_sizes` passages.
std::string MakeArchive(const std::vector<int>& block_sizes, const storage::ArchiveHeader* header = nullptr) {
  int count = 0;
  for (const int size : block_sizes) count += size;
  ArchiveWriter writer(header != nullptr ? *header : Header(count));
  std::string archive = writer.Begin();
  int next = 0;
  for (const int size : block_sizes) {
    std::vector<loci::v1::Passage> passages;
    for (int i = 0; i < size; ++i) passages.push_back(MakePassage(next + i));
    archive += *writer.Block(passages, MakeVectors(next, size).data());
    next += size;
  }
  return archive + writer.End();
}

absl::Status Read(std::string_view archive, Collected* collected, size_t piece = SIZE_MAX) {
  ArchiveReader reader(collected);
  for (size_t at = 0; at < archive.size(); at += std::min(piece, archive.size() - at)) {
    if (absl::Status status = reader.Feed(archive.substr(at, piece)); !status.ok()) {
      EXPECT_EQ(reader.Feed("more"), status) << "an error stays";
      EXPECT_EQ(reader.Finish(), status);
      return status;
    }
  }
  return reader.Finish();
}

std::string ReasonOf(const absl::Status& status) {
  const std::optional<ErrorReason> reason = GetErrorReason(status);
  return reason.has_value() ? reason->reason : "";
}

// A record with a checksum that fits.
std::string Record(uint32_t kind, const std::string& payload) {
  std::string rest;
  for (const uint32_t number : {kind, static_cast<uint32_t>(payload.size())}) rest.append(reinterpret_cast<const char*>(&number), 4);
  rest += payload;
  const uint64_t checksum = Xxh3(rest);
  return std::string(reinterpret_cast<const char*>(&checksum), 8) + rest;
}

std::string Number(uint32_t number) { return std::string(reinterpret_cast<const char*>(&number), 4); }

// Begin of an archive, then one block of that payload.
absl::Status ReadBlock(const std::string& payload, const storage::ArchiveHeader& header) {
  ArchiveWriter writer(header);
  Collected collected;
  return Read(writer.Begin() + Record(2, payload), &collected);
}

// Two bytes an entry, more than thirty once they are parsed.
std::string PassageOfManyEntries(const std::string& id, int count) {
  loci::v1::Passage passage;
  passage.set_id(id);
  auto* values = (*passage.mutable_metadata())["list"].mutable_string_list_value();
  for (int i = 0; i < count; ++i) values->add_values();
  return passage.SerializeAsString();
}

TEST(Archive, APassageAndWhatABlockTakesOnceItIsParsedHaveLimits) {
  const std::string large = PassageOfManyEntries("a", 1'000'000);
  const absl::Status too_long = ReadBlock(Number(1) + Number(static_cast<uint32_t>(large.size())) + large + std::string(4 * kDim, '\0'), Header(1));
  EXPECT_EQ(ReasonOf(too_long), "ARCHIVE_INVALID");
  EXPECT_THAT(std::string(too_long.message()), HasSubstr("the limit is 1572864"));
  std::string block = Number(9);
  for (int i = 0; i < 9; ++i) {
    const std::string passage = PassageOfManyEntries(absl::StrCat("a", i), 700'000);
    block += Number(static_cast<uint32_t>(passage.size())) + passage;
  }
  const absl::Status too_much = ReadBlock(block + std::string(9 * 4 * kDim, '\0'), Header(9));
  EXPECT_EQ(ReasonOf(too_much), "ARCHIVE_INVALID");
  EXPECT_THAT(std::string(too_much.message()), HasSubstr("bytes of memory"));
}

TEST(Archive, GivesBackWhatWasWrittenHoweverItIsCut) {
  const std::string archive = MakeArchive({3, 1, 4});
  for (const size_t piece : {size_t{1}, size_t{7}, size_t{100}, SIZE_MAX}) {
    Collected read;
    ASSERT_EQ(Read(archive, &read, piece), absl::OkStatus()) << piece;
    EXPECT_EQ(read.header_count, 1);
    EXPECT_EQ(read.header.revision(), 7);
    ASSERT_EQ(read.passages.size(), 8u);
    for (int i = 0; i < 8; ++i) EXPECT_EQ(read.passages[i].SerializeAsString(), MakePassage(i).SerializeAsString());
    EXPECT_EQ(read.vectors, MakeVectors(0, 8));
  }
}

TEST(Archive, HoldsNoPassagesToo) {
  Collected read;
  EXPECT_EQ(Read(MakeArchive({}), &read), absl::OkStatus());
  EXPECT_EQ(read.header_count, 1);
  EXPECT_TRUE(read.passages.empty());
}

TEST(Archive, KeepsStoredVectorsOfEveryTypeBitForBit) {
  for (const auto type : {loci::v1::VECTOR_TYPE_FLOAT16, loci::v1::VECTOR_TYPE_BFLOAT16}) {
    const storage::ArchiveHeader header = Header(2, type);
    Collected once, twice;
    ASSERT_EQ(Read(MakeArchive({2}, &header), &once), absl::OkStatus());
    EXPECT_NE(once.vectors, MakeVectors(0, 2)) << "they are rounded";
    ArchiveWriter writer(header);
    std::string archive = writer.Begin();
    archive += *writer.Block(once.passages, once.vectors.data());
    archive += writer.End();
    ASSERT_EQ(Read(archive, &twice), absl::OkStatus());
    EXPECT_EQ(once.vectors, twice.vectors) << "what was rounded already stays";
  }
}

TEST(Archive, RefusesEveryFlippedByteAndNamesItsRecord) {
  const std::string archive = MakeArchive({3, 2});
  // Where records begin.
  std::vector<size_t> begins = {0};
  for (size_t at = kArchiveMagic.size(); at < archive.size();) {
    begins.push_back(at);
    uint32_t size = 0;
    std::memcpy(&size, archive.data() + at + 12, 4);
    at += kArchiveRecordHeadBytes + size;
  }
  ASSERT_EQ(begins.size(), 5u) << "magic, header, two blocks, trailer";
  for (size_t i = 0; i < archive.size(); ++i) {
    std::string damaged = archive;
    damaged[i] = static_cast<char>(damaged[i] ^ (1 << (i % 8)));
    Collected read;
    const absl::Status status = Read(damaged, &read);
    if (i < kArchiveMagic.size()) {
      ASSERT_TRUE(absl::IsInvalidArgument(status)) << "nobody can tell that it ever was an archive: " << status;
      ASSERT_EQ(ReasonOf(status), "ARCHIVE_INVALID");
      continue;
    }
    ASSERT_TRUE(absl::IsDataLoss(status)) << "byte " << i << ": " << status;
    ASSERT_EQ(ReasonOf(status), "ARCHIVE_DAMAGED");
    const size_t begin = *(std::upper_bound(begins.begin(), begins.end(), i) - 1);
    ASSERT_EQ(GetErrorReason(status)->metadata.at("offset"), absl::StrCat(begin)) << "byte " << i;
    ASSERT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("byte ", begin)));
  }
}

TEST(Archive, RefusesEveryTruncationAndWhatFollows) {
  const std::string archive = MakeArchive({3, 2});
  for (size_t size = 1; size < archive.size(); ++size) {
    Collected read;
    const absl::Status status = Read(archive.substr(0, size), &read);
    ASSERT_TRUE(absl::IsDataLoss(status)) << size << ": " << status;
    ASSERT_THAT(std::string(status.message()), HasSubstr("cut short"));
  }
  Collected read;
  EXPECT_TRUE(absl::IsDataLoss(Read(archive + '\0', &read)));
  Collected twice;
  EXPECT_TRUE(absl::IsDataLoss(Read(archive + archive, &twice)));
}

TEST(Archive, WhatIsNoArchiveIsNoDamage) {
  const std::string zeros(1'000, '\0');
  for (const std::string_view other : {std::string_view(), std::string_view("{\"id\": \"1\", \"text\": \"t\"}\n"), std::string_view("P"),
                                       std::string_view("LOCIARC2 of another time"), std::string_view("LOCIX"), std::string_view(zeros)}) {
    for (const size_t piece : {size_t{1}, SIZE_MAX}) {
      Collected read;
      const absl::Status status = Read(other, &read, piece);
      EXPECT_TRUE(absl::IsInvalidArgument(status)) << other << ": " << status;
      EXPECT_EQ(ReasonOf(status), "ARCHIVE_INVALID");
      EXPECT_EQ(GetErrorReason(status)->metadata.at("offset"), "0");
      EXPECT_THAT(std::string(status.message()), HasSubstr("not an archive of loci export"));
    }
  }
}

TEST(Archive, RefusesBlocksThatAreLeftOutTwiceOrExchanged) {
  const std::string archive = MakeArchive({2, 2});
  std::vector<std::string> records;
  for (size_t at = kArchiveMagic.size(); at < archive.size();) {
    uint32_t size = 0;
    std::memcpy(&size, archive.data() + at + 12, 4);
    records.push_back(archive.substr(at, kArchiveRecordHeadBytes + size));
    at += records.back().size();
  }
  ASSERT_EQ(records.size(), 4u);
  const auto join = [&](const std::vector<int>& order) {
    std::string joined(kArchiveMagic);
    for (const int i : order) joined += records[i];
    return joined;
  };
  Collected read;
  EXPECT_TRUE(Read(join({0, 1, 2, 3}), &read).ok());
  for (const std::vector<int>& order : std::vector<std::vector<int>>{{0, 1, 3}, {0, 2, 3}, {0, 2, 1, 3}, {0, 1, 1, 3}, {1, 0, 3}, {0, 0, 1, 2, 3}, {0, 1, 2}, {0, 1, 2, 3, 3}}) {
    Collected other;
    const absl::Status status = Read(join(order), &other);
    EXPECT_FALSE(status.ok());
    EXPECT_NE(ReasonOf(status), "");
  }
}

TEST(Archive, RefusesABlockOfAnotherArchive) {
  const std::string archive = MakeArchive({2, 2});
  std::string other = archive;
  // Of the same size, and with a checksum of its own that fits.
  size_t begin = kArchiveMagic.size();
  for (int record = 0; record < 2; ++record) {
    uint32_t size = 0;
    std::memcpy(&size, archive.data() + begin + 12, 4);
    begin += kArchiveRecordHeadBytes + size;
  }
  const size_t text = other.find("text of 3", begin);
  ASSERT_NE(text, std::string::npos);
  other[text] = 'T';
  uint32_t size = 0;
  std::memcpy(&size, other.data() + begin + 12, 4);
  const uint64_t checksum = Xxh3(std::string_view(other).substr(begin + 8, kArchiveRecordHeadBytes - 8 + size));
  std::memcpy(other.data() + begin, &checksum, 8);
  Collected read;
  const absl::Status status = Read(other, &read);
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("SHA-256"));
}

TEST(Archive, RefusesHeadersThatCantBe) {
  const auto read = [](const std::function<void(storage::ArchiveHeader*)>& change) {
    storage::ArchiveHeader header = Header(1);
    header.set_format_version(kArchiveFormatVersion);
    change(&header);
    Collected collected;
    const absl::Status status = Read(std::string(kArchiveMagic) + Record(1, header.SerializeAsString()), &collected);
    EXPECT_EQ(collected.header_count, absl::IsDataLoss(status) ? 1 : 0);
    return status;
  };
  EXPECT_TRUE(absl::IsDataLoss(read([](auto*) {}))) << "no more than cut short";
  const absl::Status newer = read([](auto* header) { header->set_format_version(2); });
  EXPECT_TRUE(absl::IsFailedPrecondition(newer));
  EXPECT_EQ(ReasonOf(newer), "ARCHIVE_NEWER");
  for (const std::function<void(storage::ArchiveHeader*)>& change : std::vector<std::function<void(storage::ArchiveHeader*)>>{
           [](auto* h) { h->set_format_version(0); }, [](auto* h) { h->set_dim(0); }, [](auto* h) { h->set_dim(-1); },
           [](auto* h) { h->set_dim(1 << 30); }, [](auto* h) { h->set_vector_type(loci::v1::VECTOR_TYPE_INT8); },
           [](auto* h) { h->set_vector_type(static_cast<loci::v1::VectorType>(99)); }, [](auto* h) { h->set_passage_count(-1); },
           [](auto* h) { h->set_passage_count(INT64_MAX); }, [](auto* h) { h->set_revision(-1); }, [](auto* h) { h->set_metric("l2"); },
           [](auto* h) { h->set_passage_fingerprint(""); }, [](auto* h) { h->set_query_fingerprint("../../etc/passwd"); },
           [](auto* h) { h->set_index(""); }, [](auto* h) { h->set_index(std::string(300, 'x')); },
           [](auto* h) { h->set_store(std::string(1000, 's')); }}) {
    const absl::Status status = read(change);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_EQ(ReasonOf(status), "ARCHIVE_INVALID");
  }
  Collected collected;
  EXPECT_TRUE(absl::IsInvalidArgument(Read(std::string(kArchiveMagic) + Record(1, "\xff\xff\xff"), &collected)));
}

TEST(Archive, RefusesBlocksWhoseChecksumFitsAndWhoseContentCantBe) {
  const storage::ArchiveHeader header = Header(10);
  const std::string passage = MakePassage(1).SerializeAsString();
  const std::string vector(kDim * sizeof(float), '\0');
  const std::string good = Number(1) + Number(passage.size()) + passage + vector;
  EXPECT_TRUE(absl::IsDataLoss(ReadBlock(good, header))) << "taken, and then cut short";
  float nan[kDim] = {0, std::numeric_limits<float>::quiet_NaN(), 0};
  float infinity[kDim] = {0, 0, std::numeric_limits<float>::infinity()};
  const std::string same = Number(passage.size()) + passage;
  const std::vector<std::string> bad = {
      "",
      Number(0),
      Number(0xffffffff),
      Number(4097) + good,
      Number(1) + Number(0xffffffff) + passage + vector,
      Number(1) + Number(passage.size() + 1) + passage + vector,
      Number(1) + Number(passage.size() + vector.size()) + passage + vector,
      Number(1) + Number(passage.size()) + passage + vector + "x",
      Number(1) + Number(0) + vector,  // Without an id.
      Number(1) + Number(3) + std::string("\x0a\x05x", 3) + vector,
      Number(2) + same + same + vector + vector,  // The same id twice.
      Number(1) + Number(passage.size()) + passage + std::string(reinterpret_cast<const char*>(nan), sizeof(nan)),
      Number(1) + Number(passage.size()) + passage + std::string(reinterpret_cast<const char*>(infinity), sizeof(infinity)),
  };
  for (size_t i = 0; i < bad.size(); ++i) {
    const absl::Status status = ReadBlock(bad[i], header);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << i << ": " << status;
    EXPECT_EQ(ReasonOf(status), "ARCHIVE_INVALID") << i;
  }
  EXPECT_TRUE(absl::IsDataLoss(ReadBlock(good, Header(0)))) << "more passages than the header says";
}

TEST(Archive, AsksForNoMemoryThatIsNotThere) {
  // Lengths that say much, before anything of it comes.
  ArchiveWriter writer(Header(int64_t{1} << 40));
  const std::string begin = writer.Begin();
  Collected read;
  ArchiveReader reader(&read);
  ASSERT_TRUE(reader.Feed(begin).ok());
  EXPECT_TRUE(absl::IsDataLoss(reader.Feed(std::string(8, '\0') + Number(2) + Number(0xfffffff0))));
  Collected other;
  ArchiveReader patient(&other);
  ASSERT_TRUE(patient.Feed(begin).ok());
  EXPECT_TRUE(patient.Feed(std::string(8, '\0') + Number(2) + Number(kMaxArchivePayloadBytes)).ok()) << "it waits for it";
  EXPECT_TRUE(absl::IsDataLoss(patient.Finish()));
}

TEST(Archive, RefusesToWriteABlockThatNobodyWouldRead) {
  ArchiveWriter writer(Header(1));
  (void)writer.Begin();
  loci::v1::Passage passage = MakePassage(0);
  passage.set_text(std::string(kMaxArchivePayloadBytes, 'x'));
  const absl::StatusOr<std::string> block = writer.Block(std::vector<loci::v1::Passage>{passage}, MakeVectors(0, 1).data());
  EXPECT_TRUE(absl::IsFailedPrecondition(block.status()));
  EXPECT_EQ(GetErrorReason(block.status())->metadata.at("id"), "p1000");
}

}  // namespace
}  // namespace loci
