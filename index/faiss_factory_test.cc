#include "index/faiss_factory.h"

#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"

namespace loci {
namespace {

TEST(ParseFaissFactory, TakesTheFormsThatAreServed) {
  for (const std::string factory :
       {"Flat", "SQ4", "SQ6", "SQ8", "SQfp16", "PQ48", "PQ96x4", "IVF1,Flat", "IVF1024,Flat", "IVF64,SQ8", "IVF64,PQ48", "IVF64,PQ48x6",
        "IVF64_HNSW32,Flat", "HNSW32", "HNSW32,Flat", "HNSW16,SQ8"}) {
    EXPECT_TRUE(ParseFaissFactory(factory, 384, 100'000).ok()) << ParseFaissFactory(factory, 384, 100'000).status();
  }
  const FaissFactory parsed = ParseFaissFactory("IVF64_HNSW32,PQ48x6", 384, 100'000).value();
  EXPECT_EQ(parsed.list_count, 64);
  EXPECT_TRUE(parsed.hnsw_coarse);
  EXPECT_FALSE(parsed.hnsw);
  EXPECT_EQ(parsed.codec, FaissFactory::Codec::kProduct);
  EXPECT_EQ(parsed.bits, 6);
}

TEST(FaissFactory, SaysWhatARowTakes) {
  const auto parse = [](const std::string& factory) { return ParseFaissFactory(factory, 384, 1'000'000).value(); };
  EXPECT_EQ(parse("IVF64,Flat").CodeBytes(384), 1536);
  EXPECT_EQ(parse("SQ4").CodeBytes(384), 192);
  EXPECT_EQ(parse("SQ6").CodeBytes(384), 288);
  EXPECT_EQ(parse("HNSW32,SQ8").CodeBytes(384), 384);
  EXPECT_EQ(parse("SQfp16").CodeBytes(384), 768);
  EXPECT_EQ(parse("PQ48").CodeBytes(384), 48);
  EXPECT_EQ(parse("PQ48x6").CodeBytes(384), 36);
  EXPECT_EQ(parse("HNSW32").LinkBytes(), 66 * 4 + 4 + 8);
  EXPECT_EQ(parse("HNSW2").LinkBytes(), 7 * 4 + 4 + 8);
  EXPECT_EQ(parse("IVF64_HNSW32,Flat").LinkBytes(), 0) << "of lists, not of rows";
  EXPECT_EQ(parse("HNSW32").TrainingRowCount(384, 1'000'000), 0);
  EXPECT_EQ(parse("IVF1024,Flat").TrainingRowCount(384, 1'000'000), 65536);
  EXPECT_EQ(parse("IVF1024,Flat").TrainingRowCount(384, 5'000), 5'000);
  EXPECT_EQ(parse("IVF65536,Flat").TrainingRowCount(384, 1'000'000), (256 << 20) / 1536);
}

TEST(ParseFaissFactory, ANumberBeyondTheLimitIsNamedWithTheLimit) {
  EXPECT_EQ(ParseFaissFactory("IVF999999999,Flat", 384, 100'000).status().message(),
            "index \"IVF999999999,Flat\": IVF takes 1 to 65536 lists, not 999999999");
  EXPECT_EQ(ParseFaissFactory("HNSW99999999999999999999999", 384, 100'000).status().message(),
            "index \"HNSW99999999999999999999999\": HNSW takes 2 to 256 links, not 99999999999999999999999");
  EXPECT_EQ(ParseFaissFactory("IVF99999999999999999999,Flat", 384, 100'000).status().message(),
            "index \"IVF99999999999999999999,Flat\": IVF takes 1 to 65536 lists, not 99999999999999999999");
  const std::string nines(32, '9');
  EXPECT_EQ(ParseFaissFactory("IVF" + nines + "9", 384, 100'000).status().message(),
            "index \"IVF" + nines + "9\": IVF takes 1 to 65536 lists, not " + nines + "...");
}

TEST(ParseFaissFactory, NamesWhatThereIsWhereNothingOfItIsGiven) {
  for (const char* factory : {"LSH", "EXACT", "hnsw32"}) {
    EXPECT_NE(ParseFaissFactory(factory, 384, 100).status().message().find("exact:int8, auto, HNSW<links>, IVF<lists>"), std::string::npos) << factory;
  }
}

TEST(ParseFaissFactory, RefusesEverythingElse) {
  std::vector<std::string> refused = {
      "", "exact", "flat", "Flat ", " Flat", "Flat,", "IVF", "IVF,Flat", "IVF0,Flat", "IVF01,Flat", "IVF-1,Flat", "IVF64", "IVF64,",
      "IVF64Flat", "IVF65537,Flat", "IVF99999999999999999999,Flat", "IVF64,Flat,RFlat", "HNSW", "HNSW1", "HNSW257", "HNSW32,", "HNSW32,PQ48",
      "HNSW32_SQ8", "PQ", "PQ0", "PQ7", "PQ385", "PQ48x3", "PQ48x9", "PQ48x", "PQ48np", "PQ96x4fs", "PQ96x4fsr", "IVF64,PQ96x4fsr",
      "OPQ48,IVF64,PQ48", "PCA64,Flat", "L2norm,Flat", "IVF64(Flat),Flat", "IMI2x8,Flat", "NSG32", "LSH", "SQ", "SQ5", "SQbf16",
      "RQ4x8", "IDMap,Flat", std::string(100'000, 'I'), std::string("Flat\0", 5)};
  for (const std::string& factory : refused) {
    const absl::Status status = ParseFaissFactory(factory, 384, 100'000).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << factory.substr(0, 100);
    EXPECT_LT(status.message().size(), 400u);
    const auto reason = GetErrorReason(status);
    ASSERT_TRUE(reason.has_value()) << status;
    EXPECT_EQ(reason->reason, "INVALID_ARGUMENT");
    EXPECT_EQ(reason->metadata, (std::map<std::string, std::string>{{"field", "index.factory"}}));
  }
}

TEST(ParseFaissFactory, NamesTheLimitThatTooFewPassagesBreak) {
  const absl::Status lists = ParseFaissFactory("IVF1024,Flat", 384, 100).status();
  EXPECT_EQ(lists.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(lists.message().find("1024 lists"), std::string::npos) << lists;
  EXPECT_NE(lists.message().find("100 passages"), std::string::npos) << lists;
  EXPECT_TRUE(ParseFaissFactory("IVF100,Flat", 384, 100).ok());
  EXPECT_FALSE(ParseFaissFactory("PQ48", 384, 255).ok());
  EXPECT_TRUE(ParseFaissFactory("PQ48", 384, 256).ok());
  EXPECT_TRUE(ParseFaissFactory("PQ48x4", 384, 16).ok());
  EXPECT_FALSE(ParseFaissFactory("SQ8", 384, 0).ok());
  EXPECT_TRUE(ParseFaissFactory("Flat", 384, 0).ok());
  EXPECT_TRUE(ParseFaissFactory("HNSW32", 384, 0).ok());
}

}  // namespace
}  // namespace loci
