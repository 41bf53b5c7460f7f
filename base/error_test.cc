#include "base/error.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/status/statusor.h"
#include "base/status_macros.h"

namespace loci {
namespace {

TEST(Error, CarriesReasonAndMetadata) {
  const absl::Status status = ErrorWithReason(absl::FailedPreconditionError("3 writes were made"), "WRITES_SINCE",
                                              {{"count", "3"}, {"generation", std::string("g\0one", 5)}, {"empty", ""}});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(), "3 writes were made");
  const auto reason = GetErrorReason(status);
  ASSERT_TRUE(reason.has_value());
  EXPECT_EQ(reason->reason, "WRITES_SINCE");
  EXPECT_EQ(reason->metadata.size(), 3u);
  EXPECT_EQ(reason->metadata.at("count"), "3");
  EXPECT_EQ(reason->metadata.at("generation"), std::string("g\0one", 5));
  EXPECT_EQ(reason->metadata.at("empty"), "");
}

TEST(Error, HasNoReasonUnlessGivenOne) {
  EXPECT_FALSE(GetErrorReason(absl::InternalError("x")).has_value());
  EXPECT_FALSE(GetErrorReason(absl::OkStatus()).has_value());
}

TEST(Error, TheLastReasonWins) {
  const absl::Status status = ErrorWithReason(ErrorWithReason(absl::InternalError("x"), "FIRST", {{"a", "b"}}), "SECOND");
  EXPECT_EQ(GetErrorReason(status)->reason, "SECOND");
  EXPECT_TRUE(GetErrorReason(status)->metadata.empty());
}

TEST(Error, AnnotateKeepsCodeAndReason) {
  const absl::Status status = Annotate(ErrorWithReason(absl::NotFoundError("no such store"), "STORE", {{"s", "1"}}), "wiki");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "wiki: no such store");
  EXPECT_EQ(GetErrorReason(status)->metadata.at("s"), "1");
  EXPECT_TRUE(Annotate(absl::OkStatus(), "x").ok());
}

absl::StatusOr<int> Half(int value) {
  if (value % 2 != 0) return absl::InvalidArgumentError("odd");
  return value / 2;
}

absl::StatusOr<int> Quarter(int value) {
  LOCI_ASSIGN_OR_RETURN(const int half, Half(value));
  LOCI_RETURN_IF_ERROR(Half(half).status());
  LOCI_ASSIGN_OR_RETURN(int quarter, Half(half));
  return quarter;
}

TEST(StatusMacros, ReturnTheFirstError) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_EQ(Quarter(6).status().message(), "odd");
  EXPECT_EQ(Quarter(5).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace loci
