#include "encoder/tokenizer_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kVocabulary[] = R"("[PAD]":0,"[UNK]":1,"[CLS]":2,"[SEP]":3,"a":4,"##b":5)";

// A whole tokenizer.json; each test changes one part of it.
struct Parts {
  std::string normalizer =
      R"({"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true})";
  std::string pre_tokenizer = R"({"type":"BertPreTokenizer"})";
  std::string post_processor = "null";
  std::string added_tokens =
      R"([{"id":3,"content":"[SEP]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}])";
  std::string model_type = R"("WordPiece")";
  std::string max_chars = "100";
  std::string vocabulary = kVocabulary;

  std::string Json() const {
    return R"({"version":"1.0","truncation":{"max_length":3},"padding":{"strategy":{"Fixed":9}},"added_tokens":)" + added_tokens +
           R"(,"normalizer":)" + normalizer + R"(,"pre_tokenizer":)" + pre_tokenizer + R"(,"post_processor":)" + post_processor +
           R"(,"decoder":null,"model":{"type":)" + model_type +
           R"(,"unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":)" + max_chars + R"(,"vocab":{)" +
           vocabulary + "}}}";
  }
};

void ExpectInvalid(const absl::StatusOr<TokenizerSpec>& spec, const std::string& why) {
  ASSERT_FALSE(spec.ok()) << "accepted, but: " << why;
  EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(spec.status().message()), HasSubstr(why));
  const auto reason = GetErrorReason(spec.status());
  ASSERT_TRUE(reason.has_value());
  EXPECT_EQ(reason->reason, "INVALID_TOKENIZER");
}

absl::StatusOr<TokenizerSpec> ParseJson(const Parts& parts) { return ParseTokenizerJson(parts.Json(), "", "m/tokenizer.json"); }

TEST(ParseTokenizerJsonTest, ReadsWhatItNeeds) {
  auto spec = ParseJson(Parts());
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_THAT(spec->vocabulary, ElementsAre("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "##b"));
  EXPECT_EQ(spec->piece_count, 6u);
  ASSERT_EQ(spec->added_tokens.size(), 1u);
  EXPECT_EQ(spec->added_tokens[0].content, "[SEP]");
  EXPECT_EQ(spec->added_tokens[0].id, 3);
  EXPECT_TRUE(spec->options.strip_accents);  // null: as lowercase.
}

TEST(ParseTokenizerJsonTest, StripsAccentsAsToldOrAsLowercase) {
  Parts parts;
  parts.normalizer =
      R"({"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":false,"strip_accents":null,"lowercase":false})";
  auto spec = ParseJson(parts);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_FALSE(spec->options.strip_accents);
  EXPECT_FALSE(spec->options.lowercase);
  EXPECT_FALSE(spec->options.handle_chinese_chars);
  parts.normalizer =
      R"({"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":false,"lowercase":true})";
  spec = ParseJson(parts);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_FALSE(spec->options.strip_accents);
  EXPECT_TRUE(spec->options.lowercase);
}

TEST(ParseTokenizerJsonTest, TakesClsAndSepFromThePostProcessor) {
  Parts parts;
  parts.vocabulary = R"("[UNK]":0,"<s>":1,"</s>":2)";
  parts.added_tokens = "[]";
  parts.post_processor =
      R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"</s>","type_id":0}}]})";
  auto spec = ParseJson(parts);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->options.cls_token, "<s>");
  EXPECT_EQ(spec->options.sep_token, "</s>");
  parts.post_processor = R"({"type":"BertProcessing","sep":["</s>",2],"cls":["<s>",1]})";
  spec = ParseJson(parts);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->options.cls_token, "<s>");
  parts.post_processor = "null";
  spec = ParseTokenizerJson(parts.Json(), R"({"cls_token":"<s>","sep_token":{"content":"</s>"}})", "m/tokenizer.json");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->options.sep_token, "</s>");
}

