#include "index/index_specification.h"

#include <string>

#include "base/error.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

TEST(IndexSpecification, ReadsTargetAndBudget) {
  EXPECT_EQ(*ParseAutoIndex("auto"), AutoIndex{});
  EXPECT_EQ(*ParseAutoIndex("auto:recall=0.9"), (AutoIndex{.recall_target = 0.9}));
  EXPECT_EQ(*ParseAutoIndex("auto:memory=2GiB"), (AutoIndex{.memory_budget_bytes = int64_t{2} << 30}));
  EXPECT_EQ(*ParseAutoIndex("auto:memory=1048576,recall=1"), (AutoIndex{.recall_target = 1, .memory_budget_bytes = 1 << 20}));
  EXPECT_EQ(ParseAutoIndex("auto:memory=3GB")->memory_budget_bytes, 3'000'000'000);
  EXPECT_EQ(ParseAutoIndex("auto:memory=1TiB")->memory_budget_bytes, int64_t{1} << 40);
}

TEST(IndexSpecification, TellsWhatIsExact) {
  for (const char* specification : {"exact", "exact:int8", "exact:", "exact:int4"}) EXPECT_TRUE(IsExactIndex(specification));
  for (const char* specification : {"", "auto", "IVF4,Flat", "exactly", "EXACT"}) EXPECT_FALSE(IsExactIndex(specification));
  EXPECT_EQ(*ParseExactIndex("exact"), ExactSpecification{});
  EXPECT_EQ(*ParseExactIndex("exact:int8"), ExactSpecification{.int8 = true});
  for (const std::string specification : {"", "exact:", "exact:int4", "exact:int8,", "exact:int8 ", "auto", "Flat"}) {
    const absl::Status status = ParseExactIndex(specification).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << specification;
    const auto reason = GetErrorReason(status);
    ASSERT_TRUE(reason.has_value()) << specification;
    EXPECT_EQ(reason->metadata.at("field"), "index.factory");
  }
}

TEST(IndexSpecification, TellsWhatIsAutomatic) {
  for (const char* specification : {"auto", "auto:", "auto:recall=2"}) EXPECT_TRUE(IsAutoIndex(specification));
  for (const char* specification : {"", "exact", "IVF4,Flat", "automatic", "AUTO"}) EXPECT_FALSE(IsAutoIndex(specification));
}

TEST(IndexSpecification, NamesWhatIsWrong) {
  for (const std::string specification :
       {"auto:", "auto:recall", "auto:recall=", "auto:recall=0", "auto:recall=1.5", "auto:recall=-1", "auto:recall=nan", "auto:recall=inf",
        "auto:memory=0", "auto:memory=1", "auto:memory=1023KiB", "auto:memory=-2GiB", "auto:memory=2 GiB", "auto:memory=GiB", "auto:memory=",
        "auto:memory=99999999999999999999", "auto:memory=9999999999TiB", "auto:recall=0.9,", "auto:recall=0.9,recall=0.9", "auto:speed=3",
        "auto,recall=0.9", "exact", "auto:recall=0.9;memory=2GiB"}) {
    const absl::Status status = ParseAutoIndex(specification).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << specification;
    const auto reason = GetErrorReason(status);
    ASSERT_TRUE(reason.has_value()) << specification;
    EXPECT_EQ(reason->metadata.at("field"), "index.factory");
    EXPECT_LT(ParseAutoIndex("auto:" + std::string(10'000, 'x')).status().message().size(), 20'500u);
  }
}

}  // namespace
}  // namespace loci
