// Drift as it is told, and what is encoded first for it.
#include "retriever/encoder_drift.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "index/content_hash.h"
#include "index/encoding_journal.h"
#include "index/manifest.h"
#include "retriever/reembedder.h"
#include "retriever/testing/retriever_fixture.h"

namespace loci {
namespace {

using ::testing::ElementsAreArray;
using ::testing::IsEmpty;

constexpr int kBlockRows = 64;  // Of stores as small as these.

TEST(CosineDistance, IsThatOfTheDirections) {
  const std::vector<float> x = {1, 0, 0}, twice = {2, 0, 0}, y = {0, 3, 0}, back = {-1, 0, 0}, zero = {0, 0, 0}, between = {1, 1, 0};
  EXPECT_EQ(CosineDistance(x.data(), twice.data(), 3), 0);
  EXPECT_EQ(CosineDistance(x.data(), y.data(), 3), 1);
  EXPECT_EQ(CosineDistance(x.data(), back.data(), 3), 2);
  EXPECT_EQ(CosineDistance(x.data(), zero.data(), 3), 1);
  EXPECT_NEAR(CosineDistance(between.data(), x.data(), 3), 1 - std::sqrt(0.5), 1e-15);
}

std::vector<BlockSample> Samples(const std::vector<std::vector<double>>& values) {
  std::vector<BlockSample> blocks(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    for (const double value : values[i]) blocks[i].Add(value);
  }
  return blocks;
}

// The expected figures are those of numpy 1.24, from the formulas in the book, over lists.
TEST(ShrunkMeans, DrawsSmallSamplesToTheMeanOfAllTheMore) {
  const std::vector<double> means = ShrunkMeans(Samples({{.1, .2, .15, .05}, {.5, .7}, {.3, .35, .25}, {}, {.9}}));
  const std::array<double, 5> expected = {0.12890818858560796, 0.5914634146341463, 0.3011513157894737, 0.35, 0.863679245283019};
  ASSERT_EQ(means.size(), expected.size());
  for (size_t i = 0; i < means.size(); ++i) EXPECT_NEAR(means[i], expected[i], 1e-12) << i;
}

TEST(ShrunkMeans, TellsNoBlocksApartThatScatterNoMoreThanTheirPassages) {
  for (const double mean : ShrunkMeans(Samples({{.1, .9}, {.2, .8}, {.0, 1.}}))) EXPECT_DOUBLE_EQ(mean, .5);
  EXPECT_THAT(ShrunkMeans(Samples({{.25}, {.5}, {}})), testing::ElementsAre(.25, .5, .375)) << "nothing says how far passages of a block scatter";
  EXPECT_THAT(ShrunkMeans(Samples({{.25, .5}})), testing::ElementsAre(.375));
  EXPECT_THAT(ShrunkMeans(Samples({{}, {}})), testing::ElementsAre(0, 0));
  EXPECT_THAT(ShrunkMeans({}), IsEmpty());
}

class EncoderDriftTest : public RetrieverFixture {
 protected:
  ~EncoderDriftTest() override { Stop(); }
  void Start() {
    RetrieverFixture::Start();
    other_ = Import(2, [](std::string*) {});
  }
  // A checkpoint of `seed`, its weights changed.
  std::shared_ptr<TextEncoder> Import(int seed, const std::function<void(std::string* safetensors)>& change, const std::string& name = "") {
    const std::string directory = JoinPath(directory_, absl::StrCat("encoder-", seed, name));
    EXPECT_TRUE(WriteTinyCheckpoint(fs_, directory, {.seed = static_cast<uint64_t>(seed)}).ok());
    const std::string path = JoinPath(directory, "model.safetensors");
    std::string weights = *fs_.ReadFile(path);
    change(&weights);
    EXPECT_TRUE(WriteFileAtomically(fs_, path, weights).ok());
    const auto imported = registry_->Import(directory, /*make_default=*/false);
    EXPECT_TRUE(imported.ok()) << imported.status();
    return *imported;
  }
  // Rows are in the order of ids.
  static std::string IdOf(int i) { return absl::StrCat("p", absl::Dec(i, absl::kZeroPad4)); }
  static std::string TextOf(int i) { return absl::StrCat("passage number ", i, " about thing ", i % 13); }
  static std::vector<float> Encode(TextEncoder& encoder, const std::vector<std::string>& texts, TextRole role = TextRole::kPassage) {
    const auto encoded = encoder.EncodeAndWait(texts, {.role = role});
    EXPECT_TRUE(encoded.ok()) << encoded.status();
    return encoded->vectors;
  }
  // Passages of blocks of kBlockRows whose served vectors are turned by such angles from those of `other_`, to one side or another.
  void IngestBlocks(const std::vector<double>& angles) {
    std::vector<std::string> texts;
    std::vector<loci::v1::Passage> passages;
    for (int i = 0; i < static_cast<int>(angles.size()) * kBlockRows; ++i) {
      texts.push_back(TextOf(i));
      passages.push_back(MakePassage(IdOf(i), texts.back()));
    }
    std::vector<float> vectors = Encode(*other_, texts);
    std::mt19937_64 random(11);
    std::normal_distribution<double> normal;
    for (size_t i = 0; i < texts.size(); ++i) {
      float* const vector = vectors.data() + i * kDim;
      std::vector<double> side(kDim);
      double along = 0, length = 0;
      for (int d = 0; d < kDim; ++d) along += (side[d] = normal(random)) * vector[d];
      for (int d = 0; d < kDim; ++d) length += std::pow(side[d] -= along * vector[d], 2);
      const double angle = angles[i / kBlockRows] * (1 + 0.05 * std::tanh(normal(random)));
      for (int d = 0; d < kDim; ++d) vector[d] = static_cast<float>(std::cos(angle) * vector[d] + std::sin(angle) * side[d] / std::sqrt(length));
    }
    absl::StatusOr<std::unique_ptr<Ingester>> ingester =
        Ingester::Start(*manager_, {.store = "s", .encoder_fingerprint = (*registry_->Get(""))->spec().fingerprint.passage});
    ASSERT_TRUE(ingester.ok()) << ingester.status();
    ASSERT_TRUE((*ingester)->Add(passages, vectors, kDim).ok());
    ASSERT_TRUE((*ingester)->Finish().ok());
  }
  std::shared_ptr<const View> Serving() { return (*manager_->Capture("s", ""))->view; }
  absl::StatusOr<DriftFirstResult> Run(DriftFirstOptions options = {}, OperationControl control = {}) {
    options.store = "s";
    if (options.encoder == nullptr) options.encoder = other_;
    const auto progress = control.progress;
    control.progress = [this, progress](std::string_view phase, int64_t done, int64_t total) {
      if (phase == "sampling") sampled_ = total;
      if (progress) progress(phase, done, total);
    };
    return EncodeDriftFirst(*manager_, *Serving(), options, control);
  }
  std::string JournalDirectory() const { return JoinPath(DataDirectory(), "stores/s/encoded"); }
  // The texts' hashes, in the order in which they were encoded.
  std::vector<ContentHash> Journal(int dim = kDim) const {
    std::vector<ContentHash> hashes;
    const auto names = fs_.List(JournalDirectory());
    if (!names.ok()) return hashes;
    const size_t record_bytes = sizeof(ContentHash) + 4 * static_cast<size_t>(dim) + 8;
    for (const std::string& name : *names) {
      const std::string content = *fs_.ReadFile(JoinPath(JournalDirectory(), name));
      for (size_t at = 64; at + record_bytes <= content.size(); at += record_bytes) {
        uint64_t words[2];
        std::memcpy(words, content.data() + at, sizeof(words));
        hashes.push_back({words[0], words[1]});
      }
    }
    return hashes;
  }
  // 1 - cosine of each passage of the view, by definition.
  std::map<std::string, double> Distances(TextEncoder& encoder) {
    std::map<std::string, double> distances;
    const std::shared_ptr<const View> view = Serving();
    const std::vector<float> any(kDim, 1.f);
    const auto found = view->Search({any.data(), 1, kDim}, {.top_k = 10'000, .exact = true});
    for (const ViewHit& hit : found->hits[0]) {
      std::vector<loci::v1::Passage> passages;
      EXPECT_TRUE(view->Read(std::vector<ViewRow>{hit.row}, &passages).ok());
      std::vector<float> served(kDim);
      EXPECT_TRUE(view->CopyVector(hit.row, served.data()).ok());
      const std::vector<float> made = Encode(encoder, {PassageText(passages[0].title(), passages[0].text())});
      double dot = 0, a = 0, b = 0;
      for (int d = 0; d < kDim; ++d) {
        dot += double{served[d]} * made[d];
        a += double{served[d]} * served[d];
        b += double{made[d]} * made[d];
      }
      distances[hit.id] = 1 - dot / std::sqrt(a * b);
    }
    return distances;
  }

  std::shared_ptr<TextEncoder> other_;
  int64_t sampled_ = 0;
};

TEST_F(EncoderDriftTest, EncodesTheBlocksThatDriftedMostFirst) {
  Start();
  const std::vector<double> angles = {.1, .9, .3, 1.2, .05, .6, 1.5, .2};
  IngestBlocks(angles);
  const auto result = Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->encoded_count, 512);
  EXPECT_EQ(result->reused_count, 0);
  std::map<ContentHash, int> blocks;
  for (int i = 0; i < 512; ++i) blocks[HashContent(TextOf(i))] = i / kBlockRows;
  const std::vector<ContentHash> encoded = Journal();
  ASSERT_EQ(encoded.size(), 512u) << "nothing is encoded twice";
  EXPECT_EQ(std::set<ContentHash>(encoded.begin(), encoded.end()).size(), 512u);
  ASSERT_GT(sampled_, 0);
  ASSERT_LT(sampled_, 128);
  std::set<int> of_sample;
  for (size_t i = 0; i < static_cast<size_t>(sampled_); ++i) of_sample.insert(blocks.at(encoded[i]));
  EXPECT_EQ(of_sample.size(), 8u) << "every block is sampled";
  std::vector<int> order;
  for (size_t i = static_cast<size_t>(sampled_); i < encoded.size(); ++i) {
    const int block = blocks.at(encoded[i]);
    if (order.empty() || order.back() != block) order.push_back(block);
  }
  EXPECT_THAT(order, ElementsAreArray({6, 3, 1, 5, 2, 7, 0, 4})) << "the blocks by their angles, largest first";
}

TEST_F(EncoderDriftTest, TellsTheMeanDistanceOfASampleAndThenOfAll) {
  Start();
  IngestBlocks({.2, 1., .5, .3, .8, .1});
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage(IdOf(3), "written later"), MakePassage("new", "a new one")}, {}).ok());
  ASSERT_TRUE(manager_->Delete("s", {IdOf(4), IdOf(5), IdOf(300)}).ok());
  const std::map<std::string, double> distances = Distances(*other_);
  ASSERT_EQ(distances.size(), 382u);
  double truth = 0, squares = 0;
  for (const auto& [id, distance] : distances) truth += distance / 382, squares += distance * distance / 382;
  double sum = 0;
  constexpr int kSeeds = 50;
  int64_t sample_count = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    std::vector<EncoderDrift> told;
    const auto result = Run({.seed = seed, .measured = [&](const EncoderDrift& drift) { told.push_back(drift); }});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->encoded_count, seed == 0 ? 382 : 0) << "the journal has what was encoded";
    EXPECT_EQ(result->encoded_count + result->reused_count, 382);
    ASSERT_EQ(told.size(), 2u);
    sample_count = told[0].sample_count;
    EXPECT_EQ(sample_count, 64);
    sum += told[0].drift;
    EXPECT_EQ(told[1].sample_count, 382);
    EXPECT_NEAR(told[1].drift, truth, 1e-6);
    EXPECT_EQ(result->drift.drift, told[1].drift);
    EXPECT_EQ(result->drift.sample_count, 382);
  }
  // Of samples without replacement.
  const double variance = (squares - truth * truth) / static_cast<double>(sample_count) * (382 - 64) / 381;
  EXPECT_LT(std::abs(sum / kSeeds - truth), 4 * std::sqrt(variance / kSeeds)) << "the sample is drawn from all passages alike";
  std::set<ContentHash> wanted;
  for (int i = 0; i < 384; ++i) {
    if (i != 3 && i != 4 && i != 5 && i != 300) wanted.insert(HashContent(TextOf(i)));
  }
  wanted.insert(HashContent("written later"));
  wanted.insert(HashContent("a new one"));
  const std::vector<ContentHash> encoded = Journal();
  EXPECT_EQ(std::set<ContentHash>(encoded.begin(), encoded.end()), wanted) << "what is there now, and nothing else";
  EXPECT_EQ(encoded.size(), wanted.size());
  const auto reembedded = Reembed(*manager_, {.store = "s", .encoder = other_});
  ASSERT_TRUE(reembedded.ok()) << reembedded.status();
  EXPECT_EQ(reembedded->reused_count, 382);
  EXPECT_EQ(reembedded->encoded_count, 0);
}