TEST(ParseTokenizerJsonTest, AddedTokensMayFollowTheVocabulary) {
  Parts parts;
  parts.added_tokens =
      R"([{"id":6,"content":"[NEW]","single_word":false,"lstrip":true,"rstrip":false,"normalized":false,"special":true}])";
  auto spec = ParseJson(parts);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->vocabulary.size(), 7u);
  EXPECT_EQ(spec->piece_count, 6u);
}

TEST(ParseTokenizerJsonTest, RefusesWhatItDoesNotDo) {
  const auto with = [](std::string Parts::*member, std::string value) {
    Parts parts;
    parts.*member = std::move(value);
    return ParseJson(parts);
  };
  ExpectInvalid(with(&Parts::model_type, R"("BPE")"), "model is \"BPE\", only \"WordPiece\"");
  ExpectInvalid(with(&Parts::model_type, "7"), "model is");
  ExpectInvalid(with(&Parts::normalizer, "null"), "normalizer is \"null\"");
  ExpectInvalid(with(&Parts::normalizer, R"({"type":"NFKC"})"), "\"NFKC\"");
  ExpectInvalid(with(&Parts::normalizer, R"({"type":"BertNormalizer","clean_text":1})"), "normalizer.clean_text");
  ExpectInvalid(with(&Parts::pre_tokenizer, R"({"type":"Whitespace"})"), "\"Whitespace\"");
  ExpectInvalid(with(&Parts::post_processor, R"({"type":"RobertaProcessing"})"), "\"RobertaProcessing\"");
  ExpectInvalid(with(&Parts::post_processor, R"({"type":"TemplateProcessing","single":[{"Sequence":{"id":"A"}}]})"),
                "post_processor.single");
  ExpectInvalid(with(&Parts::post_processor, R"({"type":"BertProcessing","sep":"[SEP]","cls":["[CLS]",2]})"),
                "post_processor.sep");
  ExpectInvalid(with(&Parts::post_processor, R"({"type":"BertProcessing","sep":["</s>",3],"cls":["[CLS]",2]})"), "no \"</s>\"");
  for (const char* value : {"0", "-1", "10001", "1e300", "\"100\"", "null"}) {
    ExpectInvalid(with(&Parts::max_chars, value), "max_input_chars_per_word is not in [1, 10000]");
  }
}

TEST(ParseTokenizerJsonTest, NamesABadVocabularyEntry) {
  const auto with = [](std::string vocabulary) {
    Parts parts;
    parts.vocabulary = std::move(vocabulary);
    return ParseJson(parts);
  };
  const std::string good = kVocabulary;
  ExpectInvalid(with(""), "");
  ExpectInvalid(with(good + R"(,"c":7)"), "model.vocab[\"c\"] is \"7\"; ids run from 0 to 6");
  ExpectInvalid(with(good + R"(,"c":5)"), "id 5 is given to both \"##b\" and \"c\"");
  ExpectInvalid(with(good + R"(,"c":-1)"), "model.vocab[\"c\"]");
  ExpectInvalid(with(good + R"(,"c":9223372036854775808)"), "model.vocab[\"c\"]");
  ExpectInvalid(with(good + R"(,"c":6.0)"), "model.vocab[\"c\"]");
  ExpectInvalid(with(good + R"(,"c":{"d":[]})"), "model.vocab[\"c\"]");
  ExpectInvalid(with(good + R"(,"":6)"), "id 6");
  ExpectInvalid(with(good + R"(,"a":6)"), "model.vocab[\"a\"] is \"6\"");  // The last of equal keys counts, so one id is missing.
  ExpectInvalid(with(R"("[CLS]":0,"[SEP]":1)"), "[SEP]");                  // The added token's id is another.
}

