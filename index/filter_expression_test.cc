#include "index/filter_expression.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/strings.h"

namespace loci {
namespace {

using ::testing::HasSubstr;

// The tree in text, or the error's message.
std::string Parsed(std::string_view text) {
  const auto filter = FilterExpression::Parse(text);
  if (!filter.ok()) return std::string(StdView(filter.status().message()));
  return (*filter)->ToString();
}

struct Error {
  int64_t position = -1;
  std::string expected;
};

Error ErrorOf(std::string_view text) {
  const auto filter = FilterExpression::Parse(text);
  if (filter.ok()) return {};
  EXPECT_EQ(filter.status().code(), absl::StatusCode::kInvalidArgument);
  const auto reason = GetErrorReason(filter.status());
  if (!reason.has_value()) return {};
  EXPECT_EQ(reason->reason, "INVALID_ARGUMENT");
  EXPECT_EQ(reason->metadata.at("field"), "filter");
  EXPECT_LT(filter.status().message().size(), 500u);
  EXPECT_THAT(std::string(StdView(filter.status().message())), HasSubstr("filter has "));
  EXPECT_THAT(std::string(StdView(filter.status().message())), HasSubstr(absl::StrCat("at byte ", reason->metadata.at("position"))));
  return {std::stoll(reason->metadata.at("position")), reason->metadata.at("expected")};
}

TEST(FilterExpression, ReadsConditions) {
  EXPECT_EQ(Parsed("lang = \"en\""), "`lang` = \"en\"");
  EXPECT_EQ(Parsed("lang == 'en'"), "`lang` = \"en\"");
  EXPECT_EQ(Parsed("lang != 'en'"), "not `lang` = \"en\"");
  EXPECT_EQ(Parsed("year<=2020"), "`year` <= 2020");
  EXPECT_EQ(Parsed("year > -3"), "`year` > -3");
  EXPECT_EQ(Parsed("score >= 0.5"), "`score` >= 0.5");
  EXPECT_EQ(Parsed("score < 1e3"), "`score` < 1000.0");
  EXPECT_EQ(Parsed("draft"), "`draft` = true");
  EXPECT_EQ(Parsed("draft != FALSE"), "not `draft` = false");
  EXPECT_EQ(Parsed("source in (\"b\", 'a', \"b\")"), "`source` in (\"a\", \"b\")");
  EXPECT_EQ(Parsed("source not in (1, 2.5, true, 'x')"), "not `source` in (\"x\", 1, 2.5, true)");
  EXPECT_EQ(Parsed("'x' in tags"), "`tags` = \"x\"");
  EXPECT_EQ(Parsed("'x' not in tags"), "not `tags` = \"x\"");
  EXPECT_EQ(Parsed("has(tags)"), "has(`tags`)");
  EXPECT_EQ(Parsed("a.b_c = 1"), "`a.b_c` = 1");
}

TEST(FilterExpression, OrBindsLessThanAndAndNotBindsMost) {
  EXPECT_EQ(Parsed("a or b and not c or d"), "(`a` = true or (`b` = true and not `c` = true) or `d` = true)");
  EXPECT_EQ(Parsed("(a or b) and c"), "((`a` = true or `b` = true) and `c` = true)");
  EXPECT_EQ(Parsed("not (a and b)"), "not (`a` = true and `b` = true)");
  EXPECT_EQ(Parsed("not not a"), "not not `a` = true");
  EXPECT_EQ(Parsed("((a))"), "`a` = true");
}

TEST(FilterExpression, WordsOfTheLanguageAreTakenInEitherCaseAndNamesAreNot) {
  EXPECT_EQ(Parsed("A AND Not b Or HAS(C) AND d IN (True)"), "((`A` = true and not `b` = true) or (has(`C`) and `d` in (true)))");
  EXPECT_EQ(Parsed("Android"), "`Android` = true");
}

TEST(FilterExpression, BackquotesNameAnyKeyAndReservedNamesAreThePassagesOwn) {
  EXPECT_EQ(Parsed("`and` = 1"), "`and` = 1");
  EXPECT_EQ(Parsed("`content-type` = 'x'"), "`content-type` = \"x\"");
  EXPECT_EQ(Parsed("`a\\`b` = 1"), "`a\\`b` = 1");
  EXPECT_EQ(Parsed("id in ('a') and document_id = 'd' and chunk_index < 3"), "(id in (\"a\") and document_id = \"d\" and chunk_index < 3)");
  EXPECT_EQ(Parsed("`id` = 'a' and `title` = 't'"), "(`id` = \"a\" and `title` = \"t\")");
  const Error title = ErrorOf("lang = 'en' and title = 'x'");
  EXPECT_EQ(title.position, 16);
  EXPECT_THAT(title.expected, HasSubstr("backquotes"));
  EXPECT_EQ(ErrorOf("text = 'x'").position, 0);
}

TEST(FilterExpression, StringsHaveEscapes) {
  const auto filter = FilterExpression::Parse(R"(a = "q\"b\\ \n\r\t\'\` \u00e9\u0041\u20AC" )");
  ASSERT_TRUE(filter.ok()) << filter.status();
  EXPECT_EQ(std::get<std::string>((*filter)->node((*filter)->root()).values[0]), "q\"b\\ \n\r\t'` \u00e9A\u20ac");
  EXPECT_EQ(ErrorOf(R"(a = "x\q")").position, 6);
  EXPECT_EQ(ErrorOf(R"(a = "x\u12")").position, 6);
  EXPECT_EQ(ErrorOf(R"(a = "x\u12)").position, 6);
  EXPECT_EQ(ErrorOf("a = \"x\\").position, 6);
}

TEST(FilterExpression, ASurrogatePairIsOneCharacterAndHalfOfOneIsNone) {
  EXPECT_EQ(Parsed(R"(a = "x\ud83d\ude00y")"), "`a` = \"x\xF0\x9F\x98\x80y\"");
  EXPECT_EQ(Parsed(R"(`\uD83D\uDE00` = "\ud800\udc00\uDBFF\uDFFF\ud7ff\ue000")"),
            "`\xF0\x9F\x98\x80` = \"\xF0\x90\x80\x80\xF4\x8F\xBF\xBF\xED\x9F\xBF\xEE\x80\x80\"");
  for (const char* lone : {R"(a = "x\ud800")", R"(a = "x\ude00\ud83d")", R"(a = "x\ud83d\ud83d\ude00")", R"(a = "x\ud83d\u0041")",
                           R"(a = "x\ud83d\n")", R"(a = "x\ud83dude00")", R"(a = "x\ud83d\ude0")", R"(a = "x\ud83d\u)", R"(a = "x\ud83d\)", R"(a = "x\ud83d)"}) {
    const Error error = ErrorOf(lone);
    EXPECT_EQ(error.position, 6) << lone;
    EXPECT_THAT(error.expected, HasSubstr("surrogate pair")) << lone;
  }
  EXPECT_EQ(ErrorOf(R"(a = "\ud83d\ude00\ude00")").position, 17) << "the half that is left";
}

TEST(FilterExpression, NumbersAreExactOrRefused) {
  EXPECT_EQ(Parsed("a = 9223372036854775807"), "`a` = 9223372036854775807");
  EXPECT_EQ(Parsed("a = -9223372036854775808"), "`a` = -9223372036854775808");
  EXPECT_EQ(ErrorOf("a = 9223372036854775808").position, 4);
  EXPECT_EQ(Parsed("a = 9223372036854775808.0"), "`a` = 9223372036854775808.0");
  EXPECT_EQ(Parsed("a = 1e-999"), "`a` = 0.0");
  EXPECT_EQ(ErrorOf("a = 1e999").position, 4);
  EXPECT_EQ(ErrorOf("a = -").position, 5);
  EXPECT_EQ(ErrorOf("a = 1.").position, 6);
  EXPECT_EQ(ErrorOf("a = 1.e3").position, 6);
  EXPECT_EQ(ErrorOf("a = 1e").position, 6);
  EXPECT_EQ(ErrorOf("a = 12x").position, 6);
  EXPECT_EQ(ErrorOf("a = nan").position, 4);
}

TEST(FilterExpression, ErrorsSayWhereAndWhatWasExpected) {
  const std::pair<std::string, std::pair<int64_t, std::string>> kCases[] = {
      {" ", {1, "a condition"}},
      {"lang = ", {7, "a value"}},
      {"lang = en", {7, "a string in quotes"}},
      {"lang = \"en", {10, "the closing \""}},
      {"lang 'en'", {5, "\"and\", \"or\" or the end"}},
      {"lang = 'en' year = 3", {12, "\"and\", \"or\" or the end"}},
      {"(a or b", {7, "\")\""}},
      {"a)", {1, "the end"}},
      {"a and", {5, "a condition"}},
      {"and a", {0, "a condition"}},
      {"not", {3, "a condition"}},
      {"a in b", {5, "\"(\" after \"in\""}},
      {"a in ()", {6, "a value"}},
      {"a in ('x',)", {10, "a value"}},
      {"a in ('x' 'y')", {10, "\",\" or \")\""}},
      {"a not 3", {6, "\"in\" after \"not\""}},
      {"'x' = a", {4, "\"in\" or \"not in\""}},
      {"'x' in 'y'", {7, "a field"}},
      {"3 < a", {0, "a condition"}},
      {"true", {0, "a condition"}},
      {"a < true", {2, "before true or false"}},
      {"has a", {4, "\"(\" after \"has\""}},
      {"has(a", {5, "\")\""}},
      {"has('a')", {4, "a field"}},
      {"a ! b", {2, "an operator"}},
      {"a && b", {2, "an operator"}},
      {"a = #", {4, "a value"}},
      {"`` = 1", {0, "not empty"}},
      {"a = 'x' and b = \"\xC3\xA9\" and \xE2\x82\xAC", {25, "a name"}},
  };
  for (const auto& [text, expected] : kCases) {
    const Error error = ErrorOf(text);
    EXPECT_EQ(error.position, expected.first) << text << ": " << Parsed(text);
    EXPECT_THAT(error.expected, HasSubstr(expected.second)) << text;
  }
  EXPECT_EQ(Parsed("lang = en"), "filter has 'en' at byte 7; expected a value: a string in quotes, a number, true or false");
}

TEST(FilterExpression, RefusesWhatIsNotUtf8) {
  const Error error = ErrorOf("a = '\xff'");
  EXPECT_EQ(error.position, 5);
  EXPECT_EQ(error.expected, "UTF-8");
}

TEST(FilterExpression, DepthIsBounded) {
  const auto nested = [](int depth) { return std::string(depth, '(') + "a" + std::string(depth, ')'); };
  EXPECT_EQ(Parsed(nested(kMaxFilterDepth)), "`a` = true");
  EXPECT_EQ(ErrorOf(nested(kMaxFilterDepth + 1)).position, kMaxFilterDepth);
  EXPECT_THAT(ErrorOf(nested(100'000)).expected, HasSubstr("at most 64 levels"));
  std::string nots;
  for (int i = 0; i < 50'000; ++i) nots += "not ";
  EXPECT_EQ(ErrorOf(nots + "a").position, 4 * kMaxFilterDepth);
}

TEST(FilterExpression, LengthConditionsAndListsAreBounded) {
  EXPECT_THAT(ErrorOf(std::string(kMaxFilterBytes + 1, ' ')).expected, HasSubstr("at most 262144 bytes"));
  std::string many = "a";
  for (int i = 1; i < kMaxFilterConditions; ++i) many += " or a";
  EXPECT_TRUE(FilterExpression::Parse(many).ok());
  EXPECT_THAT(ErrorOf(many + " or a").expected, HasSubstr("at most 1000 conditions"));
  std::string list = "a in (0";
  for (int i = 1; i < kMaxFilterListValues; ++i) absl::StrAppend(&list, ",", i);
  EXPECT_TRUE(FilterExpression::Parse(list + ")").ok());
  EXPECT_THAT(ErrorOf(list + ",1)").expected, HasSubstr("at most 10000 values"));
  EXPECT_THAT(ErrorOf(list + ") or b in (1)").expected, HasSubstr("at most 10000 values"));
}

TEST(FilterExpression, ComparesIntegersWithDoublesByTheirExactValues) {
  constexpr int64_t kBig = int64_t{1} << 53;
  EXPECT_EQ(CompareExactly(kBig + 1, static_cast<double>(kBig)), 1);
  EXPECT_EQ(CompareExactly(kBig, static_cast<double>(kBig)), 0);
  EXPECT_EQ(CompareExactly(kBig - 1, static_cast<double>(kBig)), -1);
  EXPECT_EQ(CompareExactly(std::numeric_limits<int64_t>::max(), 9223372036854775808.0), -1);
  EXPECT_EQ(CompareExactly(std::numeric_limits<int64_t>::min(), -9223372036854775808.0), 0);
  EXPECT_EQ(CompareExactly(std::numeric_limits<int64_t>::min(), -1e300), 1);
  EXPECT_EQ(CompareExactly(0, std::numeric_limits<double>::infinity()), -1);
  EXPECT_EQ(CompareExactly(0, -std::numeric_limits<double>::infinity()), 1);
  EXPECT_EQ(CompareExactly(0, -0.0), 0);
  EXPECT_EQ(CompareExactly(3, 3.5), -1);
  EXPECT_EQ(CompareExactly(4, 3.5), 1);
  EXPECT_EQ(CompareExactly(-3, -3.5), 1);
  EXPECT_EQ(CompareExactly(-4, -3.5), -1);
}

}  // namespace
}  // namespace loci
