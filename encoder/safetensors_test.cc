#include "encoder/safetensors.h"

#include <cstring>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/vector_type.h"
#include "encoder/testing/tiny_checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using testing::HasSubstr;

std::string Floats(const std::vector<float>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

void ExpectRefused(const std::string& file, const std::string& message) {
  const auto parsed = Safetensors::Parse(file, "model.safetensors");
  ASSERT_FALSE(parsed.ok()) << message;
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(message));
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("model.safetensors"));
}

// One tensor "w" with the given description over 8 bytes of data.
void ExpectRefusedTensor(const std::string& description, const std::string& message) {
  ExpectRefused(SafetensorsBytes("{\"w\":" + description + "}", "12345678"), message);
}

TEST(Safetensors, ReadsWhatIsThere) {
  const std::string file = BuildSafetensors({{"a", {"F32", {2, 2}, Floats({1, 2, 3, 4})}}, {"b", {"I64", {1}, "12345678"}}});
  const auto parsed = Safetensors::Parse(file, "x");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ((*parsed)->tensors().size(), 2u);
  EXPECT_TRUE((*parsed)->Has("b"));
  EXPECT_FALSE((*parsed)->Has("__metadata__"));
  std::vector<float> a(4);
  ASSERT_TRUE((*parsed)->ReadFloats("a", {2, 2}, a.data()).ok());
  EXPECT_EQ(a, (std::vector<float>{1, 2, 3, 4}));
}

TEST(Safetensors, ConvertsHalfTypes) {
  const std::vector<float> values = {0.5f, -2.0f, 1024.0f};
  std::vector<uint16_t> f16(3), bf16(3);
  Float32ToFloat16(values.data(), f16.data(), 3);
  Float32ToBfloat16(values.data(), bf16.data(), 3);
  const auto bytes = [](const std::vector<uint16_t>& v) { return std::string(reinterpret_cast<const char*>(v.data()), 6); };
  const std::string file = BuildSafetensors({{"f", {"F16", {3}, bytes(f16)}}, {"b", {"BF16", {3}, bytes(bf16)}}});
  const auto kept = Safetensors::Parse(file, "x");
  ASSERT_TRUE(kept.ok()) << kept.status();
  std::vector<float> out(3);
  ASSERT_TRUE((*kept)->ReadFloats("f", {3}, out.data()).ok());
  EXPECT_EQ(out, values);
  ASSERT_TRUE((*kept)->ReadFloats("b", {3}, out.data()).ok());
  EXPECT_EQ(out, values);
}

TEST(Safetensors, AcceptsScalarsEmptyTensorsAndAnEmptyFile) {
  const std::string file = BuildSafetensors({{"scalar", {"F32", {}, Floats({7})}}, {"none", {"F32", {0, 5}, ""}}});
  const auto parsed = Safetensors::Parse(file, "x");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  float scalar = 0;
  ASSERT_TRUE((*parsed)->ReadFloats("scalar", {}, &scalar).ok());
  EXPECT_EQ(scalar, 7);
  const std::string empty = SafetensorsBytes("{}", "");
  EXPECT_TRUE(Safetensors::Parse(empty, "x").ok());
}

TEST(Safetensors, NamesATensorThatDoesNotFit) {
  const std::string file = BuildSafetensors({{"a", {"F32", {2}, Floats({1, 2})}}, {"i", {"I32", {1}, "1234"}}});
  const auto parsed = Safetensors::Parse(file, "m.safetensors");
  ASSERT_TRUE(parsed.ok());
  float out[2];
  EXPECT_THAT(std::string((*parsed)->ReadFloats("a", {3}, out).message()),
              HasSubstr("m.safetensors: tensor \"a\" has the shape [2]"));
  EXPECT_THAT(std::string((*parsed)->ReadFloats("none", {3}, out).message()), HasSubstr("\"none\" is missing"));
  EXPECT_THAT(std::string((*parsed)->ReadFloats("i", {1}, out).message()), HasSubstr("dtype I32"));
}

TEST(Safetensors, RefusesLengthsThatDoNotFitTheFile) {
  ExpectRefused("", "the file has 0 bytes");
  ExpectRefused("1234567", "the file has 7 bytes");
  ExpectRefused(std::string(8, '\0'), "does not begin with '{'");
  ExpectRefused(std::string("\x10\0\0\0\0\0\0\0{}", 10), "the header has 16 bytes, but the file has only 10");
  ExpectRefused(std::string(8, '\xff') + "{}", "the limit is 100000000");
  ExpectRefused(std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10), "the header has 100000001 bytes, the limit is");
}

