#include "retriever/retention.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<storage::Manifest> Generations(const std::vector<std::string>& ids) {
  std::vector<storage::Manifest> manifests(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) manifests[i].set_generation(ids[i]);
  return manifests;
}

TEST(ChooseExpired, KeepsTheNewestBesideTheActiveOne) {
  const auto all = Generations({"a", "b", "c", "d"});
  EXPECT_THAT(ChooseExpired(all, {.keep = 1, .active = "d"}), ElementsAre("a", "b"));
  EXPECT_THAT(ChooseExpired(all, {.keep = 3, .active = "d"}), IsEmpty());
  EXPECT_THAT(ChooseExpired(all, {.keep = 1'000, .active = "d"}), IsEmpty());
  EXPECT_THAT(ChooseExpired(all, {.keep = 1, .active = "a"}), ElementsAre("b", "c"));
  EXPECT_THAT(ChooseExpired(all, {.keep = 0, .active = "d"}), IsEmpty()) << "0 keeps all";
}

TEST(ChooseExpired, PinnedOnesStayAndDoNotCount) {
  const auto all = Generations({"a", "b", "c", "d"});
  EXPECT_THAT(ChooseExpired(all, {.keep = 1, .active = "d", .pinned = {"a"}}), ElementsAre("b"));
  EXPECT_THAT(ChooseExpired(all, {.keep = 1, .active = "d", .pinned = {"c"}}), ElementsAre("a"));
  EXPECT_THAT(ChooseExpired(all, {.keep = 1, .active = "d", .pinned = {"d"}}), ElementsAre("a", "b"));
}

TEST(ChooseExpired, WhatARollBackNeedsStaysAndCountsFirst) {
  const auto all = Generations({"a", "b", "c"});
  EXPECT_THAT(ChooseExpired(all, {.keep = 1, .active = "c", .previous = "a"}), ElementsAre("b"));
  EXPECT_THAT(ChooseExpired(all, {.keep = 2, .active = "c", .previous = "a"}), IsEmpty());
  EXPECT_THAT(ChooseExpired(all, {.keep = 1, .active = "c", .previous = "a", .pinned = {"a"}}), IsEmpty()) << "b has the place";
  EXPECT_THAT(ChooseExpired(all, {.keep = 1, .active = "c", .previous = "gone"}), ElementsAre("a"));
}

TEST(ChooseExpired, AFailedOneTakesNoPlaceOfAWholeOne) {
  const auto all = Generations({"a", "b", "c", "d"});
  EXPECT_THAT(ChooseExpired(all, {.keep = 1, .active = "d", .failed = {"c"}}), ElementsAre("a"));
  EXPECT_THAT(ChooseExpired(all, {.keep = 1, .active = "d", .failed = {"a"}}), ElementsAre("a", "b")) << "as old as it is";
}

TEST(ChooseExpired, WhatWasFoldedGoesAndTakesNoPlace) {
  auto all = Generations({"a", "b", "c", "d"});
  EXPECT_THAT(ChooseExpired(all, {.keep = 1, .active = "d", .folded = {"c"}}), ElementsAre("a", "c"));
  EXPECT_THAT(ChooseExpired(all, {.keep = 3, .active = "d", .folded = {"a", "c"}, .build_under_way = true}), ElementsAre("a", "c"));
  EXPECT_THAT(ChooseExpired(all, {.keep = 1, .active = "d", .pinned = {"c"}, .folded = {"c"}}), ElementsAre("a"));
  EXPECT_THAT(ChooseExpired(all, {.keep = 0, .active = "d", .folded = {"b", "c"}}), IsEmpty());
  all[2].set_folded_from("b");
  EXPECT_THAT(ChooseExpired(all, {.keep = 0, .active = "d", .folded = {"b", "c"}}), ElementsAre("c")) << "its passages are in d";
}

TEST(ChooseExpired, WhatABuildMayHaveJustMadeStays) {
  const auto all = Generations({"a", "b", "c", "d", "e"});
  EXPECT_THAT(ChooseExpired(all, {.keep = 1, .active = "b", .build_under_way = true}), ElementsAre("a"));
  EXPECT_THAT(ChooseExpired(all, {.keep = 1, .active = "b"}), ElementsAre("a", "c", "d"));
}

}  // namespace
}  // namespace loci
