#include "index/vector_file_testing.h"

#include <cstdint>
#include <string>
#include <utility>

#include "base/file.h"
#include "base/logging.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

// Tests that share a folder run at once.
std::string TemporaryPath() {
  const testing::TestInfo* const test = testing::UnitTest::GetInstance()->current_test_info();
  std::string name = std::string(test->test_suite_name()) + "." + test->name() + ".vectors";
  for (char& c : name) c = c == '/' ? '_' : c;
  return JoinPath(testing::TempDir(), name);
}

}  // namespace

std::shared_ptr<const VectorFile> MakeVectorFile(const std::vector<float>& rows, int dim, ElementType type) {
  FileSystem& fs = PosixFileSystem();
  const std::string path = TemporaryPath();
  const int64_t count = static_cast<int64_t>(rows.size()) / dim;
  auto writer = VectorFileWriter::Create(fs, path, count, dim, type);
  LOCI_CHECK(writer.ok());
  for (int64_t r = 0; r < count; ++r) LOCI_CHECK((*writer)->Append(&rows[static_cast<size_t>(r * dim)]).ok());
  LOCI_CHECK((*writer)->Finish().ok());
  auto vectors = VectorFile::Open(fs, path);
  LOCI_CHECK(vectors.ok());
  LOCI_CHECK(fs.DeleteFile(path).ok());
  return *std::move(vectors);
}

VectorsWithCodes MakeVectorsWithCodes(const std::vector<float>& rows, int dim, ElementType type) {
  FileSystem& fs = PosixFileSystem();
  const std::string path = TemporaryPath() + ".int8";
  VectorsWithCodes made;
  made.vectors = MakeVectorFile(rows, dim, type);
  LOCI_CHECK(WriteQuantizedVectors(fs, *made.vectors, path, nullptr).ok());
  auto codes = QuantizedVectors::Open(fs, path);
  LOCI_CHECK(codes.ok());
  LOCI_CHECK(fs.DeleteFile(path).ok());
  made.codes = *std::move(codes);
  return made;
}

}  // namespace loci
