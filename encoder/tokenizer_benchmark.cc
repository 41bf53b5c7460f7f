// Times the tokenizer on a file of texts, at another program's command, so that both can take turns on one core.
//
//   tokenizer_benchmark MODEL_FOLDER TEXTS [IDS]
//
// TEXTS: a uint32 length, little-endian, and the bytes, for each text. With IDS: writes for each text a uint32 count and that many
// int32 ids there, and ends. Without: for each line read from standard input, tokenizes all texts and prints the thread's CPU time in
// nanoseconds, the number of tokens and the number of bytes. tests/peers/tokenizer_benchmark.py drives it.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "encoder/tokenizer.h"

namespace loci {
namespace {

int64_t ThreadCpuNanos() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

int Run(int argc, char** argv) {
  if (argc != 3 && argc != 4) {
    std::fprintf(stderr, "usage: tokenizer_benchmark MODEL_FOLDER TEXTS [IDS]\n");
    return 2;
  }
  auto tokenizer = Tokenizer::Load(PosixFileSystem(), argv[1]);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.status().ToString().c_str());
    return 1;
  }
  auto file = PosixFileSystem().ReadFile(argv[2]);
  if (!file.ok()) {
    std::fprintf(stderr, "%s\n", file.status().ToString().c_str());
    return 1;
  }
  std::vector<std::string_view> texts;
  std::string_view rest = *file;
  while (rest.size() >= 4) {
    uint32_t size;
    std::memcpy(&size, rest.data(), 4);
    rest.remove_prefix(4);
    if (size > rest.size()) {
      std::fprintf(stderr, "%s: cut off\n", argv[2]);
      return 1;
    }
    texts.push_back(rest.substr(0, size));
    rest.remove_prefix(size);
  }

  std::vector<int32_t> ids;
  if (argc == 4) {
    std::unique_ptr<FILE, int (*)(FILE*)> out(std::fopen(argv[3], "wb"), std::fclose);
    if (!out) return 1;
    for (const std::string_view text : texts) {
      ids.clear();
      (*tokenizer)->Tokenize(text, &ids);
      const auto count = static_cast<uint32_t>(ids.size());
      std::fwrite(&count, 4, 1, out.get());
      std::fwrite(ids.data(), 4, ids.size(), out.get());
    }
    return 0;
  }

  for (std::string line; std::getline(std::cin, line);) {
    size_t tokens = 0;
    size_t bytes = 0;
    const int64_t start_ns = ThreadCpuNanos();
    for (const std::string_view text : texts) {
      std::vector<int32_t> fresh;  // As a request does it: memory of its own.
      (*tokenizer)->Tokenize(text, &fresh);
      tokens += fresh.size();
      bytes += text.size();
    }
    std::printf("%lld %zu %zu\n", static_cast<long long>(ThreadCpuNanos() - start_ns), tokens, bytes);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace loci

int main(int argc, char** argv) { return loci::Run(argc, argv); }
