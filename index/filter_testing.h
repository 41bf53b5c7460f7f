// For tests: random passages, and random filters with what they mean written down a second time, one passage after another and by the
// words of the proto alone.
#ifndef LOCI_INDEX_FILTER_TESTING_H_
#define LOCI_INDEX_FILTER_TESTING_H_

#include <functional>
#include <random>
#include <string>

#include "proto/loci/v1/common.pb.h"

namespace loci {

struct NaiveFilter {
  std::string text;
  std::function<bool(const loci::v1::Passage&)> matches;
};

// Metadata of a few keys, each of any type, with values that are often equal and often at the edges of their types.
loci::v1::Passage RandomPassage(const std::string& id, std::mt19937_64& random);

// Of at most `depth` levels, over the same keys and values.
NaiveFilter RandomFilter(int depth, std::mt19937_64& random);

}  // namespace loci

#endif  // LOCI_INDEX_FILTER_TESTING_H_
