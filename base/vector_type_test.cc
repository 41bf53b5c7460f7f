#include "base/vector_type.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "base/vector_type_portable.h"

namespace loci {
namespace {

uint32_t Bits(float value) { return std::bit_cast<uint32_t>(value); }

// The value of a half by its definition.
double HalfValue(uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const int mantissa = half & 0x3ff;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return half & 0x8000 ? -magnitude : magnitude;
}

TEST(Float16, EveryHalfHasItsValueAndComesBack) {
  std::vector<uint16_t> halves(65536);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  std::vector<float> floats(halves.size());
  Float16ToFloat32(halves.data(), floats.data(), halves.size());
  std::vector<uint16_t> back(halves.size());
  Float32ToFloat16(floats.data(), back.data(), floats.size());
  for (size_t i = 0; i < halves.size(); ++i) {
    ASSERT_EQ(Bits(floats[i]), Bits(internal::Float16ToFloat32Portable(halves[i]))) << i;
    if ((i & 0x7c00) != 0x7c00) {
      ASSERT_EQ(static_cast<double>(floats[i]), HalfValue(halves[i])) << i;
      ASSERT_EQ(back[i], halves[i]);
    } else if ((i & 0x3ff) == 0) {
      ASSERT_TRUE(std::isinf(floats[i]));
      ASSERT_EQ(back[i], halves[i]);
    } else {
      ASSERT_TRUE(std::isnan(floats[i]));
      ASSERT_EQ(back[i], halves[i] | 0x200) << "quiet";
    }
  }
}

TEST(Float16, RoundsToNearestEvenAtEveryHalf) {
  for (uint32_t i = 0; i < 0x7bff; ++i) {  // Between half i and its successor.
    const float low = internal::Float16ToFloat32Portable(static_cast<uint16_t>(i));
    const float high = internal::Float16ToFloat32Portable(static_cast<uint16_t>(i + 1));
    const float middle = (low + high) / 2;  // Exact.
    const float values[8] = {std::nextafterf(middle, 0),
                             middle,
                             std::nextafterf(middle, high),
                             low,
                             -middle,
                             -std::nextafterf(middle, high),
                             std::nextafterf(low, high),
                             std::nextafterf(high, low)};
    const auto even = static_cast<uint16_t>(i + (i & 1));
    const uint16_t expected[8] = {static_cast<uint16_t>(i),
                                  even,
                                  static_cast<uint16_t>(i + 1),
                                  static_cast<uint16_t>(i),
                                  static_cast<uint16_t>(even | 0x8000),
                                  static_cast<uint16_t>((i + 1) | 0x8000),
                                  static_cast<uint16_t>(i),
                                  static_cast<uint16_t>(i + 1)};
    uint16_t out[8];
    Float32ToFloat16(values, out, 8);
    for (int j = 0; j < 8; ++j) {
      ASSERT_EQ(out[j], expected[j]) << i << " " << j;
      ASSERT_EQ(internal::Float32ToFloat16Portable(values[j]), expected[j]) << i << " " << j;
    }
  }
}

TEST(Float16, InstructionsAndPortableCodeAgreeOnManyFloats) {
  std::vector<float> floats;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 8191)
    floats.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  for (const uint32_t bits :
       {0x477fefffu, 0x477ff000u, 0x477ff001u, 0x33000000u, 0x33000001u, 0x387fffffu, 0x7f800001u, 0xffc00000u}) {
    floats.push_back(std::bit_cast<float>(bits));
  }
  floats.resize(floats.size() / 8 * 8 + 8, 1.0f);
  std::vector<uint16_t> halves(floats.size());
  Float32ToFloat16(floats.data(), halves.data(), floats.size());
  for (size_t i = 0; i < floats.size(); ++i) {
    ASSERT_EQ(halves[i], internal::Float32ToFloat16Portable(floats[i])) << std::hex << Bits(floats[i]);
  }
}

TEST(Float16, ConvertsCountsThatAreNoMultipleOfEight) {
  for (size_t count = 0; count < 20; ++count) {
    std::vector<float> in(count);
    for (size_t i = 0; i < count; ++i) in[i] = 0.5f + static_cast<float>(i);
    std::vector<uint16_t> halves(count + 1, 0xabcd);
    std::vector<float> out(count + 1, -1);
    Float32ToFloat16(in.data(), halves.data(), count);
    Float16ToFloat32(halves.data(), out.data(), count);
    EXPECT_EQ(halves[count], 0xabcd);
    EXPECT_EQ(out[count], -1);
    out.resize(count);
    EXPECT_EQ(out, in);
  }
}

TEST(Bfloat16, RoundsToNearestEvenAndKeepsSpecialValues) {
  struct Case {
    uint32_t in;
    uint16_t out;
  };
  for (const Case c : {Case{0x3f800000, 0x3f80}, Case{0x3f808000, 0x3f80}, Case{0x3f808001, 0x3f81}, Case{0x3f818000, 0x3f82},
                       Case{0xbf818000, 0xbf82}, Case{0x7f7fffff, 0x7f80}, Case{0x7f800000, 0x7f80}, Case{0xff800000, 0xff80},
                       Case{0x7f800001, 0x7fc0}, Case{0xffffffff, 0xffff}, Case{0x00000000, 0x0000}, Case{0x80000000, 0x8000},
                       Case{0x00008000, 0x0000}, Case{0x00018000, 0x0002}}) {
    const float in = std::bit_cast<float>(c.in);
    uint16_t out;
    Float32ToBfloat16(&in, &out, 1);
    EXPECT_EQ(out, c.out) << std::hex << c.in;
  }
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto in = static_cast<uint16_t>(i);
    float value;
    Bfloat16ToFloat32(&in, &value, 1);
    ASSERT_EQ(Bits(value), i << 16);
  }
}

TEST(ElementType, HasNameAndSize) {
  EXPECT_EQ(ElementTypeName(ElementType::kFloat32), "float32");
  EXPECT_EQ(ElementTypeName(ElementType::kBfloat16), "bfloat16");
  EXPECT_EQ(ElementSize(ElementType::kFloat16), 2u);
  EXPECT_EQ(ElementSize(ElementType::kInt8), 1u);
  EXPECT_EQ(ElementSize(ElementType::kFloat64), 8u);
}

TEST(LargestStorable, IsTheLargestThatIsNotRoundedToInfinity) {
  for (const ElementType type : {ElementType::kFloat16, ElementType::kBfloat16}) {
    const bool half = type == ElementType::kFloat16;
    const float limit = LargestStorable(type);
    uint16_t bits[2];
    const float values[] = {limit, limit * 1.01f};
    (half ? Float32ToFloat16 : Float32ToBfloat16)(values, bits, 2);
    float back[2];
    (half ? Float16ToFloat32 : Bfloat16ToFloat32)(bits, back, 2);
    EXPECT_EQ(back[0], limit);
    EXPECT_TRUE(std::isinf(back[1]));
  }
}

}  // namespace
}  // namespace loci
