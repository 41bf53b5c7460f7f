#include "base/vector_precision.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace loci {
namespace {

TEST(VectorPrecision, ParsesItsNamesAndTakesOthersForUnknown) {
  for (const char* name : {"unknown", "float32", "bfloat16", "float16", "int8"})
    EXPECT_EQ(VectorPrecisionName(ParseVectorPrecision(name)), name);
  for (const char* name : {"", "INT8", "int4", "auto"}) EXPECT_EQ(ParseVectorPrecision(name), VectorPrecision::kUnknown) << name;
}

TEST(VectorPrecision, Int8InterchangesWithItselfAlone) {
  EXPECT_TRUE(Interchange(VectorPrecision::kInt8, VectorPrecision::kInt8));
  EXPECT_TRUE(Interchange(VectorPrecision::kUnknown, VectorPrecision::kBfloat16));
  EXPECT_FALSE(Interchange(VectorPrecision::kInt8, VectorPrecision::kFloat32));
  EXPECT_FALSE(Interchange(VectorPrecision::kUnknown, VectorPrecision::kInt8));
}

TEST(PrecisionSet, HasEachOnceInTheirOrder) {
  PrecisionSet set;
  EXPECT_TRUE(set.empty());
  EXPECT_TRUE(set.AllInterchangeWith(VectorPrecision::kInt8));
  EXPECT_TRUE(set.AllInterchangeWith(VectorPrecision::kFloat32));
  EXPECT_EQ(set.First(), VectorPrecision::kUnknown);
  set.Add(VectorPrecision::kFloat16);
  set.Add(PrecisionSet::Parse(std::vector<std::string>{"float16", "float32"}));
  EXPECT_EQ(set.Names(), (std::vector<std::string>{"float32", "float16"}));
  EXPECT_EQ(set.First(), VectorPrecision::kFloat32);
  EXPECT_TRUE(set.AllInterchangeWith(VectorPrecision::kUnknown));
  EXPECT_FALSE(set.AllInterchangeWith(VectorPrecision::kInt8));
  set.Add(VectorPrecision::kInt8);
  EXPECT_FALSE(set.AllInterchangeWith(VectorPrecision::kInt8));
  EXPECT_FALSE(set.AllInterchangeWith(VectorPrecision::kFloat16));
  EXPECT_TRUE(PrecisionSet(VectorPrecision::kInt8).AllInterchangeWith(VectorPrecision::kInt8));
}

}  // namespace
}  // namespace loci
