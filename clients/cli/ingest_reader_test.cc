#include "clients/cli/ingest_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "clients/cli/input_testing.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string Zstd(const std::string& text, int window_log = 0) {
  ZSTD_CCtx* const context = ZSTD_createCCtx();
  if (window_log > 0) ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  std::string out(ZSTD_compressBound(text.size()) + 64, '\0');
  ZSTD_inBuffer in = {text.data(), text.size(), 0};
  ZSTD_outBuffer to = {out.data(), out.size(), 0};
  // In two steps: where the size is not known beforehand the frame keeps its window.
  ZSTD_compressStream2(context, &to, &in, ZSTD_e_flush);
  EXPECT_EQ(ZSTD_compressStream2(context, &to, &in, ZSTD_e_end), 0u);
  ZSTD_freeCCtx(context);
  out.resize(to.pos);
  return out;
}

class IngestReaderTest : public InputFilesTest {
 protected:
  // Everything that a path holds.
  struct Content {
    std::vector<PassageRecord> records;
    std::vector<std::string> errors;  // "line: message".
    std::vector<std::string> unused_fields;
    absl::Status status;
    std::vector<std::string> ids() const {
      std::vector<std::string> ids;
      for (const PassageRecord& record : records) ids.push_back(record.passage.id());
      return ids;
    }
  };
  static Content ReadPath(const std::string& path, IngestFormat format = IngestFormat::kAuto, size_t max_line_bytes = 1 << 16) {
    Content content;
    auto reader = IngestReader::Open(path, format, {.max_line_bytes = max_line_bytes});
    content.status = reader.status();
    while (content.status.ok()) {
      PassageRecord record;
      const absl::StatusOr<IngestReader::Result> result = (*reader)->Next(&record);
      content.status = result.status();
      if (!result.ok() || *result == IngestReader::kEnd) break;
      if (*result == IngestReader::kPassage) {
        content.records.push_back(record);
      } else {
        content.errors.push_back(std::to_string((*reader)->place().line) + ": " + (*reader)->error());
      }
    }
    if (reader.ok()) content.unused_fields.assign((*reader)->unused_fields().begin(), (*reader)->unused_fields().end());
    return content;
  }
  Content Read(const std::string& name, const std::string& text, IngestFormat format = IngestFormat::kAuto) {
    return ReadPath(Write(name, text), format);
  }

};

TEST_F(IngestReaderTest, ReadsEveryFieldOfJsonl) {
  const Content content =
      Read("a.jsonl", R"({"id": "p1", "title": "T", "text": "Ä text", "metadata": {"s": "x", "i": -7, "d": 0.5, "b": true,)"
                      R"( "l": ["u", "v"], "n": null}, "document_id": 12, "chunk_index": 3, "vector": [1, -0.5], "url": "u"})"
                      "\n");
  ASSERT_TRUE(content.status.ok()) << content.status;
  ASSERT_THAT(content.errors, IsEmpty());
  ASSERT_EQ(content.records.size(), 1u);
  const v1::Passage& passage = content.records[0].passage;
  EXPECT_EQ(passage.id(), "p1");
  EXPECT_EQ(passage.title(), "T");
  EXPECT_EQ(passage.text(), "Ä text");
  EXPECT_EQ(passage.document_id(), "12");
  EXPECT_EQ(passage.chunk_index(), 3);
  ASSERT_EQ(passage.metadata_size(), 5);
  EXPECT_EQ(passage.metadata().at("s").string_value(), "x");
  EXPECT_EQ(passage.metadata().at("i").int64_value(), -7);
  EXPECT_EQ(passage.metadata().at("d").double_value(), 0.5);
  EXPECT_TRUE(passage.metadata().at("b").bool_value());
  EXPECT_THAT(passage.metadata().at("l").string_list_value().values(), ElementsAre("u", "v"));
  EXPECT_THAT(content.records[0].vector, ElementsAre(1.0f, -0.5f));
  EXPECT_THAT(content.unused_fields, ElementsAre("url"));
}

