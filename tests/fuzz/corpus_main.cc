// Runs a libFuzzer target over a fixed corpus as an ordinary test: every file as it is, then seeded mutations of it.
//
//   corpus_main [--mutations=200] [--seed=1] [FILE|FOLDER]...
//
// What a mutation of the fuzzer would try first is tried here: cuts, flipped bits, interesting bytes, repeated and spliced parts. A
// failure is the target's own (a trap, a sanitizer's report); the input being run is then named by file, seed and number.
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

// What the handler of a fatal signal prints: it may not format anything by then.
char current_input[512] = "none";

void PrintCurrentInput() {
  const char prefix[] = "corpus_main: failed on ";
  ssize_t ignored = write(STDERR_FILENO, prefix, sizeof(prefix) - 1);
  ignored = write(STDERR_FILENO, current_input, std::strlen(current_input));
  ignored = write(STDERR_FILENO, "\n", 1);
  (void)ignored;
}

extern "C" void OnFatalSignal(int signal_number) {
  PrintCurrentInput();
  std::signal(signal_number, SIG_DFL);
  std::raise(signal_number);
}

void RunOne(const std::string& input, std::string_view file, uint32_t seed, int mutation) {
  std::snprintf(current_input, sizeof(current_input), "%.*s, seed %u, mutation %d (0: the file itself)",
                static_cast<int>(std::min<size_t>(file.size(), 400)), file.data(), seed, mutation);
  // A copy of exactly the size, so that the address sanitizer sees a read past the end.
  std::vector<uint8_t> exact(input.begin(), input.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

std::string Mutate(const std::string& input, const std::string& other, std::mt19937& random) {
  static constexpr unsigned char kInteresting[] = {0,   1,   0x7f, 0x80, 0xff, '"',  '{',  '}',  '[',
                                                   ']', ',', '-',  '9',  ' ',  '\n', 0xc0, 0xed, 0xf4};
  std::string out = input;
  auto below = [&random](size_t limit) { return limit == 0 ? size_t{0} : static_cast<size_t>(random() % limit); };
  const int steps = 1 + static_cast<int>(below(4));
  for (int i = 0; i < steps; ++i) {
    switch (below(7)) {
      case 0:
        out.resize(below(out.size() + 1));
        break;
      case 1:
        if (!out.empty()) out[below(out.size())] ^= static_cast<char>(1u << below(8));
        break;
      case 2:
        if (!out.empty()) out[below(out.size())] = static_cast<char>(kInteresting[below(std::size(kInteresting))]);
        break;
      case 3:
        out.insert(below(out.size() + 1), 1 + below(16), static_cast<char>(kInteresting[below(std::size(kInteresting))]));
        break;
      case 4: {  // Repeat a part.
        const size_t from = below(out.size());
        const std::string part = out.substr(from, 1 + below(32));
        out.insert(below(out.size() + 1), part);
        break;
      }
      case 5: {  // Cut a part out.
        const size_t from = below(out.size());
        out.erase(from, 1 + below(32));
        break;
      }
      default: {  // A part of another file.
        if (other.empty()) break;
        out.insert(below(out.size() + 1), other.substr(below(other.size()), 1 + below(64)));
        break;
      }
    }
  }
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  int mutations = 200;
  uint32_t seed = 1;
  std::vector<std::string> files;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.substr(0, 12) == "--mutations=") {
      mutations = std::atoi(argv[i] + 12);
    } else if (argument.substr(0, 7) == "--seed=") {
      seed = static_cast<uint32_t>(std::strtoul(argv[i] + 7, nullptr, 10));
    } else if (std::filesystem::is_directory(argv[i])) {
      for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[i])) {
        if (entry.is_regular_file()) files.push_back(entry.path().string());
      }
    } else {
      files.push_back(argv[i]);
    }
  }
  std::sort(files.begin(), files.end());
  if (files.empty()) {
    std::fprintf(stderr, "corpus_main: no input; name files or folders\n");
    return 2;
  }
  for (const int fatal : {SIGSEGV, SIGABRT, SIGILL, SIGTRAP, SIGFPE, SIGBUS}) std::signal(fatal, OnFatalSignal);

  std::vector<std::string> inputs;
  for (const std::string& file : files) {
    std::ifstream stream(file, std::ios::binary);
    if (!stream) {
      std::fprintf(stderr, "corpus_main: can't read %s\n", file.c_str());
      return 2;
    }
    inputs.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
  }
  RunOne("", "an empty input", seed, 0);
  for (size_t i = 0; i < files.size(); ++i) {
    RunOne(inputs[i], files[i], seed, 0);
    std::mt19937 random(seed + static_cast<uint32_t>(i) * 7919u);
    for (int mutation = 1; mutation <= mutations; ++mutation) {
      RunOne(Mutate(inputs[i], inputs[random() % inputs.size()], random), files[i], seed, mutation);
    }
  }
  std::printf("%zu files, %d mutations of each: no failure\n", files.size(), mutations);
  return 0;
}
