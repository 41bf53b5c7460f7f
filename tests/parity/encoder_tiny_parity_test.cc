// Every pooling, normalised and not, on a random checkpoint against transformers.
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "encoder/encoder.h"
#include "encoder/testing/tiny_checkpoint.h"
#include "gtest/gtest.h"
#include "tests/parity/golden.h"

namespace loci {
namespace {

TEST(EncoderTinyParity, EveryPoolingIsThatOfTransformers) {
  const Golden golden = ReadGolden("tests/golden/encoder_tiny.golden");
  ASSERT_EQ(golden.ids.size(), 10u);
  const int dim = golden.dim / 3;
  PackedBatch batch;
  for (const std::vector<int32_t>& ids : golden.ids) {
    batch.token_ids.insert(batch.token_ids.end(), ids.begin(), ids.end());
    batch.offsets.push_back(static_cast<int32_t>(batch.token_ids.size()));
  }
  const std::vector<std::string> poolings = {"mean", "cls", "max"};  // In the order of the file.
  const std::string directory = testing::TempDir() + "/tiny_parity";
  for (size_t pooling = 0; pooling < poolings.size(); ++pooling) {
    for (bool normalize : {false, true}) {
      for (CpuIsa isa : MachineIsas()) {
        SCOPED_TRACE(poolings[pooling] + (normalize ? " normalised " : " ") + std::string(CpuIsaName(isa)));
        TinyCheckpointOptions checkpoint;
        checkpoint.pooling = poolings[pooling];
        checkpoint.normalize = normalize;
        ASSERT_TRUE(WriteTinyCheckpoint(PosixFileSystem(), directory, checkpoint).ok());
        EncoderOptions options;
        options.isa = isa;
        options.precision = Precision::kFloat32;
        const auto encoder = LoadEncoder(PosixFileSystem(), directory, options);
        ASSERT_TRUE(encoder.ok()) << encoder.status();
        ASSERT_EQ((*encoder)->spec().dim, dim);
        std::vector<float> vectors(golden.ids.size() * dim);
        ASSERT_TRUE((*encoder)->Encode(batch, vectors.data()).ok());
        for (size_t i = 0; i < golden.ids.size(); ++i) {
          const float* expected = golden.vectors[i].data() + pooling * dim;
          double length = 0;
          for (int d = 0; d < dim; ++d) length += static_cast<double>(expected[d]) * expected[d];
          const double divisor = normalize ? std::sqrt(length) : 1.0;
          for (int d = 0; d < dim; ++d) ASSERT_NEAR(vectors[i * dim + d], expected[d] / divisor, 1e-5) << "sequence " << i;
        }
      }
    }
  }
  EXPECT_TRUE(PosixFileSystem().DeleteRecursively(directory).ok());
}

}  // namespace
}  // namespace loci