TEST_F(IngestReaderTest, TakesIntegersAsIdsAndUnderscoreId) {
  EXPECT_THAT(
      Read("a.jsonl", "{\"_id\": 5, \"text\": \"a\"}\n{\"id\": -6, \"text\": \"b\"}\n{\"_id\":\"x\",\"id\":\"x\",\"text\":\"c\"}")
          .ids(),
      ElementsAre("5", "-6", "x"));
}

TEST_F(IngestReaderTest, ReportsEachBadLineWithItsNumberAndTakesTheOthers) {
  const std::string good = "{\"id\": \"good\", \"text\": \"t\"}";
  const std::string deep =
      "{\"id\": \"d\", \"text\": \"t\", \"metadata\": " + std::string(100'000, '[') + std::string(100'000, ']') + "}";
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"{\"id\": \"x\", \"text\": \"\xff\"}", "not valid UTF-8 at byte 22"},
      {"{\"id\": \"x\", \"text\": \"t\"", "not valid JSON"},
      {"{\"id\": \"x\", \"text\": NaN}", "not valid JSON"},
      {"{\"id\": \"x\", \"text\": \"t\", \"metadata\": {\"d\": 1e999}}", "the number '1e999' at byte "},
      {"{\"id\": \"x\", \"text\": \"t\"} trailing", "not valid JSON"},
      {"{\"id\": \"x\", \"text\": \"a\", \"text\": \"b\"}", "\"text\" comes twice"},
      {"{\"id\": \"x\", \"text\": \"t\", \"metadata\": {\"k\": 1, \"k\": 2}}", "\"k\" comes twice"},
      {"{\"text\": \"t\"}", "\"id\" (or \"_id\") is missing"},
      {"{\"id\": \"\", \"text\": \"t\"}", "\"id\" is empty"},
      {"{\"id\": \"a\\u0000b\", \"text\": \"t\"}", "NUL"},
      {"{\"id\": \"" + std::string(513, 'i') + "\", \"text\": \"t\"}", "has 513 bytes, the limit is 512"},
      {"{\"id\": 1.5, \"text\": \"t\"}", "not whole"},
      {"{\"id\": [1], \"text\": \"t\"}", "is an array"},
      {"{\"id\": \"a\", \"_id\": \"b\", \"text\": \"t\"}", "differ"},
      {"{\"id\": \"x\", \"text\": 5}", "field \"text\" is a number"},
      {"{\"id\": \"x\", \"text\": {}}", "field \"text\" is an object"},
      {"[\"x\"]", "an array where an object is needed"},
      {"{\"id\": \"x\", \"text\": \"t\", \"metadata\": {\"n\": 1e400}}", "the number '1e400' at byte "},
      {"{\"id\": \"x\", \"title\": \" \", \"text\": \"\\n\"}", "both empty"},
      {"{\"id\": \"x\"}", "both empty"},
      {"[1, 2]", "where an object is needed"},
      {"{\"id\": \"x\", \"text\": \"t\", \"metadata\": {\"o\": {}}}", "metadata.o"},
      {"{\"id\": \"x\", \"text\": \"t\", \"metadata\": {\"l\": [1]}}", "only strings"},
      {"{\"id\": \"x\", \"text\": \"t\", \"metadata\": {\"i\": 18446744073709551615}}", "beyond a 64-bit"},
      {"{\"id\": \"x\", \"text\": \"t\", \"metadata\": []}", "field \"metadata\""},
      {"{\"id\": \"x\", \"text\": \"t\", \"chunk_index\": -1}", "outside 0 to"},
      {"{\"id\": \"x\", \"text\": \"t\", \"chunk_index\": 4294967296}", "outside 0 to"},
      {"{\"id\": \"x\", \"text\": \"\\ud800\"}", "not valid JSON"},
      {deep, "longer than 65536"},
      {"{\"id\": \"x\", \"text\": " + std::string(10'000, '['), "nested deeper than 32"},
      {"\x1b[31m", "not valid JSON"},
  };
  std::string text;
  for (const auto& [line, message] : bad) text += line + "\n" + good + "\r\n\n";
  const Content content = Read("bad.jsonl", text);
  ASSERT_TRUE(content.status.ok()) << content.status;
  EXPECT_EQ(content.records.size(), bad.size());
  ASSERT_EQ(content.errors.size(), bad.size());
  for (size_t i = 0; i < bad.size(); ++i) {
    EXPECT_THAT(content.errors[i], HasSubstr(bad[i].second)) << bad[i].first.substr(0, 100);
    EXPECT_THAT(content.errors[i], ::testing::StartsWith(std::to_string(3 * i + 1) + ": ")) << bad[i].first.substr(0, 100);
  }
}

TEST_F(IngestReaderTest, StopsAtDeepNestingWithoutTheLineLimit) {
  const std::string deep = "{\"id\": \"d\", \"text\": \"t\", \"x\": " + std::string(1'000'000, '[');
  const Content content = ReadPath(Write("deep.jsonl", deep), IngestFormat::kAuto, 16 << 20);
  ASSERT_EQ(content.errors.size(), 1u);
  EXPECT_THAT(content.errors[0], HasSubstr("nested deeper than 32"));
}

TEST_F(IngestReaderTest, WantsVectorsOfOneDimensionFromAllOrNone) {
  const Content with =
      Read("v.jsonl",
           "{\"id\":\"a\",\"text\":\"t\",\"vector\":[1,2]}\n{\"id\":\"b\",\"text\":\"t\"}\n"
           "{\"id\":\"c\",\"text\":\"t\",\"vector\":[1,2,3]}\n{\"id\":\"d\",\"text\":\"t\",\"vector\":[1,1e39]}\n"
           "{\"id\":\"e\",\"text\":\"t\",\"vector\":[]}\n{\"id\":\"f\",\"text\":\"t\",\"vector\":[3,4]}\n");
  EXPECT_THAT(with.ids(), ElementsAre("a", "f"));
  EXPECT_THAT(with.errors,
              ElementsAre(HasSubstr("missing"), HasSubstr("3 numbers"), HasSubstr("float32"), HasSubstr("list of numbers")));
  const Content without = Read("w.jsonl", "{\"id\":\"a\",\"text\":\"t\"}\n{\"id\":\"b\",\"text\":\"t\",\"vector\":[1]}\n");
  EXPECT_THAT(without.ids(), ElementsAre("a"));
}

TEST_F(IngestReaderTest, ReadsDprTsvWithQuotesAndHeader) {
  const Content content = Read("psgs.tsv",
                               "id\ttext\ttitle\n1\t\"a \"\"quoted\"\" word\tand a tab\"\tT1\n2\tplain 5\" disk\tT2\n"
                               "3\t\"two\nlines\"\tT3\n4\tno title\n\n5\tx\ty\tz\n6\tt\t\"T6\"\n");
  ASSERT_TRUE(content.status.ok());
  ASSERT_THAT(content.ids(), ElementsAre("1", "2", "3", "6"));
  EXPECT_EQ(content.records[0].passage.text(), "a \"quoted\" word\tand a tab");
  EXPECT_EQ(content.records[0].passage.title(), "T1");
  EXPECT_EQ(content.records[1].passage.text(), "plain 5\" disk");
  EXPECT_EQ(content.records[2].passage.text(), "two\nlines");
  EXPECT_EQ(content.records[3].passage.title(), "T6");
  EXPECT_THAT(content.errors, ElementsAre("6: 2 columns where the header has 3", "8: 4 columns where the header has 3"));
}

TEST_F(IngestReaderTest, ReadsTsvWithoutHeaderAndWithOtherColumns) {
  const Content content = Read("a.tsv", "1\ttext one\ttitle\n2\ttext two\nonly\n\xff\tx\n");
  EXPECT_THAT(content.ids(), ElementsAre("1", "2"));
  EXPECT_THAT(content.errors,
              ElementsAre(HasSubstr("3: 1 column where id<TAB>text<TAB>title"), HasSubstr("4: column 1 is not valid UTF-8")));
  const Content ordered = Read("b.tsv", "title\tid\ttext\tchunk_index\nT\tx\tbody\t2\nT\ty\tbody\t-2\n");
  ASSERT_THAT(ordered.ids(), ElementsAre("x"));
  EXPECT_EQ(ordered.records[0].passage.text(), "body");
  EXPECT_EQ(ordered.records[0].passage.chunk_index(), 2);
}

TEST_F(IngestReaderTest, AStrayQuoteInTsvCostsOneLine) {
  std::string text = "1\tone\n2\t\"never closed\n";
  for (int i = 3; i < 2500; ++i) text += std::to_string(i) + "\tline\n";
  const Content content = Read("q.tsv", text);
  EXPECT_EQ(content.records.size(), 2498u);
  EXPECT_THAT(content.errors, ElementsAre(HasSubstr("2: a quoted field")));
}

TEST_F(IngestReaderTest, ReadsGzipOfSeveralMembersWhateverTheName) {
  const std::string a = Gzip("{\"id\": \"a\", \"text\": \"t\"}\n{\"id\": \"b\", "), b = Gzip("\"text\": \"u\"}\n"),
                    empty = Gzip("");
  EXPECT_THAT(Read("x.jsonl", a + empty + b).ids(), ElementsAre("a", "b"));
  EXPECT_THAT(Read("plain.jsonl.gz", "{\"id\": \"a\", \"text\": \"t\"}").ids(), ElementsAre("a"));
}

TEST_F(IngestReaderTest, DamagedGzipIsDataLossAfterWhatCameBefore) {
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += "{\"id\": \"" + std::to_string(i * 7919) + "\", \"text\": \"t\"}\n";
  const std::string zipped = Gzip(text);
  EXPECT_EQ(Read("cut.jsonl.gz", zipped.substr(0, zipped.size() / 2)).status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Read("crc.jsonl.gz", zipped.substr(0, zipped.size() - 8) + std::string(8, '\1')).status.code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(Read("short.jsonl.gz", zipped.substr(0, zipped.size() - 3)).status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Read("tail.jsonl.gz", zipped + "garbage").status.code(), absl::StatusCode::kDataLoss);
  std::string flipped = zipped;
  flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] ^ 0x55);
  EXPECT_EQ(Read("flip.jsonl.gz", flipped).status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Read("whole.jsonl.gz", zipped).records.size(), 20'000u);
}

TEST_F(IngestReaderTest, TellsTheFormatByNameThenByContent) {
  const std::string json = "\xEF\xBB\xBF{\"id\": \"a\", \"text\": \"t\"}\n", tsv = "a\tt\n";
  EXPECT_THAT(Read("noname", json).ids(), ElementsAre("a"));
  EXPECT_THAT(Read("noname2", tsv).ids(), ElementsAre("a"));
  EXPECT_THAT(Read("x.tsv.gz", Gzip(tsv)).ids(), ElementsAre("a"));
  EXPECT_EQ(Read("neither", "hello\n").status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Read("x.jsonl", json, IngestFormat::kMarkdown).ids(), ElementsAre("x.jsonl#0"));
  EXPECT_THAT(Read("x.md", "# T\ntext").ids(), ElementsAre("x.md#0"));
  EXPECT_EQ(Read("x.bin", json, IngestFormat::kDocuments).status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadPath(directory_ + "/absent").status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Read("empty", "").status.ok());
}

TEST_F(IngestReaderTest, ReadsABeirFolderOrAllFilesOfAFolder) {
  Write("beir/corpus.jsonl.gz", Gzip("{\"_id\": \"4983\", \"title\": \"T\", \"text\": \"x\", \"metadata\": {}}\n"));
  Write("beir/queries.jsonl", "{\"_id\": \"q\", \"text\": \"x\"}\n");
  EXPECT_THAT(ReadPath(directory_ + "/beir").ids(), ElementsAre("4983"));
  EXPECT_THAT(ReadPath(directory_ + "/beir", IngestFormat::kBeir).ids(), ElementsAre("4983"));
  Write("many/b.tsv", "b\tt\n");
  Write("many/a.jsonl", "{\"id\": \"a\", \"text\": \"t\"}\n");
  Write("many/readme.md", "# R");
  EXPECT_THAT(ReadPath(directory_ + "/many").ids(), ElementsAre("a", "b"));
  EXPECT_EQ((*IngestReader::Open(directory_ + "/many", IngestFormat::kAuto))->passed_over_files().size(), 1u);
  EXPECT_EQ(ReadPath(directory_ + "/many", IngestFormat::kBeir).status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(ReadPath(directory_ + "/many", IngestFormat::kDocuments).ids(), ElementsAre("readme.md#0"));
  Write("docs/readme.txt", "text");
  Write("docs/package.json", "{}");
  EXPECT_THAT(ReadPath(directory_ + "/docs").ids(), ElementsAre("readme.txt#0"));
  EXPECT_TRUE((*IngestReader::Open(directory_ + "/docs", IngestFormat::kAuto))->reads_documents());
  EXPECT_FALSE((*IngestReader::Open(directory_ + "/many", IngestFormat::kAuto))->reads_documents());
}

TEST_F(IngestReaderTest, PassesOverALineBeyondTheLimitToItsEnd) {
  const std::string huge = "{\"id\": \"h\", \"text\": \"" + std::string(3 << 20, 'x') + "\"}\n";
  const Content content = Read("huge.jsonl", huge + "{\"id\": \"a\", \"text\": \"t\"}\n" + huge);
  EXPECT_THAT(content.ids(), ElementsAre("a"));
  EXPECT_THAT(content.errors, ElementsAre(HasSubstr("1: the line is longer"), HasSubstr("3: the line is longer")));
}

TEST_F(IngestReaderTest, ReadsZstdOfSeveralFramesByContentNotName) {
  std::string lines;
  for (int i = 0; i < 50'000; ++i) lines += "{\"id\": " + std::to_string(i) + ", \"text\": \"t\"}\n";
  const Content content = Read("a.jsonl", Zstd(lines.substr(0, lines.size() / 3)) + Zstd("") + Zstd(lines.substr(lines.size() / 3)));
  EXPECT_TRUE(content.status.ok()) << content.status;
  EXPECT_EQ(content.records.size(), 50'000u);
  EXPECT_EQ(Read("b.tsv.zst", Zstd("x\ttext\n")).ids(), std::vector<std::string>{"x"});
  EXPECT_TRUE(Read("empty.jsonl.zst", Zstd("")).status.ok());
}

TEST_F(IngestReaderTest, DamagedZstdIsAnErrorWhereverItIsCut) {
  std::string lines;
  for (int i = 0; i < 500; ++i) lines += "{\"id\": " + std::to_string(i * 7919) + ", \"text\": \"t\"}\n";
  const std::string zstd = Zstd(lines);
  for (size_t size = 4; size < zstd.size(); size += 1 + size / 20) {
    const absl::Status status = Read("cut.jsonl.zst", zstd.substr(0, size)).status;
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << size << " " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("cut short"));
  }
  EXPECT_EQ(Read("cut.jsonl.zst", zstd.substr(0, zstd.size() - 1)).status.code(), absl::StatusCode::kDataLoss);
  std::string flipped = zstd;
  flipped[zstd.size() / 2] ^= 0x40;  // The checksum of the content finds what the decoder does not.
  EXPECT_THAT(std::string(Read("flipped.jsonl.zst", flipped).status.message()), HasSubstr("the zstd data is damaged near byte"));
  EXPECT_THAT(std::string(Read("more.jsonl.zst", zstd + "nonsense").status.message()), HasSubstr("bytes that are not zstd follow"));
}

TEST_F(IngestReaderTest, AZstdBombEndsAsALineThatIsTooLong) {
  const std::string bomb = Zstd(std::string(200 << 20, 'x'));  // One line.
  EXPECT_LT(bomb.size(), 100'000u);
  const Content content = Read("bomb.jsonl.zst", bomb);
  EXPECT_TRUE(content.status.ok()) << content.status;
  EXPECT_THAT(content.errors, ElementsAre(HasSubstr("1: the line is longer than 65536 bytes")));
  // A frame that asks for 1 GiB of window is refused before that is taken.
  EXPECT_THAT(std::string(Read("window.jsonl.zst", Zstd(std::string(1 << 20, 'x'), 30)).status.message()),
              HasSubstr("needs a window beyond the limit of 128 MiB"));
}

}  // namespace
}  // namespace loci