TEST_F(EncoderDriftTest, AnInterruptedOneGoesOnInTheSameOrder) {
  Start();
  IngestBlocks({.1, .9, .3, 1.2});
  ASSERT_TRUE(Run().ok());
  const std::vector<ContentHash> whole = Journal();
  for (const int64_t at : {5, 60, 150, 200}) {
    ASSERT_TRUE(fs_.DeleteRecursively(JournalDirectory()).ok());
    OperationControl control;
    control.progress = [&](std::string_view, int64_t done, int64_t) {
      if (done >= at) control.limits.Cancel();
    };
    EXPECT_TRUE(absl::IsCancelled(Run({}, control).status()));
    const int64_t kept = static_cast<int64_t>(Journal().size());
    EXPECT_LT(kept, 256);
    EXPECT_GT(kept, 0);
    RetrieverFixture::Stop();
    Start();
    std::vector<EncoderDrift> told;
    const auto result = Run({.measured = [&](const EncoderDrift& drift) { told.push_back(drift); }});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->reused_count, kept);
    EXPECT_EQ(result->encoded_count, 256 - kept);
    EXPECT_EQ(told.size(), 2u);
    EXPECT_EQ(Journal(), whole) << at;
  }
}

TEST_F(EncoderDriftTest, WhatAnotherEncoderLeftIsDeleted) {
  Start();
  IngestBlocks({.1, .9});
  ASSERT_TRUE(Run().ok());
  const std::shared_ptr<TextEncoder> third = Import(3, [](std::string*) {});
  const auto result = Run({.encoder = third});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->encoded_count, 128);
  EXPECT_EQ(Journal().size(), 128u);
}

