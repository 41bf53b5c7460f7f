// What transformers says of some token ids, as tests/golden/make_encoder_golden.py writes it.
#ifndef LOCI_TESTS_PARITY_GOLDEN_H_
#define LOCI_TESTS_PARITY_GOLDEN_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "base/device.h"
#include "base/file.h"
#include "gtest/gtest.h"

namespace loci {

struct Golden {
  int dim = 0;
  std::vector<std::vector<int32_t>> ids;
  std::vector<std::vector<float>> vectors;
};

// Fails the test, and has no ids, where the file cannot be read.
inline Golden ReadGolden(const std::string& path) {
  const absl::StatusOr<std::string> file = PosixFileSystem().ReadFile(path);
  EXPECT_TRUE(file.ok()) << file.status();
  Golden golden;
  if (!file.ok() || file->substr(0, 8) != "LOCIENC1") return golden;
  size_t at = 8;
  const auto take = [&](void* out, size_t size) {
    ASSERT_LE(at + size, file->size());
    std::memcpy(out, file->data() + at, size);
    at += size;
  };
  int32_t count = 0, dim = 0;
  take(&count, 4);
  take(&dim, 4);
  golden.dim = dim;
  for (int i = 0; i < count; ++i) {
    int32_t length = 0;
    take(&length, 4);
    golden.ids.emplace_back(length);
    take(golden.ids.back().data(), length * sizeof(int32_t));
    golden.vectors.emplace_back(dim);
    take(golden.vectors.back().data(), dim * sizeof(float));
  }
  EXPECT_EQ(at, file->size());
  return golden;
}

// The instruction sets that this machine can run.
inline std::vector<CpuIsa> MachineIsas() {
  std::vector<CpuIsa> isas = {CpuIsa::kAvx2};
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    isas.push_back(CpuIsa::kAvx512);
  }
  return isas;
}

}  // namespace loci

#endif  // LOCI_TESTS_PARITY_GOLDEN_H_
