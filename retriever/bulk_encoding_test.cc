#include "retriever/bulk_encoding.h"

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using Result = absl::StatusOr<EncodedTexts>;

std::future<Result> Ready(Result result) {
  std::promise<Result> promise;
  promise.set_value(std::move(result));
  return promise.get_future();
}

Result Overloaded() { return absl::ResourceExhaustedError("the encoder's queue is full"); }

TEST(FinishEncoding, TriesAgainWhileTheEncoderIsOverloaded) {
  int tries = 0, checks = 0;
  const Result result = FinishEncoding(
      Ready(Overloaded()), [&] { return Ready(++tries < 3 ? Overloaded() : Result(EncodedTexts())); },
      [&] {
        ++checks;
        return absl::OkStatus();
      });
  EXPECT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(tries, 3);
  EXPECT_EQ(checks, 3);
}

TEST(FinishEncoding, EndsWithTheErrorOfItsCheck) {
  int tries = 0;
  const Result result = FinishEncoding(
      Ready(Overloaded()),
      [&] {
        ++tries;
        return Ready(Overloaded());
      },
      [&] { return tries < 2 ? absl::OkStatus() : absl::CancelledError("cancelled"); });
  EXPECT_EQ(result.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(tries, 2);
}

TEST(FinishEncoding, GivesOtherErrorsAtOnce) {
  const Result result = FinishEncoding(
      Ready(absl::InternalError("broken")),
      []() -> std::future<Result> {
        ADD_FAILURE() << "tried again";
        return Ready(Overloaded());
      },
      [] { return absl::OkStatus(); });
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace loci
