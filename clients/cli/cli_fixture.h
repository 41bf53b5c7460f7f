// What tests of commands share: a folder of their own, a fake server, and what was printed.
#ifndef LOCI_CLIENTS_CLI_CLI_FIXTURE_H_
#define LOCI_CLIENTS_CLI_CLI_FIXTURE_H_

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>
#include <streambuf>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "clients/cli/cli.h"
#include "clients/cli/fake_server.h"

namespace loci {

// What was written so far can be asked for by any thread, while the command still writes. Thread-safe.
class SharedBuffer final : public std::streambuf {
 public:
  std::string str() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return text_;
  }
  void Clear() {
    const std::lock_guard<std::mutex> lock(mutex_);
    text_.clear();
  }

 private:
  int_type overflow(int_type character) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (character != traits_type::eof()) text_ += static_cast<char>(character);
    return traits_type::not_eof(character);
  }
  std::streamsize xsputn(const char* text, std::streamsize size) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    text_.append(text, static_cast<size_t>(size));
    return size;
  }

  mutable std::mutex mutex_;
  std::string text_;  // Guarded by mutex_.
};

// Used by one thread: the test's; WaitForErr() by any.
class CliTest : public ::testing::Test {
 protected:
  CliTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "loci_cli_XXXXXX").string();
    directory_ = mkdtemp(pattern.data());
  }
  ~CliTest() override { std::filesystem::remove_all(directory_); }

  std::string Write(const std::string& name, const std::string& content) {
    const std::string path = directory_ + "/" + name;
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  // As from a shell; `err_width` columns of standard error, where it is a terminal.
  int Run(const std::vector<std::string>& args, int err_width = 0) {
    out_.str("");
    err_buffer_.Clear();
    CliEnvironment environment{out_, err_};
    environment.err_width = err_width;
    environment.server = server_.address();
    return RunCli(args, environment);
  }
  std::string out() const { return out_.str(); }
  std::string err() const { return err_buffer_.str(); }
  // Waits until that was printed, or for a minute.
  bool WaitForErr(std::string_view text) const {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (err().find(text) == std::string::npos) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
  }

  FakeServer server_;
  std::string directory_;
  std::ostringstream out_;
  SharedBuffer err_buffer_;
  std::ostream err_{&err_buffer_};
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_CLI_FIXTURE_H_
