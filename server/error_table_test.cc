#include "server/error_table.h"

#include <string>

#include "base/error.h"
#include "base/utf8.h"
#include "gtest/gtest.h"
#include "proto/loci/rpc/status.pb.h"

namespace loci {
namespace {

rpc::Status DetailOf(const grpc::Status& status) {
  rpc::Status detail;
  EXPECT_TRUE(detail.ParseFromString(status.error_details()));
  return detail;
}

rpc::ErrorInfo InfoOf(const grpc::Status& status) {
  const rpc::Status detail = DetailOf(status);
  EXPECT_EQ(detail.details_size(), 1);
  EXPECT_EQ(detail.details(0).type_url(), "type.googleapis.com/google.rpc.ErrorInfo");
  rpc::ErrorInfo info;
  EXPECT_TRUE(info.ParseFromString(detail.details(0).value()));
  return info;
}

TEST(ErrorTable, GivesEveryCodeItsGrpcCodeAndName) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  for (int code = 1; code <= 16; ++code) {
    const grpc::Status status = ToGrpcStatus(absl::Status(static_cast<absl::StatusCode>(code), "why"));
    EXPECT_EQ(static_cast<int>(status.error_code()), code);
    EXPECT_EQ(status.error_message(), "why");
    EXPECT_EQ(DetailOf(status).code(), code);
    EXPECT_EQ(InfoOf(status).domain(), "loci");
    EXPECT_EQ(InfoOf(status).reason(), CodeName(static_cast<absl::StatusCode>(code)));
  }
  EXPECT_EQ(CodeName(absl::StatusCode::kInvalidArgument), "INVALID_ARGUMENT");
  EXPECT_EQ(ToGrpcStatus(absl::Status(static_cast<absl::StatusCode>(77), "odd")).error_code(), grpc::StatusCode::UNKNOWN);
}

TEST(ErrorTable, CarriesReasonAndMetadata) {
  const grpc::Status status =
      ToGrpcStatus(ErrorWithReason(absl::FailedPreconditionError("3 writes"), "WRITES_SINCE", {{"count", "3"}, {"generation", "g1"}}));
  const rpc::ErrorInfo info = InfoOf(status);
  EXPECT_EQ(info.reason(), "WRITES_SINCE");
  EXPECT_EQ(info.metadata().at("count"), "3");
  EXPECT_EQ(info.metadata().at("generation"), "g1");
  EXPECT_EQ(DetailOf(status).message(), "3 writes");
}

TEST(ErrorTable, PushesBackOnlyWhatPasses) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    EXPECT_EQ(PushbackMs(ErrorWithReason(status, "OVERLOADED"), 250, 0).has_value(), code == 8) << code;
    EXPECT_EQ(PushbackMs(ErrorWithReason(status, "ENCODER_QUEUE_FULL"), 250, 0).has_value(), code == 8) << code;
    EXPECT_EQ(PushbackMs(status, 250, 0), std::nullopt) << code;  // A full disk.
  }
}

TEST(ErrorTable, StaysWithinTheTrailersThatClientsAccept) {
  std::map<std::string, std::string> metadata;
  for (int i = 0; i < 100; ++i) metadata[std::string(300, 'k') + std::to_string(i)] = std::string(100'000, 'v');
  std::string message;
  while (message.size() < 1'000'000) message += "é";  // Two bytes, six once percent-encoded.
  const grpc::Status status = ToGrpcStatus(ErrorWithReason(absl::NotFoundError(message), "R", metadata));
  EXPECT_LT(3 * status.error_message().size() + status.error_details().size() * 4 / 3, 7'500u);
  EXPECT_TRUE(IsValidUtf8(status.error_message()));
  EXPECT_TRUE(status.error_message().ends_with("..."));
}

TEST(ErrorTable, NeverSendsInvalidUtf8) {
  const grpc::Status status = ToGrpcStatus(ErrorWithReason(absl::NotFoundError("no \xff\xc3 here"), "R\xff", {{"\xfe", "\xed\xa0\x80"}}));
  EXPECT_EQ(status.error_message(), "no ?? here");
  const rpc::ErrorInfo info = InfoOf(status);
  EXPECT_TRUE(IsValidUtf8(info.reason()));
  for (const auto& [key, value] : info.metadata()) EXPECT_TRUE(IsValidUtf8(key) && IsValidUtf8(value));
}

TEST(ErrorTable, APushbackGrowsWithTheQueueAndHasAnEnd) {
  const absl::Status permits = ErrorWithReason(absl::ResourceExhaustedError("full"), "OVERLOADED");
  EXPECT_EQ(PushbackMs(permits, 250, 0), 250);
  EXPECT_EQ(PushbackMs(permits, 250, 700), 950);
  const absl::Status queue = ErrorWithReason(absl::ResourceExhaustedError("full"), "ENCODER_QUEUE_FULL", {{"retry_after_ms", "1500"}});
  EXPECT_EQ(PushbackMs(queue, 250, 700), 1750);
  EXPECT_EQ(PushbackMs(queue, 60'000, 700), 60'000);
  EXPECT_EQ(PushbackMs(permits, 0, -5), 0);
}

TEST(ErrorTable, NamesTheRequestBesideAllThatTheErrorSays) {
  std::map<std::string, std::string> metadata;
  for (int i = 0; i < 20; ++i) metadata["a" + std::to_string(i)] = "v";
  const grpc::Status status = ToGrpcStatus(ErrorWithReason(absl::NotFoundError("x"), "R", metadata), std::string(128, 'r'));
  rpc::Status detail;
  rpc::ErrorInfo info;
  ASSERT_TRUE(detail.ParseFromString(status.error_details()));
  ASSERT_TRUE(info.ParseFromString(detail.details(0).value()));
  EXPECT_EQ(info.metadata().at("request_id"), std::string(128, 'r'));
  EXPECT_EQ(info.metadata_size(), 7);
}

}  // namespace
}  // namespace loci
