#include "clients/cli/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Fixture {
  Fixture() {
    flags.Positional("STORE", &store, "The store.");
    flags.PositionalList("ID", &ids, "Ids.", 0);
    flags.Int("top-k", &top_k, 1, 100, "How many.");
    flags.Choice("output", &output, {"table", "json"}, "How.", 'o');
    flags.Bool("exact", &exact, "All.");
    flags.Duration("timeout", &timeout_ms, "When.");
    flags.Double("rate", &rate, 0, 10, "How often.");
  }
  std::string Error(const std::vector<std::string>& args) { return std::string(flags.Parse(args).message()); }
  FlagSet flags;
  std::string store, output = "table";
  std::vector<std::string> ids;
  int64_t top_k = 10, timeout_ms = 0;
  bool exact = false;
  double rate = 0;
};

TEST(FlagSet, ParsesEveryForm) {
  Fixture f;
  ASSERT_TRUE(
      f.flags.Parse({"s", "--top-k=5", "a", "-o", "json", "--exact", "[b,c]", "--timeout", "1.5m", "--rate=2.5", "--", "--d", ""})
          .ok());
  EXPECT_EQ(f.store, "s");
  EXPECT_THAT(f.ids, ElementsAre("a", "[b,c]", "--d", ""));
  EXPECT_EQ(f.top_k, 5);
  EXPECT_EQ(f.output, "json");
  EXPECT_TRUE(f.exact);
  Fixture short_one;
  ASSERT_TRUE(short_one.flags.Parse({"s", "--timeout", "0.4ms"}).ok());
  EXPECT_EQ(short_one.timeout_ms, 1) << "only 0 is never";
  EXPECT_EQ(f.timeout_ms, 90'000);
  EXPECT_EQ(f.rate, 2.5);
  EXPECT_TRUE(f.flags.WasGiven("top-k"));
  Fixture g;
  ASSERT_TRUE(g.flags.Parse({"-", "-ojson", "--exact=false"}).ok());
  EXPECT_EQ(g.store, "-");
  EXPECT_FALSE(g.flags.WasGiven("top-k"));
}

TEST(FlagSet, RefusesWhatIsNotDeclaredAndNamesIt) {
  EXPECT_THAT(Fixture().Error({}), HasSubstr("STORE is missing"));
  EXPECT_THAT(Fixture().Error({"s", "--topk", "5"}), HasSubstr("did you mean --top-k?"));
  EXPECT_THAT(Fixture().Error({"s", "-x"}), HasSubstr("unknown flag -x"));
  EXPECT_THAT(Fixture().Error({"s", "--top-k", "0"}), HasSubstr("0 is outside 1 to 100"));
  EXPECT_THAT(Fixture().Error({"s", "--top-k", "5x"}), HasSubstr("not a whole number"));
  EXPECT_THAT(Fixture().Error({"s", "--top-k", "99999999999999999999"}), HasSubstr("not a whole number"));
  EXPECT_THAT(Fixture().Error({"s", "--top-k"}), HasSubstr("needs a value"));
  EXPECT_THAT(Fixture().Error({"s", "--exact", "--exact"}), HasSubstr("given twice"));
  EXPECT_THAT(Fixture().Error({"s", "--exact=maybe"}), HasSubstr("neither true nor false"));
  EXPECT_THAT(Fixture().Error({"s", "-o", "yaml"}), HasSubstr("not one of table|json"));
  EXPECT_THAT(Fixture().Error({"s", "--rate", "nan"}), HasSubstr("outside"));
  EXPECT_THAT(Fixture().Error({"s", "--timeout", "-1s"}), HasSubstr("not a duration"));
  EXPECT_THAT(Fixture().Error({"s", "--timeout", "1e30h"}), HasSubstr("not a duration"));
}

TEST(FlagSet, HelpNamesEveryArgumentAndDefault) {
  const std::string help = Fixture().flags.Help();
  for (const char* part : {"STORE", "ID", "--top-k N", "Default 10.", "-o, --output table|json", "--exact"})
    EXPECT_THAT(help, HasSubstr(part));
  EXPECT_EQ(Fixture().flags.Usage(), "STORE [ID...] [flags]");
}

TEST(FlagSet, SurplusArgumentIsAnError) {
  FlagSet flags;
  std::string a;
  flags.Positional("A", &a, "");
  EXPECT_THAT(std::string(flags.Parse({"x", "y"}).message()), HasSubstr("surplus argument \"y\""));
}

}  // namespace
}  // namespace loci
