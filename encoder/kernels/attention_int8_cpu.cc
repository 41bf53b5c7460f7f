#include "encoder/kernels/cpu_variants.h"
#include "encoder/kernels/int8_tile.h"
#include "encoder/kernels/int8_variants.h"

namespace loci::LOCI_SIMD {

#if defined(__AVX512VNNI__)

namespace {

// A softmax weight in steps of 1 / kWeightLevels of the row's largest: with 255, what many small weights add up to would be lost.
constexpr int64_t kWeightLevels = 4095;
constexpr int64_t kMaxValueLevels = 511;

// Of a value, either side of zero: as many as keep the sum of `length` products below 2^31.
LOCI_INLINE float ValueLevels(int64_t length) {
  const int64_t levels = 0x7fffffff / (kWeightLevels * length);
  return static_cast<float>(levels < kMaxValueLevels ? levels : kMaxValueLevels);
}

LOCI_INLINE int64_t WeightRowBytes(int64_t length) { return RoundUp(2 * length, 64); }
// [length / 2][kInt8Panel][2] of 16-bit integers.
LOCI_INLINE int64_t ValuePanelBytes(int64_t length) { return (length + 1) / 2 * kInt8Panel * 4; }

struct Layout {
  int64_t queries = 0;  // Offsets into the scratch space, in bytes; each a multiple of 64.
  int64_t query_scale = 0;
  int64_t query_offset = 0;
  int64_t keys = 0;
  int64_t key_scale = 0;
  int64_t key_sum = 0;
  int64_t values = 0;
  int64_t value_scale = 0;
  int64_t scores = 0;
  int64_t weights = 0;
  int64_t end = 0;
};

LOCI_INLINE Layout LayOut(int64_t length, int64_t head_dim) {
  const int64_t padded = RoundUp(length, kInt8Panel);
  const int64_t columns = RoundUp(head_dim, kInt8Panel);
  Layout layout;
  int64_t at = 0;
  const auto take = [&at](int64_t bytes) {
    const int64_t begin = at;
    at += RoundUp(bytes, 64);
    return begin;
  };
  layout.queries = take(length * Int8RowBytes(head_dim));
  layout.query_scale = take(length * 4);
  layout.query_offset = take(length * 4);
  layout.keys = take(padded / kInt8Panel * Int8PanelBytes(head_dim));
  layout.key_scale = take(padded * 4);
  layout.key_sum = take(padded * 4);
  layout.values = take(columns / kInt8Panel * ValuePanelBytes(length));
  layout.value_scale = take(columns * 4);
  layout.scores = take(kInt8Rows * padded * 4);
  layout.weights = take(kInt8Rows * WeightRowBytes(length));
  layout.end = at;
  return layout;
}

LOCI_INLINE __mmask16 MaskOf(int64_t left) { return static_cast<__mmask16>(left >= kLanes ? 0xffff : (1u << left) - 1); }

// [panel][group][kInt8Panel][4] of the keys, whose columns are tokens.
LOCI_INLINE void PackKeys(int8_t* out, float* scale, float* sum, const float* keys, int64_t stride, int64_t length,
                          int64_t head_dim) {
  const int64_t padded = RoundUp(length, kInt8Panel);
  const int64_t groups = Int8Groups(head_dim);
  for (int64_t j = 0; j < padded; ++j) {
    int8_t* const to = out + j / kInt8Panel * Int8PanelBytes(head_dim) + j % kInt8Panel * 4;
    if (j >= length) {
      for (int64_t g = 0; g < groups; ++g) __builtin_memset(to + g * kInt8Panel * 4, 0, 4);
      scale[j] = sum[j] = 0.0f;
      continue;
    }
    const float* const key = keys + j * stride;
    Vec most = Zero();
    for (int64_t d = 0; d < head_dim; d += kLanes) {
      most = Max(most, _mm512_abs_ps(_mm512_maskz_loadu_ps(MaskOf(head_dim - d), key + d)));
    }
    const float range = HighestLane(most);
    const bool none = !(range > kLeastRange);
    scale[j] = none ? 0.0f : range * (1.0f / 127.0f);
    const Vec inverse = Set(none ? 0.0f : 127.0f / range);
    __m512i total = _mm512_setzero_si512();
    for (int64_t d = 0; d < head_dim; d += kLanes) {
      const Vec x = Mul(_mm512_maskz_loadu_ps(MaskOf(head_dim - d), key + d), inverse);
      const __m128i bytes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x));
      total = _mm512_add_epi32(total, _mm512_cvtepi8_epi32(bytes));
      alignas(16) int32_t four[4];
      _mm_store_si128(reinterpret_cast<__m128i*>(four), bytes);
      for (int64_t g = 0; g < 4 && d / 4 + g < groups; ++g) __builtin_memcpy(to + (d / 4 + g) * kInt8Panel * 4, &four[g], 4);
    }
    sum[j] = static_cast<float>(_mm512_reduce_add_epi32(total));
  }
}