TEST_F(EncoderDriftTest, AJournalThatTakesNothingEndsItWell) {
  Start();
  IngestBlocks({.1, .9});
  ASSERT_TRUE(WriteFileAtomically(fs_, JournalDirectory(), "no folder").ok());
  const auto result = Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_LT(result->encoded_count, 128) << "the rest is not encoded in vain";
  EXPECT_TRUE(Reembed(*manager_, {.store = "s", .encoder = other_}).ok());
}

TEST_F(EncoderDriftTest, ADamagedVectorCountsInNoFigure) {
  Start();
  IngestBlocks({.1, .9});
  std::shared_ptr<const View> view = Serving();
  const std::string path = JoinPath(manager_->StoreDirectory("s"), JoinPath(view->generation().id(), kVectorsFile));
  ASSERT_TRUE(fs_.Exists(path)) << path;
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(5'000);
    file.put(0x55);
  }
  EncoderDrift drift;
  const auto result = Run({.measured = [&](const EncoderDrift& told) { drift = told; }});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->encoded_count, 128) << "all the same";
  EXPECT_LT(result->drift.sample_count, 128);
  EXPECT_GT(result->drift.sample_count, 0);
  EXPECT_EQ(drift.drift, result->drift.drift);
}

TEST_F(EncoderDriftTest, AnErrorOfTheCheckEndsItAndAnEmptyStoreIsNoSpecialCase) {
  Start();
  IngestBlocks({.1, .9});
  int calls = 0;
  const auto check = [&] { return ++calls < 3 ? absl::OkStatus() : absl::AbortedError("changed"); };
  const OperationControl control;
  EXPECT_TRUE(absl::IsAborted(Run({.check = check}, control).status()));
  EXPECT_FALSE(control.limits.cancelled()) << "who called may go on";
  std::vector<std::string> ids;
  for (int i = 0; i < 128; ++i) ids.push_back(IdOf(i));
  ASSERT_TRUE(manager_->Delete("s", ids).ok());
  const auto empty = Run();
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_EQ(empty->drift.sample_count, 0);
  ASSERT_TRUE(manager_->Upsert("s", {MakePassage("one", "alone")}, {}).ok());
  const auto one = Run();
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(one->drift.sample_count, 1);
}

