// What the tests of the readers share: files in a folder of their own, and compressed text.
#ifndef LOCI_CLIENTS_CLI_INPUT_TESTING_H_
#define LOCI_CLIENTS_CLI_INPUT_TESTING_H_

#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace loci {

// `window_bits` as zlib's deflateInit2: 15 is zlib's format, 15 + 16 gzip's.
inline std::string Deflate(const std::string& text, int window_bits, int level = 6) {
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, level, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}
inline std::string Gzip(const std::string& text) { return Deflate(text, 15 + 16); }

// Has a folder, removed with this.
class InputFilesTest : public ::testing::Test {
 protected:
  InputFilesTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "loci_input_XXXXXX").string();
    directory_ = mkdtemp(pattern.data());
  }
  ~InputFilesTest() override { std::filesystem::remove_all(directory_); }

  // The path of a file in it, with its folders.
  std::string Write(const std::string& name, const std::string& content) {
    const std::filesystem::path path = std::filesystem::path(directory_) / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << content;
    return path.string();
  }

  std::string directory_;
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_INPUT_TESTING_H_
