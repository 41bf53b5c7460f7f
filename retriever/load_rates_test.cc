#include "retriever/load_rates.h"

#include "gtest/gtest.h"
#include "index/manifest.h"

namespace loci {
namespace {

storage::Manifest Sized(int64_t vector_bytes, int64_t index_bytes) {
  storage::Manifest manifest;
  storage::FileEntry* file = manifest.add_files();
  file->set_path(kVectorsFile);
  file->set_size_bytes(vector_bytes);
  file = manifest.add_files();
  file->set_path(kIndexFile);
  file->set_size_bytes(index_bytes);
  return manifest;
}

TEST(LoadRates, TellsTheTimeOfAnotherSizeFromWhatItHasSeen) {
  LoadRates rates;
  const storage::Manifest seen = Sized(100 << 20, 100 << 20);
  for (int i = 0; i < 10; ++i) {
    rates.ObserveOpen(seen, {.verify_us = 400'000, .parse_us = 100'000, .probe_us = 50'000});
    rates.ObserveWarm(seen, 10'000);
    rates.ObservePublish(1000, 40'000);
  }
  EXPECT_NEAR(static_cast<double>(rates.PredictUs(seen, 1000, false)), 605'000, 1'000);
  const double twice = static_cast<double>(rates.PredictUs(Sized(200 << 20, 200 << 20), 2000, false));
  EXPECT_GT(twice, 1'150'000);
  EXPECT_LT(twice, 1'205'001);
}

TEST(LoadRates, KeepsAFixedPartFromSmallOnes) {
  LoadRates rates;
  const storage::Manifest small = Sized(1000, 1000);
  for (int i = 0; i < 10; ++i) {
    rates.ObserveOpen(small, {.verify_us = 1'000, .parse_us = 7'000, .probe_us = 500});
    rates.ObserveWarm(small, 10);
    rates.ObservePublish(0, 3'000);
  }
  EXPECT_NEAR(static_cast<double>(rates.PredictUs(small, 0, false)), 16'510, 20);
}

TEST(LoadRates, KnowsWhatIsLeftBesideTheParts) {
  LoadRates rates;
  const storage::Manifest seen = Sized(100 << 20, 0);
  for (int i = 0; i < 10; ++i) {
    rates.ObserveOpen(seen, {.verify_us = 400'000, .parse_us = 100'000, .probe_us = 50'000});
    rates.ObserveWarm(seen, 10'000);
    rates.ObservePublish(0, 1'000);
    rates.ObserveWhole(seen, 0, false, 591'000);
  }
  EXPECT_NEAR(static_cast<double>(rates.PredictUs(seen, 0, false)), 591'000, 1'000);
  for (int i = 0; i < 10; ++i) rates.ObserveWhole(seen, 0, false, 10);  // Less than the parts took.
  EXPECT_NEAR(static_cast<double>(rates.PredictUs(seen, 0, false)), 561'000, 1'000);
}

TEST(LoadRates, WhatADeviceTakesIsToldOfThoseAloneThatComeThere) {
  LoadRates rates;
  const storage::Manifest seen = Sized(100 << 20, 0);
  for (int i = 0; i < 10; ++i) {
    rates.ObserveOpen(seen, {.verify_us = 400'000, .parse_us = 100'000, .probe_us = 50'000});
    rates.ObserveWarm(seen, 10'000);
    rates.ObservePlace(seen, 2'000'000);
    rates.ObservePublish(0, 1'000);
    rates.ObserveWhole(seen, 0, /*placed=*/true, 2'591'000);
  }
  EXPECT_NEAR(static_cast<double>(rates.PredictUs(seen, 0, /*placed=*/true)), 2'591'000, 1'000);
  EXPECT_NEAR(static_cast<double>(rates.PredictUs(seen, 0, /*placed=*/false)), 591'000, 1'000);
  const storage::Manifest twice = Sized(200 << 20, 0);
  EXPECT_NEAR(static_cast<double>(rates.PredictUs(twice, 0, true) - rates.PredictUs(twice, 0, false)), 4'000'000, 50'000);
}

TEST(LoadRates, CodesAreWarmedAsVectorsAre) {
  const auto with_codes = [](int64_t codes_bytes) {
    storage::Manifest manifest = Sized(100 << 20, 0);
    storage::FileEntry* const file = manifest.add_files();
    file->set_path(kCodesFile);
    file->set_size_bytes(codes_bytes);
    return manifest;
  };
  LoadRates rates;
  for (int i = 0; i < 10; ++i) {
    rates.ObserveVerify(100 << 20, 0);
    rates.ObserveWarm(with_codes(100 << 20), 10'000);
  }
  const double difference = static_cast<double>(rates.PredictUs(with_codes(100 << 20), 0, false) - rates.PredictUs(Sized(100 << 20, 0), 0, false));
  EXPECT_NEAR(difference, 5'000, 200);
}

TEST(LoadRates, ForgetsASlowFirstReading) {
  LoadRates rates;
  const storage::Manifest seen = Sized(100 << 20, 0);
  rates.ObserveOpen(seen, {.verify_us = 10'000'000});
  const int64_t cold_us = rates.PredictUs(seen, 0, false);
  for (int i = 0; i < 8; ++i) rates.ObserveOpen(seen, {.verify_us = 100'000});
  EXPECT_GT(cold_us, 9'000'000);
  EXPECT_LT(rates.PredictUs(seen, 0, false), 300'000);
}

}  // namespace
}  // namespace loci