// --- Reported drift and the error of gradients ---

double LogSum(const std::vector<double>& values) {
  const double top = *std::max_element(values.begin(), values.end());
  double sum = 0;
  for (const double value : values) sum += std::exp(value - top);
  return top + std::log(sum);
}

// dJ/dq of J = log sum_i p_i e^{l_i} over all passages, p = softmax(q . z / temperature).
std::vector<double> Gradient(const float* query, const std::vector<float>& vectors, const std::vector<double>& likelihoods, double temperature, int dim) {
  const size_t count = likelihoods.size();
  std::vector<double> log_p(count), joint(count);
  for (size_t i = 0; i < count; ++i) {
    for (int d = 0; d < dim; ++d) log_p[i] += double{query[d]} * vectors[i * dim + d] / temperature;
  }
  const double log_z = LogSum(log_p);
  for (size_t i = 0; i < count; ++i) joint[i] = (log_p[i] -= log_z) + likelihoods[i];
  const double marginal = LogSum(joint);
  std::vector<double> gradient(dim);
  for (size_t i = 0; i < count; ++i) {
    const double weight = (std::exp(joint[i] - marginal) - std::exp(log_p[i])) / temperature;
    for (int d = 0; d < dim; ++d) gradient[d] += weight * vectors[i * dim + d];
  }
  return gradient;
}

