#include "base/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

namespace loci {
namespace {

using ::testing::HasSubstr;

CudaProbe OneGpu() {
  return {
      .built_in = true,
      .devices =
          {{.ordinal = 1, .name = "H100", .compute_major = 9, .total_memory_bytes = 80ll << 30, .free_memory_bytes = 1 << 30}},
      .detail = ""};
}
CudaProbe NoGpu() { return {.built_in = true, .devices = {}, .detail = "no CUDA device: the driver is too old"}; }

TEST(ChooseDevice, CpuIsAlwaysThere) {
  for (const bool backend : {false, true}) {
    for (const CudaProbe& probe : {CudaProbe(), NoGpu(), OneGpu()}) {
      const auto choice = ChooseDevice("cpu", probe, backend);
      ASSERT_TRUE(choice.ok());
      EXPECT_FALSE(choice->cuda);
      EXPECT_EQ(choice->name, "cpu");
      EXPECT_FALSE(choice->reason.empty());
    }
  }
}

TEST(ChooseDevice, AutoTakesTheGpuWhereItCanServe) {
  const auto choice = ChooseDevice("auto", OneGpu(), true);
  ASSERT_TRUE(choice.ok());
  EXPECT_TRUE(choice->cuda);
  EXPECT_EQ(choice->ordinal, 1);
  EXPECT_EQ(choice->name, "cuda:1");
  EXPECT_THAT(choice->reason, HasSubstr("H100"));
}

TEST(ChooseDevice, AutoPassesOverDevicesThatAreTooOld) {
  CudaProbe probe = OneGpu();
  const CudaDevice old = {.ordinal = 0, .name = "V100", .compute_major = 7, .total_memory_bytes = 32ll << 30, .free_memory_bytes = 1 << 30};
  probe.devices.insert(probe.devices.begin(), old);
  EXPECT_EQ(ChooseDevice("auto", probe, true)->name, "cuda:1");
  EXPECT_EQ(ChooseDevice("cuda:0", probe, true)->name, "cuda:0");
  probe.devices.pop_back();
  EXPECT_EQ(ChooseDevice("auto", probe, true)->name, "cuda:0") << "what is wrong is told by who opens it";
}

TEST(ChooseDevice, AutoTakesTheCpuAndSaysWhy) {
  EXPECT_EQ(ChooseDevice("auto", NoGpu(), true)->name, "cpu");
  EXPECT_THAT(ChooseDevice("auto", NoGpu(), true)->reason, HasSubstr("the driver is too old"));
  EXPECT_EQ(ChooseDevice("auto", OneGpu(), false)->name, "cpu");
  EXPECT_THAT(ChooseDevice("auto", OneGpu(), false)->reason, HasSubstr("no CUDA encoder"));
}

TEST(ChooseDevice, AnExplicitDeviceIsMetOrRefused) {
  EXPECT_TRUE(ChooseDevice("cuda:1", OneGpu(), true)->cuda);
  for (const auto& choice :
       {ChooseDevice("cuda:0", OneGpu(), true), ChooseDevice("cuda:1", OneGpu(), false), ChooseDevice("cuda:0", NoGpu(), true)}) {
    EXPECT_EQ(choice.status().code(), absl::StatusCode::kFailedPrecondition);
  }
}

TEST(ChooseDevice, AnotherWordIsInvalid) {
  for (const char* const word :
       {"", "gpu", "CUDA:0", "cuda", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cuda: 1", "cuda:99999999999"}) {
    EXPECT_EQ(ChooseDevice(word, OneGpu(), true).status().code(), absl::StatusCode::kInvalidArgument) << word;
  }
}

TEST(ProbeCuda, NeverFailsAndExplainsAnEmptyList) {
  const CudaProbe probe = ProbeCuda();
  EXPECT_TRUE(!probe.devices.empty() || !probe.detail.empty());
  EXPECT_TRUE(probe.built_in || probe.devices.empty());
  RecordProperty("cuda", probe.devices.empty() ? probe.detail : probe.devices.front().name);
}

TEST(CpuIsa, EnvironmentCanLowerIt) {
  unsetenv("LOCI_ISA");
  const CpuIsa best = DetectCpuIsa();
  setenv("LOCI_ISA", "avx2", 1);
  EXPECT_EQ(DetectCpuIsa(), CpuIsa::kAvx2);
  setenv("LOCI_ISA", "avx512", 1);
  EXPECT_EQ(DetectCpuIsa(), best) << "not above what the machine has";
  unsetenv("LOCI_ISA");
  EXPECT_EQ(CpuIsaName(CpuIsa::kAvx2), "avx2");
  EXPECT_EQ(CpuIsaName(CpuIsa::kAvx512), "avx512");
}

TEST(CpuExtensions, AreThoseOfTheMachineUnlessALowerSetIsNamed) {
  unsetenv("LOCI_ISA");
  const CpuExtensions best = DetectCpuExtensions();
  if (DetectCpuIsa() == CpuIsa::kAvx2) {
    EXPECT_FALSE(best.bfloat16 || best.float16 || best.vnni);
  } else {
    EXPECT_EQ(best.bfloat16, __builtin_cpu_supports("avx512bf16") != 0);
    EXPECT_EQ(best.vnni, __builtin_cpu_supports("avx512vnni") != 0);
  }
  for (const char* const isa : {"avx2", "avx512"}) {
    setenv("LOCI_ISA", isa, 1);
    EXPECT_FALSE(DetectCpuExtensions().bfloat16 || DetectCpuExtensions().float16 || DetectCpuExtensions().vnni) << isa;
  }
  unsetenv("LOCI_ISA");
}

}  // namespace
}  // namespace loci
