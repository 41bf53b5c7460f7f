#include "encoder/kernels/half_tile.h"
#include "encoder/kernels/half_variants.h"

namespace loci::LOCI_SIMD {
namespace {

constexpr int kRowGroup = 2 * kHalfTileRows;

// Turns a row of scores into rounded powers 2^(score - max), with a zero after an odd number, and returns one over their sum.
LOCI_INLINE float SoftmaxRow(Half* weights, const float* scores, int64_t length) {
  Vec largest = Set(-3.4e38f);
  int64_t i = 0;
  for (; i + kLanes <= length; i += kLanes) largest = Max(largest, Load(scores + i));
  if (i < length) largest = Max(largest, LoadPartial(scores + i, static_cast<int>(length - i), Set(-3.4e38f)));
  const Vec max = Set(_mm512_reduce_max_ps(largest));
  Vec sum0 = Zero(), sum1 = Zero();
  for (i = 0; i + kHalfLanes <= length; i += kHalfLanes) {
    const Vec a = Exp2(Sub(Load(scores + i), max));
    const Vec b = Exp2(Sub(Load(scores + i + kLanes), max));
    _mm512_storeu_si512(weights + i, Round(a, b));
    sum0 = Add(sum0, a);
    sum1 = Add(sum1, b);
  }
  if (i < length) {
    const int count = static_cast<int>(length - i);
    const int low = count < kLanes ? count : kLanes;
    // Zero beyond the end.
    const Vec a = _mm512_maskz_mov_ps(static_cast<__mmask16>((1u << low) - 1), Exp2(Sub(Load(scores + i), max)));
    const Vec b = _mm512_maskz_mov_ps(static_cast<__mmask16>((1u << (count - low)) - 1),
                                      Exp2(Sub(LoadPartial(scores + i + kLanes, count - low, max), max)));
    _mm512_storeu_si512(weights + i, Round(a, b));
    sum0 = Add(sum0, a);
    sum1 = Add(sum1, b);
  }
  return 1.0f / _mm512_reduce_add_ps(Add(sum0, sum1));
}

// Columns become rows: out[i] has lane i of all rows.
LOCI_INLINE void Transpose16(const __m512i (&in)[16], __m512i (&out)[16]) {
  __m512i s[16], t[16];
#define LOCI_EACH_OF_8(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define LOCI_EACH_OF_4(X) X(0) X(1) X(2) X(3)
#define LOCI_STAGE_1(i)                                       \
  s[2 * i] = _mm512_unpacklo_epi32(in[2 * i], in[2 * i + 1]); \
  s[2 * i + 1] = _mm512_unpackhi_epi32(in[2 * i], in[2 * i + 1]);
  LOCI_EACH_OF_8(LOCI_STAGE_1)
#define LOCI_STAGE_2(i)                                             \
  t[4 * i] = _mm512_unpacklo_epi64(s[4 * i], s[4 * i + 2]);         \
  t[4 * i + 1] = _mm512_unpackhi_epi64(s[4 * i], s[4 * i + 2]);     \
  t[4 * i + 2] = _mm512_unpacklo_epi64(s[4 * i + 1], s[4 * i + 3]); \
  t[4 * i + 3] = _mm512_unpackhi_epi64(s[4 * i + 1], s[4 * i + 3]);
  LOCI_EACH_OF_4(LOCI_STAGE_2)
  // t[4 g + c] has, in its quarter q, column 4 q + c of the rows 4 g .. 4 g + 3.
#define LOCI_STAGE_3(c)                                       \
  s[c] = _mm512_shuffle_i32x4(t[c], t[4 + c], 0x88);          \
  s[4 + c] = _mm512_shuffle_i32x4(t[c], t[4 + c], 0xdd);      \
  s[8 + c] = _mm512_shuffle_i32x4(t[8 + c], t[12 + c], 0x88); \
  s[12 + c] = _mm512_shuffle_i32x4(t[8 + c], t[12 + c], 0xdd);
  LOCI_EACH_OF_4(LOCI_STAGE_3)
#define LOCI_STAGE_4(c)                                         \
  out[c] = _mm512_shuffle_i32x4(s[c], s[8 + c], 0x88);          \
  out[8 + c] = _mm512_shuffle_i32x4(s[c], s[8 + c], 0xdd);      \
  out[4 + c] = _mm512_shuffle_i32x4(s[4 + c], s[12 + c], 0x88); \
  out[12 + c] = _mm512_shuffle_i32x4(s[4 + c], s[12 + c], 0xdd);
  LOCI_EACH_OF_4(LOCI_STAGE_4)
#undef LOCI_EACH_OF_8
#undef LOCI_EACH_OF_4
#undef LOCI_STAGE_1
#undef LOCI_STAGE_2
#undef LOCI_STAGE_3
#undef LOCI_STAGE_4
}

// keys [panel][PairCount(head_dim)][64][2] of k [length, head_dim], rows `stride` apart; zeros fill the last 16 keys and the last pair.
LOCI_INLINE void PackKeys(Half* keys, const Half* k, int64_t stride, int64_t length, int64_t head_dim) {
  const int64_t pairs = PairCount(head_dim);
  for (int64_t j = 0; j < length; j += kLanes) {
    Half* panel = keys + j / kHalfPanelWidth * kHalfPanelWidth * 2 * pairs + j % kHalfPanelWidth * 2;
    for (int64_t d = 0; d < head_dim; d += kHalfLanes) {
      const int count = static_cast<int>(head_dim - d < kHalfLanes ? head_dim - d : kHalfLanes);
      __m512i rows[16], columns[16];
      for (int i = 0; i < 16; ++i)
        rows[i] = j + i < length ? LoadHalvesPartial(k + (j + i) * stride + d, count) : _mm512_setzero_si512();
      Transpose16(rows, columns);
      Half* out = panel + d * kHalfPanelWidth;
      for (int p = 0; p < (count + 1) / 2; ++p) _mm512_storeu_si512(out + p * 2 * kHalfPanelWidth, columns[p]);
    }
  }
}

// values [PairCount(length)][dim][2] of v [length, head_dim]; zeros fill the last pair and the columns up to dim, a multiple of 16.
LOCI_INLINE void PackValues(Half* values, const Half* v, int64_t stride, int64_t length, int64_t head_dim, int64_t dim) {
  for (int64_t j = 0; j < length; j += 2) {
    for (int64_t d = 0; d < head_dim; d += kLanes) {
      const int count = static_cast<int>(head_dim - d < kLanes ? head_dim - d : kLanes);
      const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1);
      const __m512i first = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, v + j * stride + d));
      const __m512i second = j + 1 < length ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, v + (j + 1) * stride + d))
                                            : _mm512_setzero_si512();
      _mm512_storeu_si512(values + j * dim + 2 * d, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
    }
  }
}