// Of ranks, those that are equal having their mean; 0 where all are.
double Spearman(const std::vector<double>& a, const std::vector<double>& b) {
  const auto ranks = [](const std::vector<double>& values) {
    std::vector<double> result;
    for (const double value : values) {
      const auto less = std::count_if(values.begin(), values.end(), [&](double other) { return other < value; });
      const auto equal = std::count(values.begin(), values.end(), value);
      result.push_back(static_cast<double>(less) + static_cast<double>(equal - 1) / 2);
    }
    return result;
  };
  const std::vector<double> x = ranks(a), y = ranks(b);
  const double mean = (static_cast<double>(a.size()) - 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}

TEST_F(EncoderDriftTest, ReportedDriftRanksWithTheErrorOfStaleGradients) {
  Start();
  constexpr int kCount = 600, kQueries = 16;
  constexpr double kTemperature = 0.1;
  std::vector<std::string> texts, questions;
  std::vector<loci::v1::Passage> passages;
  for (int i = 0; i < kCount; ++i) {
    texts.push_back(TextOf(i * 7919 % 4001));
    passages.push_back(MakePassage(absl::StrCat("p", i), texts.back()));
  }
  ASSERT_TRUE(Ingest("s", passages).ok());
  for (int q = 0; q < kQueries; ++q) questions.push_back(absl::StrCat("what is thing ", q, " of number ", 31 * q));
  TextEncoder& base = **registry_->Get("");
  const std::vector<float> stale = Encode(base, texts);
  std::vector<std::vector<double>> likelihoods(kQueries, std::vector<double>(kCount));
  std::mt19937_64 random(3);
  for (auto& row : likelihoods) {
    for (double& value : row) value = -8 * std::generate_canonical<double, 53>(random);
  }
  std::vector<double> strengths = {.002, .3, .01, .6, .03, .15, .06, .004, .1, .4}, drifts, errors;
  for (const double strength : strengths) {
    // Of the same random direction, further and further: every weight that is not zero, by a factor of its own.
    const std::shared_ptr<TextEncoder> trained = Import(1, [&](std::string* weights) {
      uint64_t header_bytes;
      std::memcpy(&header_bytes, weights->data(), sizeof(header_bytes));
      std::mt19937_64 direction(17);
      std::normal_distribution<double> normal;
      for (size_t at = 8 + header_bytes; at + sizeof(float) <= weights->size(); at += sizeof(float)) {
        float value;
        std::memcpy(&value, weights->data() + at, sizeof(value));
        value = static_cast<float>(value * (1 + strength * normal(direction)));
        std::memcpy(weights->data() + at, &value, sizeof(value));
      }
    }, absl::StrCat("-", strength));
    EncoderDrift told;
    const auto result = Run({.encoder = trained, .measured = [&](const EncoderDrift& drift) {
                               if (told.sample_count == 0) told = drift;
                             }});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(told.sample_count, kCount / 8) << "what the sample says, not all passages";
    drifts.push_back(told.drift);
    // What a training job asks with now, over what is served and over what it should be.
    const std::vector<float> queries = Encode(*trained, questions, TextRole::kQuery);
    const std::vector<float> fresh = Encode(*trained, texts);
    double error = 0;
    for (int q = 0; q < kQueries; ++q) {
      const std::vector<double> truth = Gradient(queries.data() + q * kDim, fresh, likelihoods[q], kTemperature, kDim);
      const std::vector<double> got = Gradient(queries.data() + q * kDim, stale, likelihoods[q], kTemperature, kDim);
      double difference = 0, length = 0;
      for (int d = 0; d < kDim; ++d) {
        difference += (got[d] - truth[d]) * (got[d] - truth[d]);
        length += truth[d] * truth[d];
      }
      error += std::sqrt(difference / length) / kQueries;
    }
    errors.push_back(error);
    std::printf("strength %.3f drift %.3e error %.3e\n", strength, told.drift, error);
  }
  EXPECT_GE(Spearman(drifts, errors), .9);
  EXPECT_GE(Spearman(drifts, strengths), .9);
  // What must not pass: a figure that is always the same, and one that is another's.
  EXPECT_LT(Spearman(std::vector<double>(drifts.size(), drifts[0]), errors), .9);
  std::rotate(drifts.begin(), drifts.begin() + 1, drifts.end());
  EXPECT_LT(Spearman(drifts, errors), .9);
}

}  // namespace
}  // namespace loci
