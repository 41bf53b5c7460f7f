#include "retriever/sentence_splitter.h"

#include <string>
#include <string_view>
#include <vector>

#include "base/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<std::string> Split(std::string_view text, size_t max_sentences = 100, size_t max_bytes = 1000) {
  std::vector<std::string> sentences;
  for (const SentenceSpan& span : SplitSentences(text, max_sentences, max_bytes)) {
    sentences.emplace_back(text.substr(span.start, span.end - span.start));
  }
  return sentences;
}

TEST(SplitSentences, EndsAtTerminatorsBeforeWhiteSpace) {
  EXPECT_THAT(Split("Loci finds passages. It reads them! Does it answer? Yes"),
              ElementsAre("Loci finds passages.", "It reads them!", "Does it answer?", "Yes"));
  EXPECT_THAT(Split("  one  "), ElementsAre("one"));
  EXPECT_THAT(Split("Wait... What?! \"Really.\" (Yes.) Done."),
              ElementsAre("Wait...", "What?!", "\"Really.\"", "(Yes.)", "Done."));
}

TEST(SplitSentences, KeepsNumbersInitialsAndAbbreviations) {
  EXPECT_THAT(Split("Version 3.5 of J. R. Smith, e.g. Dr. Who of the U.S. Army et al. No end vs. None. End."),
              ElementsAre("Version 3.5 of J. R. Smith, e.g. Dr. Who of the U.S. Army et al. No end vs. None.", "End."));
  EXPECT_THAT(Split("See www.example.org for more. it goes on."), ElementsAre("See www.example.org for more. it goes on."));
}

TEST(SplitSentences, EndsAtEmptyLinesAndBullets) {
  EXPECT_THAT(Split("A title\n\nThe text\ngoes on\n - one\n - two"), ElementsAre("A title", "The text\ngoes on", "- one", "- two"));
}

TEST(SplitSentences, EndsAtFullWidthTerminators) { EXPECT_THAT(Split("これは本。あれは？はい"), ElementsAre("これは本。", "あれは？", "はい")); }

TEST(SplitSentences, NothingInNothingOut) {
  EXPECT_THAT(Split(""), IsEmpty());
  EXPECT_THAT(Split(" \n\t\n "), IsEmpty());
  EXPECT_THAT(Split("text", 0), IsEmpty());
}

TEST(SplitSentences, CutsLongSentencesAtWhiteSpaceAndNeverInACharacter) {
  EXPECT_THAT(Split("aaa bbb ccc ddd", 100, 8), ElementsAre("aaa bbb", "ccc ddd"));
  EXPECT_THAT(Split("aaaaaaaaaa", 100, 4), ElementsAre("aaaa", "aaaa", "aa"));
  std::string long_text;
  for (int i = 0; i < 1000; ++i) long_text += "\u00e9\u4e2d\U0001f600";
  for (const SentenceSpan& span : SplitSentences(long_text, 10'000, 10)) {
    EXPECT_LE(span.end - span.start, 10);
    EXPECT_TRUE(IsValidUtf8(std::string_view(long_text).substr(span.start, span.end - span.start)));
  }
}

TEST(SplitSentences, TakesLinearTimeForRunsOfTerminators) {
  const std::string text = std::string(1'000'000, '?') + "x";  // Quadratic time would take minutes.
  EXPECT_EQ(SplitSentences(text, 1, text.size()).size(), 1u);
  EXPECT_EQ(SplitSentences("a" + std::string(1'000'000, '\n') + "b", 9).size(), 2u);
}

TEST(SplitSentences, StopsAtTheLimit) { EXPECT_THAT(Split("A b. C d. E f.", 2), ElementsAre("A b.", "C d.")); }

}  // namespace
}  // namespace loci