TEST(ParseTokenizerJsonTest, NamesABadAddedToken) {
  const auto with = [](std::string token) {
    Parts parts;
    parts.added_tokens = "[" + token + "]";
    return ParseJson(parts);
  };
  ExpectInvalid(with(R"({"id":2,"content":"[SEP]","single_word":false,"normalized":false})"), "its id is not 3");
  ExpectInvalid(with(R"({"id":8,"content":"[NEW]","single_word":false,"normalized":false})"), "its id is not 6, the next");
  ExpectInvalid(with(R"({"id":3,"content":"[SEP]","single_word":true,"normalized":false})"), "not supported");
  ExpectInvalid(with(R"({"id":3,"content":"[SEP]","single_word":false,"normalized":true})"), "not supported");
  ExpectInvalid(with(R"({"id":3,"content":"","single_word":false,"normalized":false})"), "content is empty");
  ExpectInvalid(with("7"), "added_tokens[0].content");
}

TEST(ParseTokenizerJsonTest, RefusesWhatIsNotJson) {
  for (const std::string_view text : {"", "{", "[]", "nonsense", "{\"model\":\"\xFF\"}"}) {
    ExpectInvalid(ParseTokenizerJson(text, "", "m/tokenizer.json"), "m/tokenizer.json: ");
  }
  ExpectInvalid(ParseTokenizerJson(std::string(1 << 20, '['), "", "f"), "not JSON");
  ExpectInvalid(ParseTokenizerJson(Parts().Json(), "{", "m/tokenizer.json"), "m/tokenizer_config.json: is not JSON");
}

TEST(ParseVocabularyTextTest, ReadsLinesWithAndWithoutCarriageReturns) {
  for (const std::string_view text : {"[UNK]\n[CLS]\n[SEP]\na\n", "[UNK]\r\n[CLS]\r\n[SEP]\r\na"}) {
    auto spec = ParseVocabularyText(text, "", "vocab.txt");
    ASSERT_TRUE(spec.ok()) << spec.status();
    EXPECT_THAT(spec->vocabulary, ElementsAre("[UNK]", "[CLS]", "[SEP]", "a"));
    EXPECT_EQ(spec->added_tokens.size(), 3u);  // No [PAD] and no [MASK]: their names in a text are plain text.
    EXPECT_TRUE(spec->options.lowercase);
  }
}

TEST(ParseVocabularyTextTest, FollowsTheConfiguration) {
  auto spec = ParseVocabularyText(
      "<u>\n<c>\n<s>\n",
      R"({"do_lower_case":false,"tokenize_chinese_chars":false,"unk_token":"<u>","cls_token":"<c>","sep_token":"<s>"})",
      "vocab.txt");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_FALSE(spec->options.lowercase);
  EXPECT_FALSE(spec->options.strip_accents);
  EXPECT_FALSE(spec->options.handle_chinese_chars);
  EXPECT_EQ(spec->options.unk_token, "<u>");
}

TEST(ParseVocabularyTextTest, RefusesBadLinesAndConfigurations) {
  const std::string good = "[UNK]\n[CLS]\n[SEP]\na\n";
  ExpectInvalid(ParseVocabularyText("", "", "d/vocab.txt"), "d/vocab.txt: the vocabulary is empty");
  ExpectInvalid(ParseVocabularyText(good + "\nb\n", "", "d/vocab.txt"), "id 4 (line 5) is empty");
  ExpectInvalid(ParseVocabularyText(good + "a\n", "", "d/vocab.txt"), "\"a\" has two ids, 3 and 4");
  ExpectInvalid(ParseVocabularyText(good + "\xFF\n", "", "d/vocab.txt"), "line 5");
  ExpectInvalid(ParseVocabularyText("[UNK]\n[CLS]\na\n", "", "d/vocab.txt"), "no \"[SEP]\"");
  ExpectInvalid(ParseVocabularyText(good, R"({"do_lower_case":1})", "d/vocab.txt"),
                "d/tokenizer_config.json: tokenizer.do_lower_case");
  ExpectInvalid(ParseVocabularyText(good, R"({"do_basic_tokenize":false})", "d/vocab.txt"), "do_basic_tokenize");
  ExpectInvalid(ParseVocabularyText(good, R"({"never_split":["x"]})", "d/vocab.txt"), "never_split");
  ExpectInvalid(ParseVocabularyText(good, R"({"sep_token":7})", "d/vocab.txt"), "sep_token");
}

}  // namespace
}  // namespace loci