TEST(Safetensors, RefusesAHeaderThatIsNotTheGrammars) {
  for (const char* header : {"{", "{]", "{\"a\"}", "{\"a\":1,}", "{}{}", "{}x", "{\"a\":tru", "{\"\xff\":{}}", "{,}"}) {
    ExpectRefused(SafetensorsBytes(header, ""), "");
  }
  ExpectRefused(SafetensorsBytes("[]", ""), "does not begin with '{'");
  ExpectRefused(SafetensorsBytes(" {}", ""), "does not begin with '{'");
  ExpectRefused(SafetensorsBytes(std::string("{}\0junk", 7), ""), "zero byte");
  ExpectRefused(SafetensorsBytes("{\"a\":1}", ""), "tensor \"a\" has a number");
  ExpectRefused(SafetensorsBytes("{\"a\":null}", ""), "tensor \"a\" has null");
  ExpectRefused(SafetensorsBytes("{\"a\":[]}", ""), "tensor \"a\" has an array");
  ExpectRefused(SafetensorsBytes("{\"__metadata__\":{\"a\":1}}", ""), "\"__metadata__\" has a number");
  ExpectRefused(SafetensorsBytes("{\"__metadata__\":{\"a\":{}}}", ""), "\"__metadata__\" has an object");
  ExpectRefused(SafetensorsBytes("{\"__metadata__\":{},\"__metadata__\":{}}", ""), "named twice");
}

TEST(Safetensors, SurvivesNestingBombs) {
  for (const std::string& nest : {std::string("["), std::string("{\"a\":")}) {
    std::string bomb = "{\"w\":";
    for (int i = 0; i < 1'000'000; ++i) bomb += nest;
    ExpectRefused(SafetensorsBytes(bomb, ""), "tensor \"w\" has");
  }
  std::string shape = "{\"w\":{\"shape\":";
  shape.append(1'000'000, '[');
  ExpectRefused(SafetensorsBytes(shape, ""), "tensor \"w\" has an array");
}

TEST(Safetensors, RefusesWrongDescriptions) {
  ExpectRefusedTensor(R"({"dtype":"F32","shape":[2]})", "has no data_offsets");
  ExpectRefusedTensor(R"({"dtype":"F32","data_offsets":[0,8]})", "has no shape");
  ExpectRefusedTensor(R"({"shape":[2],"data_offsets":[0,8]})", "has no dtype");
  ExpectRefusedTensor(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1})", "unknown key \"more\"");
  ExpectRefusedTensor(R"({"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]})", "key dtype twice");
  ExpectRefusedTensor(R"({"dtype":"F33","shape":[2],"data_offsets":[0,8]})", "unknown dtype \"F33\"");
  ExpectRefusedTensor(R"({"dtype":7,"shape":[2],"data_offsets":[0,8]})", "a number where");
  ExpectRefusedTensor(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})", "a number where");
  ExpectRefusedTensor(R"({"dtype":"F32","shape":["2"],"data_offsets":[0,8]})", "a string where");
  ExpectRefusedTensor(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})", "negative number -2");
  ExpectRefusedTensor(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})", "not a whole number");
  ExpectRefusedTensor(R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]})", "more than 8 dimensions");
  ExpectRefusedTensor(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})", "fewer than two data_offsets");
  ExpectRefusedTensor(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,8]})", "more than two data_offsets");
}

TEST(Safetensors, RefusesSizesThatDoNotFit) {
  ExpectRefusedTensor(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})", "needs 12 bytes, but its data_offsets span 8");
  ExpectRefusedTensor(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16]})", "outside the file's 8 bytes");
  ExpectRefusedTensor(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})", "outside the file");
  ExpectRefusedTensor(R"({"dtype":"F32","shape":[9223372036854775807],"data_offsets":[0,8]})", "overflows");
  ExpectRefusedTensor(R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8]})", "over 2^63 - 1");
  ExpectRefusedTensor(R"({"dtype":"F32","shape":[99999999999999999999999],"data_offsets":[0,8]})", "not a whole number");
  ExpectRefusedTensor(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]})", "overflows");
  // 2^62 elements of 4 bytes wrap to 0.
  ExpectRefusedTensor(R"({"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]})", "overflows");
  ExpectRefusedTensor(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})", "the tensors end at 4, but there are 8 bytes");
}

TEST(Safetensors, RefusesDuplicatesOverlapsAndGaps) {
  const std::string one = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  const std::string two = R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})";
  const std::string both = R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  ExpectRefused(SafetensorsBytes("{\"w\":" + one + ",\"w\":" + two + "}", "12345678"), "tensor \"w\" is named twice");
  ExpectRefused(SafetensorsBytes("{\"w\":" + one + ",\"v\":" + both + "}", "12345678"), "overlaps");
  ExpectRefused(SafetensorsBytes("{\"w\":" + two + "}", "12345678"), "leaving a gap after 0");
  const std::string late = R"({"dtype":"F32","shape":[1],"data_offsets":[8,12]})";
  ExpectRefused(SafetensorsBytes("{\"w\":" + one + ",\"v\":" + late + "}", "123456789012"), "leaving a gap after 4");
}

TEST(Safetensors, EscapesNamesInMessages) { ExpectRefused(SafetensorsBytes("{\"a\\u0000\\n\":1}", ""), "tensor \"a\\x00\\n\""); }

TEST(Safetensors, SaysThatAFileIsMissing) {
  const auto opened = Safetensors::Open(PosixFileSystem(), testing::TempDir() + "/nothing.safetensors");
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(opened.status().message()), HasSubstr("nothing.safetensors"));
}

}  // namespace
}  // namespace loci
