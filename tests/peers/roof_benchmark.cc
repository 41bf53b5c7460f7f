// What one core gives at most: loops of multiply-adds over registers, and a read of memory. Driven by tests/peers/measure.py.
//
//   bazel run -c opt //tests/peers:roof_benchmark      prints one line of JSON for each line of standard input
//
// "float32", "bfloat16" (vdpbf16ps), "float16" (vfmadd231ph) and "int8" (vpdpbusd) are operations a second, 2 a multiplication and
// addition; what the processor has no instruction for is left out. "read" is bytes a second of one thread's reads of 512 MiB. Each is
// the best of five, by CPU time.
#include <cpuid.h>
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <iostream>
#include <string>
#include <vector>

namespace loci {
namespace {

double ThreadSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Twelve independent accumulators hide the latency of any of these instructions. In assembly, since a compiler may spill or merge them.
#define LOCI_STEP(op, r, n) #op " %%" #r "mm0, %%" #r "mm1, %%" #r "mm" #n "\n"
#define LOCI_STEPS(op, r)                                                                                                  \
  LOCI_STEP(op, r, 2)                                                                                                      \
  LOCI_STEP(op, r, 3)                                                                                                      \
  LOCI_STEP(op, r, 4)                                                                                                      \
  LOCI_STEP(op, r, 5) LOCI_STEP(op, r, 6) LOCI_STEP(op, r, 7) LOCI_STEP(op, r, 8) LOCI_STEP(op, r, 9) LOCI_STEP(op, r, 10) \
      LOCI_STEP(op, r, 11) LOCI_STEP(op, r, 12) LOCI_STEP(op, r, 13)
#define LOCI_ROOF(name, op, r)                                                                                             \
  void name(int64_t steps) {                                                                                               \
    asm volatile("vzeroall\n1:\n" LOCI_STEPS(op, r) "dec %0\njnz 1b\nvzeroupper\n"                                         \
                 : "+r"(steps)                                                                                             \
                 :                                                                                                         \
                 : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
                   "xmm12", "xmm13", "xmm14", "xmm15");                                                                    \
  }

LOCI_ROOF(Fma256, vfmadd231ps, y)
LOCI_ROOF(Fma512, vfmadd231ps, z)
LOCI_ROOF(Bfloat16, vdpbf16ps, z)
LOCI_ROOF(Float16, vfmadd231ph, z)
LOCI_ROOF(Int8, vpdpbusd, z)

// The compiler has no name for it.
bool HasAvx512Fp16() {
  unsigned a, b, c, d;
  return __builtin_cpu_supports("avx512f") && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && ((d >> 23) & 1) != 0;
}

double OpsPerSecond(void (*loop)(int64_t), int ops_per_instruction) {
  constexpr int64_t kSteps = 10'000'000;
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    const double start = ThreadSeconds();
    loop(kSteps);
    best = std::max(best, 12.0 * ops_per_instruction * kSteps / (ThreadSeconds() - start));
  }
  return best;
}

double ReadBytesPerSecond(const std::vector<uint64_t>& memory) {
  double best = 0;
  const char* const data = reinterpret_cast<const char*>(memory.data());
  const size_t bytes = memory.size() * sizeof(uint64_t);
  for (int round = 0; round < 5; ++round) {
    __m256i sum[4] = {};
    const double start = ThreadSeconds();
    for (size_t at = 0; at + 128 <= bytes; at += 128) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        sum[i] = _mm256_xor_si256(sum[i], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + at + 32 * i)));
      }
    }
    const double seconds = ThreadSeconds() - start;
    volatile int64_t sink =
        _mm256_extract_epi64(_mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3])), 0);
    (void)sink;
    best = std::max(best, static_cast<double>(bytes) / seconds);
  }
  return best;
}

void Main() {
  std::vector<uint64_t> memory(size_t{512} << 17);
  for (size_t i = 0; i < memory.size(); ++i) memory[i] = i;
  const bool avx512 = __builtin_cpu_supports("avx512f");
  for (std::string line; std::getline(std::cin, line);) {
    std::printf("{\"float32\": %.4g", avx512 ? OpsPerSecond(Fma512, 32) : OpsPerSecond(Fma256, 16));
    if (__builtin_cpu_supports("avx512bf16")) std::printf(", \"bfloat16\": %.4g", OpsPerSecond(Bfloat16, 64));
    if (HasAvx512Fp16()) std::printf(", \"float16\": %.4g", OpsPerSecond(Float16, 64));
    if (__builtin_cpu_supports("avx512vnni")) std::printf(", \"int8\": %.4g", OpsPerSecond(Int8, 128));
    std::printf(", \"read\": %.4g}\n", ReadBytesPerSecond(memory));
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace loci

int main() { loci::Main(); }