// [panel of channels][pair of tokens][kInt8Panel][2] of the values.
LOCI_INLINE void PackValues(int8_t* out, float* scale, const float* values, int64_t stride, int64_t length, int64_t head_dim) {
  const int64_t pairs = (length + 1) / 2;
  const int64_t columns = RoundUp(head_dim, kInt8Panel);
  const float levels = ValueLevels(length);
  const __m512i low_half = _mm512_set1_epi32(0xffff);
  for (int64_t d = 0; d < columns; d += kLanes) {
    const __mmask16 mask = d < head_dim ? MaskOf(head_dim - d) : 0;
    Vec most = Zero();
    for (int64_t j = 0; j < length; ++j) most = Max(most, _mm512_abs_ps(_mm512_maskz_loadu_ps(mask, values + j * stride + d)));
    const __mmask16 some = _mm512_cmp_ps_mask(most, Set(kLeastRange), _CMP_GT_OQ);
    Store(scale + d, _mm512_maskz_mul_ps(some, most, Set(1.0f / levels)));
    const Vec inverse = _mm512_maskz_div_ps(some, Set(levels), most);
    int8_t* to = out + d / kInt8Panel * ValuePanelBytes(length) + d % kInt8Panel * 4;
    for (int64_t p = 0; p < pairs; ++p, to += kInt8Panel * 4) {
      const float* const two = values + 2 * p * stride + d;
      const __m512i even = _mm512_and_si512(_mm512_cvtps_epi32(Mul(_mm512_maskz_loadu_ps(mask, two), inverse)), low_half);
      const __mmask16 odd_mask = 2 * p + 1 < length ? mask : 0;
      const __m512i odd = _mm512_cvtps_epi32(Mul(_mm512_maskz_loadu_ps(odd_mask, two + stride), inverse));
      _mm512_store_si512(to, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
    }
  }
}

// kWeightLevels * 2^x for x <= 0, rounded after it is within 7.5e-5 of that: x = n + r, and 2^r is the polynomial of degree 3 that is minimax in the relative
// error on [-1/2, 1/2]. 0 far out.
LOCI_INLINE __m512i ScaledPowerOfTwo(Vec x) {
  constexpr float kScale = static_cast<float>(kWeightLevels);
  x = Max(x, Set(-40.0f));
  const Vec shifted = Add(x, Set(12582912.0f));  // 1.5 * 2^23: the low bits are round(x).
  const Vec r = Sub(x, Sub(shifted, Set(12582912.0f)));
  Vec p = Set(kScale * 0.05517170f);
  p = Fma(p, r, Set(kScale * 0.24261120f));
  p = Fma(p, r, Set(kScale * 0.69326099f));
  p = Fma(p, r, Set(kScale * 0.99992807f));
  const __m512i scaled = _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(shifted), 23));
  return _mm512_cvtps_epi32(_mm512_castsi512_ps(scaled));
}

// Scores, in units of log2, to 16-bit weights; returns one over their sum. Weights to the end of the last vector are zero.
LOCI_INLINE float WeighRow(uint8_t* out, const float* scores, int64_t length) {
  Vec most = Set(-3.4e38f);
  int64_t j = 0;
  for (; j + kLanes <= length; j += kLanes) most = Max(most, Load(scores + j));
  const int rest = static_cast<int>(length - j);
  if (rest > 0) most = Max(most, LoadPartial(scores + j, rest, most));
  const Vec largest = Set(HighestLane(most));
  __m512i sum = _mm512_setzero_si512();
  for (j = 0; j + kLanes <= length; j += kLanes) {
    const __m512i weight = ScaledPowerOfTwo(Sub(Load(scores + j), largest));
    sum = _mm512_add_epi32(sum, weight);
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + 2 * j), _mm512_cvtepi32_epi16(weight));
  }
  if (rest > 0) {
    const __m512i weight =
        _mm512_maskz_mov_epi32(MaskOf(rest), ScaledPowerOfTwo(Sub(LoadPartial(scores + j, rest, largest), largest)));
    sum = _mm512_add_epi32(sum, weight);
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + 2 * j), _mm512_cvtepi32_epi16(weight));
  }
  return 1.0f / static_cast<float>(_mm512_reduce_add_epi32(sum));
}

}  // namespace

int64_t AttentionInt8ScratchBytes(int64_t max_length, int64_t head_dim) { return LayOut(max_length, head_dim).end; }

