#include "retriever/query_halves.h"

#include <cstdlib>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/checksum.h"
#include "base/error.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

Fingerprint Of(int query, int passage) { return {absl::StrFormat("%016x", query), absl::StrFormat("%016x", passage)}; }

class QueryHalvesTest : public testing::Test {
 protected:
  QueryHalvesTest() {
    std::string pattern = testing::TempDir() + "/query_halves_XXXXXX";
    directory_ = mkdtemp(pattern.data());
  }
  ~QueryHalvesTest() override { EXPECT_TRUE(fs_.DeleteRecursively(directory_).ok()); }
  std::string path() const { return JoinPath(directory_, kQueryHalvesFile); }
  absl::Status Write(const Fingerprint& encoder, const std::optional<std::set<std::string>>& built = std::nullopt) {
    return WriteQueryHalf(fs_, directory_, encoder, built);
  }
  Fingerprint For(int passage) { return *PublishedFor(fs_, directory_, Of(1, passage)); }

  FileSystem& fs_ = PosixFileSystem();
  std::string directory_;
};

TEST_F(QueryHalvesTest, KeepsTheLastOneOfEachPassageHalf) {
  EXPECT_TRUE(ReadQueryHalves(fs_, directory_)->empty());
  EXPECT_EQ(For(7), Of(1, 7)) << "none was published";
  ASSERT_TRUE(Write(Of(2, 7)).ok());
  ASSERT_TRUE(Write(Of(3, 8)).ok());
  EXPECT_EQ(For(7), Of(2, 7));
  EXPECT_EQ(For(8), Of(3, 8));
  EXPECT_EQ(For(9), Of(1, 9));
  ASSERT_TRUE(Write(Of(4, 7)).ok());
  EXPECT_EQ(*ReadQueryHalves(fs_, directory_), (std::vector<Fingerprint>{Of(3, 8), Of(4, 7)}));
}

TEST_F(QueryHalvesTest, ForgetsTheOldestOfThoseThatNoGenerationHas) {
  const std::set<std::string> built = {Of(0, 0).passage, Of(0, 5).passage};
  const int count = 100, kept = static_cast<int>(kKeptUnbuilt);
  for (int i = 0; i < count; ++i) ASSERT_TRUE(Write(Of(100 + i, i), built).ok());
  std::vector<Fingerprint> expected = {Of(100, 0), Of(105, 5)};
  for (int i = count - kept; i < count; ++i) expected.push_back(Of(100 + i, i));
  EXPECT_EQ(*ReadQueryHalves(fs_, directory_), expected);
  EXPECT_EQ(For(0), Of(100, 0)) << "that serves all the while";
  EXPECT_EQ(For(6), Of(1, 6));
  // A generation that goes takes its half along; where generations are not known none does.
  ASSERT_TRUE(Write(Of(300, 300), std::nullopt).ok());
  EXPECT_EQ(ReadQueryHalves(fs_, directory_)->size(), expected.size() + 1);
  ASSERT_TRUE(Write(Of(301, 301), std::set<std::string>{Of(0, 5).passage}).ok());
  EXPECT_EQ(ReadQueryHalves(fs_, directory_)->size(), kKeptUnbuilt + 1);
  EXPECT_EQ(For(0), Of(1, 0));
  EXPECT_EQ(For(5), Of(105, 5));
  EXPECT_EQ(For(301), Of(301, 301));
}

TEST_F(QueryHalvesTest, SaysThatAFileIsDamagedAndReplacesIt) {
  ASSERT_TRUE(Write(Of(2, 7)).ok());
  const std::string good = *fs_.ReadFile(path());
  std::vector<std::string> bad = {"", "x", good.substr(0, good.size() - 1), good + " ", Sealed("something else\n"), Sealed("loci query halves 1\n2:7\n"),
                                  Sealed(absl::StrCat("loci query halves 1\n", Of(2, 7).query, "\n"))};
  for (const size_t at : {size_t{0}, good.size() / 2, good.size() - 1}) {
    bad.push_back(good);
    bad.back()[at] ^= 1;
  }
  for (const std::string& content : bad) {
    ASSERT_TRUE(WriteFileAtomically(fs_, path(), content).ok());
    const absl::Status status = PublishedFor(fs_, directory_, Of(1, 7)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << content;
    EXPECT_EQ(GetErrorReason(status)->reason, "FILE_DAMAGED");
    ASSERT_TRUE(Write(Of(5, 7)).ok()) << content;
    EXPECT_EQ(For(7), Of(5, 7));
  }
}

TEST_F(QueryHalvesTest, LeavesTheFileOfANewerServerAlone) {
  const std::string newer = Sealed("loci query halves 2\nwhatever\n");
  ASSERT_TRUE(WriteFileAtomically(fs_, path(), newer).ok());
  EXPECT_EQ(ReadQueryHalves(fs_, directory_).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Write(Of(2, 7)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(*fs_.ReadFile(path()), newer);
}

}  // namespace
}  // namespace loci
