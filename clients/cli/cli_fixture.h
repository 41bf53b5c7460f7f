// What tests of commands share: a folder of their own, a fake server, and what was printed.
#ifndef LOCI_CLIENTS_CLI_CLI_FIXTURE_H_
#define LOCI_CLIENTS_CLI_CLI_FIXTURE_H_

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "clients/cli/cli.h"
#include "clients/cli/fake_server.h"

namespace loci {

// Used by one thread: the test's.
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
    err_.str("");
    CliEnvironment environment{out_, err_};
    environment.err_width = err_width;
    environment.server = server_.address();
    return RunCli(args, environment);
  }
  std::string out() const { return out_.str(); }
  std::string err() const { return err_.str(); }

  FakeServer server_;
  std::string directory_;
  std::ostringstream out_, err_;
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_CLI_FIXTURE_H_
