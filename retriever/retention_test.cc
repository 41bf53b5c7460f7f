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
  EXPECT_THAT(ChooseExpired(all, "d", {}, 1, false), ElementsAre("a", "b"));
  EXPECT_THAT(ChooseExpired(all, "d", {}, 3, false), IsEmpty());
  EXPECT_THAT(ChooseExpired(all, "d", {}, 1'000, false), IsEmpty());
  EXPECT_THAT(ChooseExpired(all, "a", {}, 1, false), ElementsAre("b", "c"));
  EXPECT_THAT(ChooseExpired(all, "d", {}, 0, false), IsEmpty()) << "0 keeps all";
}

TEST(ChooseExpired, PinnedOnesStayAndDoNotCount) {
  const auto all = Generations({"a", "b", "c", "d"});
  EXPECT_THAT(ChooseExpired(all, "d", {"a"}, 1, false), ElementsAre("b"));
  EXPECT_THAT(ChooseExpired(all, "d", {"c"}, 1, false), ElementsAre("a"));
  EXPECT_THAT(ChooseExpired(all, "d", {"d"}, 1, false), ElementsAre("a", "b"));
}

TEST(ChooseExpired, WhatABuildMayHaveJustMadeStays) {
  const auto all = Generations({"a", "b", "c", "d", "e"});
  EXPECT_THAT(ChooseExpired(all, "b", {}, 1, true), ElementsAre("a"));
  EXPECT_THAT(ChooseExpired(all, "b", {}, 1, false), ElementsAre("a", "c", "d"));
}

}  // namespace
}  // namespace loci