struct Layout {
  int64_t keys = 0;  // Offsets into the scratch space, in floats: pairs of halves, or floats.
  int64_t values = 0;
  int64_t scores = 0;
  int64_t weights = 0;
  int64_t sums = 0;
  int64_t end = 0;
};

LOCI_INLINE Layout LayOut(int64_t length, int64_t head_dim) {
  const int64_t padded = RoundUp(length, kHalfPanelWidth);
  const int64_t dim = RoundUp(head_dim, kLanes);
  Layout layout;
  layout.values = padded * PairCount(head_dim);
  layout.scores = layout.values + PairCount(length) * dim;
  layout.weights = layout.scores + kRowGroup * padded;
  layout.sums = layout.weights + kRowGroup * padded / 2;
  layout.end = layout.sums + kRowGroup * dim;
  return layout;
}

// c [rows, columns] = a times b, by tiles.
LOCI_INLINE void Multiply(const Half* a, int64_t a_stride, const Half* b, int64_t b_stride, float* c, int64_t c_stride,
                          int64_t rows, int64_t vectors, int64_t depth) {
  const int64_t most = vectors <= 2 ? 2 * kHalfTileRows : kHalfTileRows;
  for (int64_t r = 0; r < rows; r += most) {
    GetHalfTile(rows - r < most ? rows - r : most, vectors)(a + r * a_stride, a_stride, b, b_stride, c + r * c_stride, c_stride,
                                                            depth, nullptr, 0);
  }
}

}  // namespace

int64_t HalfAttentionScratchSize(int64_t max_length, int64_t head_dim) { return RoundUp(LayOut(max_length, head_dim).end, 16); }

void HalfAttention(Half* context, const Half* qkv, const int32_t* offsets, int64_t sequence_count, int64_t head_count,
                   int64_t head_dim, float* scratch) {
  const int64_t hidden = head_count * head_dim;
  const int64_t stride = 3 * hidden;
  const int64_t dim = RoundUp(head_dim, kLanes);
  const int64_t pairs = PairCount(head_dim);
  for (int64_t s = 0; s < sequence_count; ++s) {
    const int64_t length = offsets[s + 1] - offsets[s];
    const int64_t padded = RoundUp(length, kHalfPanelWidth);
    const Layout layout = LayOut(length, head_dim);
    Half* keys = reinterpret_cast<Half*>(scratch + layout.keys);
    Half* values = reinterpret_cast<Half*>(scratch + layout.values);
    float* scores = scratch + layout.scores;                            // [kRowGroup][padded]
    Half* weights = reinterpret_cast<Half*>(scratch + layout.weights);  // [kRowGroup][padded]
    float* sums = scratch + layout.sums;                                // [kRowGroup][dim]
    for (int64_t h = 0; h < head_count; ++h) {
      const Half* q = qkv + offsets[s] * stride + h * head_dim;
      PackKeys(keys, q + hidden, stride, length, head_dim);
      PackValues(values, q + 2 * hidden, stride, length, head_dim, dim);
      for (int64_t r = 0; r < length; r += kRowGroup) {
        const int64_t rows = length - r < kRowGroup ? length - r : kRowGroup;
        for (int64_t j = 0; j < length; j += kHalfPanelWidth) {
          const int64_t vectors = (length - j + kLanes - 1) / kLanes;
          Multiply(q + r * stride, stride, keys + j * 2 * pairs, kHalfPanelWidth, scores + j, padded, rows,
                   vectors < 4 ? vectors : 4, head_dim);
        }
        float inverse[kRowGroup];
        for (int64_t i = 0; i < rows; ++i) inverse[i] = SoftmaxRow(weights + i * padded, scores + i * padded, length);
        for (int64_t d = 0; d < dim; d += kHalfPanelWidth) {
          const int64_t vectors = (dim - d) / kLanes;
          Multiply(weights, padded, values + 2 * d, dim, sums + d, dim, rows, vectors < 4 ? vectors : 4, length);
        }
        for (int64_t i = 0; i < rows; ++i) {
          Half* out = context + (offsets[s] + r + i) * hidden + h * head_dim;
          const Vec scale = Set(inverse[i]);
          for (int64_t d = 0; d < head_dim; d += kHalfLanes) {
            const int count = static_cast<int>(head_dim - d < kHalfLanes ? head_dim - d : kHalfLanes);
            const Vec low = Mul(Load(sums + i * dim + d), scale);
            const Vec high = count > kLanes ? Mul(Load(sums + i * dim + d + kLanes), scale) : Zero();
            StoreHalvesPartial(out + d, Round(low, high), count);
          }
        }
      }
    }
  }
}

}  // namespace loci::LOCI_SIMD
