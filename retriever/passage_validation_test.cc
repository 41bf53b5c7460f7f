#include "retriever/passage_validation.h"

#include <limits>
#include <string>

#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using ::testing::HasSubstr;

loci::v1::Passage ValidPassage() {
  loci::v1::Passage passage;
  passage.set_id("a");
  passage.set_title("Poppler");
  passage.set_text("PDF utilities.");
  return passage;
}

void ExpectRefused(const loci::v1::Passage& passage, const std::string& words) {
  const absl::Status status = ValidatePassage(passage);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(words));
  ASSERT_TRUE(GetErrorReason(status).has_value());
  EXPECT_EQ(GetErrorReason(status)->reason, "INVALID_PASSAGE");
}

TEST(ValidatePassage, TakesWhatIsWithinTheLimits) {
  loci::v1::Passage passage = ValidPassage();
  EXPECT_TRUE(ValidatePassage(passage).ok());
  passage.set_id(std::string(512, 'x'));
  passage.set_title(std::string(64 << 10, 'x'));
  passage.set_text(std::string(1 << 20, 'x'));
  (*passage.mutable_metadata())["year"].set_int64_value(1999);
  (*passage.mutable_metadata())["tags"].mutable_string_list_value()->add_values("a");
  EXPECT_TRUE(ValidatePassage(passage).ok()) << ValidatePassage(passage);
  passage.clear_title();
  EXPECT_TRUE(ValidatePassage(passage).ok());
}

TEST(ValidatePassage, NamesFieldAndLimit) {
  loci::v1::Passage passage = ValidPassage();
  passage.clear_id();
  ExpectRefused(passage, "id is empty");
  passage.set_id(std::string(513, 'x'));
  ExpectRefused(passage, "id has 513 bytes, the limit is 512");
  passage.set_id(std::string("a\0b", 3));
  ExpectRefused(passage, "id contains a NUL byte");

  passage = ValidPassage();
  passage.set_title(std::string((64 << 10) + 1, 'x'));
  ExpectRefused(passage, "title has 65537 bytes, the limit is 65536");
  passage = ValidPassage();
  passage.set_text(std::string((1 << 20) + 1, 'x'));
  ExpectRefused(passage, "text has 1048577 bytes, the limit is 1048576");
  passage = ValidPassage();
  passage.clear_text();
  passage.clear_title();
  ExpectRefused(passage, "text and title are both empty");
  passage = ValidPassage();
  passage.set_chunk_index(-1);
  ExpectRefused(passage, "chunk_index is -1");
}

TEST(ValidatePassage, RefusesBytesThatAreNotUtf8) {
  loci::v1::Passage passage = ValidPassage();
  passage.set_text("abc\xff");
  ExpectRefused(passage, "text is not UTF-8 at byte 3");
}

TEST(ValidatePassage, ChecksMetadata) {
  loci::v1::Passage passage = ValidPassage();
  (*passage.mutable_metadata())["x"].set_double_value(std::numeric_limits<double>::quiet_NaN());
  ExpectRefused(passage, "not a finite number");
  passage = ValidPassage();
  (*passage.mutable_metadata())[""].set_bool_value(true);
  ExpectRefused(passage, "metadata key is empty");
  passage = ValidPassage();
  (*passage.mutable_metadata())["year"];
  ExpectRefused(passage, "metadata[\"year\"] has no value");
  EXPECT_EQ(GetErrorReason(ValidatePassage(passage))->metadata.at("field"), "metadata[\"year\"]");
  EXPECT_TRUE(ValidateStoredPassage(passage).ok()) << "an archive of an earlier version may have it";
  passage.set_chunk_index(-1);
  EXPECT_FALSE(ValidateStoredPassage(passage).ok());
  passage = ValidPassage();
  (*passage.mutable_metadata())["tags"].mutable_string_list_value();
  (*passage.mutable_metadata())["empty"].set_string_value("");
  EXPECT_TRUE(ValidatePassage(passage).ok()) << "empty values are values";
  passage = ValidPassage();
  for (int i = 0; i < 257; ++i) (*passage.mutable_metadata())[std::to_string(i)].set_int64_value(i);
  ExpectRefused(passage, "metadata has 257 entries, the limit is 256");
  passage = ValidPassage();
  (*passage.mutable_metadata())["a"].set_string_value(std::string(40 << 10, 'x'));
  (*passage.mutable_metadata())["b"].set_string_value(std::string(40 << 10, 'x'));
  ExpectRefused(passage, "the limit is 65536");
}

}  // namespace
}  // namespace loci