void AttentionInt8(float* context, int64_t stride, const float* qkv, const int32_t* offsets, int64_t sequence_count,
                   int64_t head_dim, uint8_t* scratch) {
  const float to_log2 = 1.44269504f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(static_cast<float>(head_dim))));
  const int64_t row = 3 * head_dim;
  const int64_t query_bytes = Int8RowBytes(head_dim);
  alignas(64) int32_t sums[kInt8Rows * kInt8Panel];
  for (int64_t s = 0; s < sequence_count; ++s) {
    const int64_t length = offsets[s + 1] - offsets[s];
    const int64_t padded = RoundUp(length, kInt8Panel);
    const int64_t weight_bytes = WeightRowBytes(length);
    const Layout layout = LayOut(length, head_dim);
    uint8_t* const queries = scratch + layout.queries;
    float* const query_scale = reinterpret_cast<float*>(scratch + layout.query_scale);
    float* const query_offset = reinterpret_cast<float*>(scratch + layout.query_offset);
    int8_t* const keys = reinterpret_cast<int8_t*>(scratch + layout.keys);
    float* const key_scale = reinterpret_cast<float*>(scratch + layout.key_scale);
    float* const key_sum = reinterpret_cast<float*>(scratch + layout.key_sum);
    int8_t* const values = reinterpret_cast<int8_t*>(scratch + layout.values);
    float* const value_scale = reinterpret_cast<float*>(scratch + layout.value_scale);
    float* const scores = reinterpret_cast<float*>(scratch + layout.scores);
    uint8_t* const weights = scratch + layout.weights;

    const float* const q = qkv + offsets[s] * row;
    for (int64_t i = 0; i < length; ++i) {
      const float* const from = q + i * row;
      Vec low = Set(from[0]), high = low;
      for (int64_t d = 0; d < head_dim; d += kLanes) {
        const __mmask16 mask = MaskOf(head_dim - d);
        const Vec x = _mm512_mask_loadu_ps(low, mask, from + d);
        low = Min(low, x);
        high = _mm512_mask_max_ps(high, mask, high, x);
      }
      const RowRange range = RangeOf(LowestLane(low), HighestLane(high));
      query_scale[i] = range.scale * to_log2;
      query_offset[i] = range.offset * to_log2;
      for (int64_t d = 0; d < head_dim; d += kLanes) {
        StoreQuantized(queries + i * query_bytes + d, _mm512_maskz_loadu_ps(MaskOf(head_dim - d), from + d), Set(range.offset),
                       Set(range.inverse));
      }
    }
    PackKeys(keys, key_scale, key_sum, q + head_dim, row, length, head_dim);
    PackValues(values, value_scale, q + 2 * head_dim, row, length, head_dim);

    const int64_t tiles = (length + kInt8Rows - 1) / kInt8Rows;
    for (int64_t t = 0, i = 0; t < tiles; ++t) {
      const int64_t rows = length / tiles + (t < length % tiles ? 1 : 0);
      const Int8TileFunction tile = GetInt8Tile(rows);
      for (int64_t j = 0; j < padded; j += kInt8Panel) {
        tile(queries + i * query_bytes, query_bytes, keys + j / kInt8Panel * Int8PanelBytes(head_dim), Int8Groups(head_dim),
             sums);
        for (int64_t v = 0; v < kInt8Panel && j + v < length; v += kLanes) {
          const Vec scale = Load(key_scale + j + v), sum = Load(key_sum + j + v);
          for (int64_t r = 0; r < rows; ++r) {
            Store(scores + r * padded + j + v,
                  Dequantize(sums + r * kInt8Panel + v, Set(query_scale[i + r]), Set(query_offset[i + r]), scale, sum, Zero()));
          }
        }
      }
      float inverse[kInt8Rows];
      for (int64_t r = 0; r < rows; ++r) inverse[r] = WeighRow(weights + r * weight_bytes, scores + r * padded, length);
      for (int64_t d = 0; d < head_dim; d += kInt8Panel) {
        GetInt16Tile(rows)(weights, weight_bytes, values + d / kInt8Panel * ValuePanelBytes(length), (length + 1) / 2, sums);
        for (int64_t v = 0; v < kInt8Panel && d + v < head_dim; v += kLanes) {
          const __mmask16 mask = MaskOf(head_dim - d - v);
          const Vec scale = Load(value_scale + d + v);
          for (int64_t r = 0; r < rows; ++r) {
            const Vec x = _mm512_cvtepi32_ps(_mm512_load_si512(sums + r * kInt8Panel + v));
            _mm512_mask_storeu_ps(context + (offsets[s] + i + r) * stride + d + v, mask, Mul(Mul(x, Set(inverse[r])), scale));
          }
        }
      }
      i += rows;
    }
  }
}

#else

int64_t AttentionInt8ScratchBytes(int64_t max_length, int64_t head_dim) {
  return 4 * (RoundUp(AttentionScratchSize(max_length, head_dim), 16) + RoundUp(max_length * head_dim, 16));
}

void AttentionInt8(float* context, int64_t stride, const float* qkv, const int32_t* offsets, int64_t sequence_count,
                   int64_t head_dim, uint8_t* scratch) {
  for (int64_t s = 0; s < sequence_count; ++s) {
    const int32_t length = offsets[s + 1] - offsets[s];
    const int32_t alone[] = {0, length};
    float* const floats = reinterpret_cast<float*>(scratch);
    float* const own = floats + RoundUp(AttentionScratchSize(length, head_dim), 16);
    Attention(own, qkv + offsets[s] * 3 * head_dim, alone, 1, 1, head_dim, floats);
    for (int64_t i = 0; i < length; ++i) {
      __builtin_memcpy(context + (offsets[s] + i) * stride, own + i * head_dim, static_cast<size_t>(head_dim) * sizeof(float));
    }
  }
}

#endif

}  // namespace loci::LOCI_SIMD
