#include "index/vector_file.h"

#include <cmath>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "base/file.h"

namespace loci {
namespace {

std::string TempPath(const std::string& name) { return JoinPath(testing::TempDir(), "vector_file_test_" + name); }

absl::Status WriteRows(const std::string& path, int64_t rows, int dim, ElementType type) {
  auto writer = VectorFileWriter::Create(PosixFileSystem(), path, rows, dim, type);
  if (!writer.ok()) return writer.status();
  std::vector<float> row(dim);
  for (int64_t r = 0; r < rows; ++r) {
    for (int d = 0; d < dim; ++d) row[d] = static_cast<float>(r) + 0.125f * static_cast<float>(d % 8);
    if (absl::Status status = (*writer)->Append(row.data()); !status.ok()) return status;
  }
  return (*writer)->Finish();
}

std::string Contents(const std::string& path) { return PosixFileSystem().ReadFile(path).value(); }

void Overwrite(const std::string& path, const std::string& content) {
  ASSERT_TRUE(WriteFileAtomically(PosixFileSystem(), path, content).ok());
}

TEST(VectorFile, ReturnsTheRowsThatWereWritten) {
  for (const ElementType type : {ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16}) {
    for (const int64_t rows : {0, 1, 3, 100}) {
      for (const int dim : {1, 5, 384}) {
        const std::string path = TempPath("round_trip");
        ASSERT_TRUE(WriteRows(path, rows, dim, type).ok());
        auto file = VectorFile::Open(PosixFileSystem(), path);
        ASSERT_TRUE(file.ok()) << file.status();
        EXPECT_EQ((*file)->rows(), rows);
        EXPECT_EQ((*file)->dim(), dim);
        EXPECT_EQ((*file)->element_type(), type);
        std::vector<float> row(dim);
        for (int64_t r = 0; r < rows; ++r) {
          (*file)->CopyRow(r, row.data());
          // bfloat16 has 8 bits of precision: the largest value is 99.875.
          const float tolerance = type == ElementType::kBfloat16 ? 0.26f : 0.0f;
          for (int d = 0; d < dim; ++d) {
            ASSERT_NEAR(row[d], static_cast<float>(r) + 0.125f * static_cast<float>(d % 8), tolerance) << r << " " << d;
          }
        }
      }
    }
  }
}

TEST(VectorFile, LaysOutTheHeaderAsTheFormatSays) {
  const std::string path = TempPath("layout");
  ASSERT_TRUE(WriteRows(path, 2, 3, ElementType::kFloat16).ok());
  const std::string content = Contents(path);
  ASSERT_EQ(content.size(), 64u + 2 * 3 * 2);
  EXPECT_EQ(content.substr(0, 8), "LOCIVEC1");
  EXPECT_EQ(content.substr(8, 8), std::string("\1\0\0\0\2\0\0\0", 8));
  EXPECT_EQ(content.substr(16, 16), std::string("\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0", 16));
}

TEST(VectorFile, FindsDamageAndNamesTheFile) {
  const std::string path = TempPath("damage");
  ASSERT_TRUE(WriteRows(path, 4, 3, ElementType::kFloat32).ok());
  const std::string good = Contents(path);
  std::vector<std::string> damaged = {"", good.substr(0, 63), good.substr(0, good.size() - 1), good + "x", good + std::string(12, 'x')};
  for (const auto& [offset, byte] : std::vector<std::pair<size_t, char>>{
           {0, 'X'}, {8, 0}, {12, 0}, {12, 4}, {13, 1}, {16, 5}, {23, '\x80'}, {23, '\x40'}, {24, 0}, {31, '\x80'}, {31, '\x40'}, {40, 1}}) {
    std::string bad = good;
    bad[offset] = byte;
    damaged.push_back(bad);
  }
  for (const std::string& content : damaged) {
    Overwrite(path, content);
    auto file = VectorFile::Open(PosixFileSystem(), path);
    ASSERT_FALSE(file.ok()) << content.size();
    EXPECT_EQ(file.status().code(), absl::StatusCode::kDataLoss) << file.status();
    EXPECT_NE(file.status().message().find("vector_file_test_damage"), std::string::npos) << file.status();
  }
}

TEST(VectorFile, RefusesANewerFormat) {
  const std::string path = TempPath("newer");
  ASSERT_TRUE(WriteRows(path, 1, 3, ElementType::kFloat32).ok());
  std::string content = Contents(path);
  content[8] = 2;
  Overwrite(path, content);
  EXPECT_EQ(VectorFile::Open(PosixFileSystem(), path).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(VectorFileWriter, TakesExactlyTheRowsAnnounced) {
  const std::string path = TempPath("count");
  const float row[2] = {1, 2};
  auto writer = VectorFileWriter::Create(PosixFileSystem(), path, 2, 2, ElementType::kFloat32);
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->Append(row).ok());
  EXPECT_EQ((*writer)->Finish().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE((*writer)->Append(row).ok());
  EXPECT_EQ((*writer)->Append(row).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE((*writer)->Finish().ok());
}

TEST(VectorFileWriter, RefusesShapesAndTypesItCannotStore) {
  const std::string path = TempPath("refused");
  for (const auto& [rows, dim, type] : std::vector<std::tuple<int64_t, int, ElementType>>{
           {-1, 3, ElementType::kFloat32}, {1, 0, ElementType::kFloat32}, {1, 65537, ElementType::kFloat32}, {1, 3, ElementType::kInt8}}) {
    EXPECT_EQ(VectorFileWriter::Create(PosixFileSystem(), path, rows, dim, type).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace loci
