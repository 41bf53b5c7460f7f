#include "encoder/fingerprint.h"

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace loci {
namespace {

VectorSpace Space() {
  VectorSpace space;
  space.weights_sha256 = std::string(64, 'a');
  space.architecture = "bert";
  space.tokenizer_digest = std::string(64, 'b');
  space.query_prefix = "query: ";
  space.passage_prefix = "passage: ";
  space.max_length = 256;
  space.dim = 384;
  return space;
}

TEST(Fingerprint, HalvesAreSixteenHexDigitsAndRepeatable) {
  const Fingerprint fingerprint = ComputeFingerprint(Space());
  for (const std::string& half : {fingerprint.query, fingerprint.passage}) {
    EXPECT_EQ(half.size(), 16u);
    EXPECT_EQ(half.find_first_not_of("0123456789abcdef"), std::string::npos);
  }
  EXPECT_NE(fingerprint.query, fingerprint.passage);
  EXPECT_EQ(fingerprint, ComputeFingerprint(Space()));
}

TEST(Fingerprint, EveryFieldOfTheSpaceChangesBothHalves) {
  const std::vector<std::function<void(VectorSpace&)>> changes = {[](VectorSpace& s) { s.weights_sha256[0] = 'c'; },
                                                                  [](VectorSpace& s) { s.architecture = "bert heads=2"; },
                                                                  [](VectorSpace& s) { s.tokenizer_digest[0] = 'c'; },
                                                                  [](VectorSpace& s) { s.pooling = Pooling::kCls; },
                                                                  [](VectorSpace& s) { s.pooling = Pooling::kMax; },
                                                                  [](VectorSpace& s) { s.normalize = false; },
                                                                  [](VectorSpace& s) { s.max_length = 128; },
                                                                  [](VectorSpace& s) { s.dim = 768; },
                                                                  [](VectorSpace& s) { s.passage_prefix = "document: "; }};
  std::set<std::string> seen = {ComputeFingerprint(Space()).query, ComputeFingerprint(Space()).passage};
  for (size_t i = 0; i < changes.size(); ++i) {
    VectorSpace space = Space();
    changes[i](space);
    const Fingerprint changed = ComputeFingerprint(space);
    EXPECT_TRUE(seen.insert(changed.passage).second) << i;
    EXPECT_TRUE(seen.insert(changed.query).second) << i;  // A query half names the passage half that it serves.
  }
}

TEST(Fingerprint, TheQueryPrefixLeavesThePassageHalf) {
  VectorSpace space = Space();
  space.query_prefix = "";
  EXPECT_EQ(ComputeFingerprint(space).passage, ComputeFingerprint(Space()).passage);
  EXPECT_NE(ComputeFingerprint(space).query, ComputeFingerprint(Space()).query);
}

TEST(Fingerprint, TheQueryHalfNamesWhatItServes) {
  const Fingerprint own = ComputeFingerprint(Space());
  EXPECT_EQ(ComputeFingerprint(Space(), own.passage), own);
  EXPECT_NE(ComputeFingerprint(Space(), "0123456789abcdef").query, own.query);
  EXPECT_EQ(ComputeFingerprint(Space(), "0123456789abcdef").passage, own.passage);
}

TEST(Fingerprint, TextCannotMoveFromOneFieldToAnother) {
  VectorSpace a = Space(), b = Space();
  a.architecture = "bert\ntokenizer 1\nx";
  b.architecture = "bert";
  EXPECT_NE(ComputeFingerprint(a), ComputeFingerprint(b));
}

}  // namespace
}  // namespace loci
