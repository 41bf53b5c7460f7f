// Unicode as Hugging Face's `tokenizers` sees it: utf8proc's properties with unicode_corrections.h over them.
//
// Plain look-ups, for building tables (tokenizer_char_map.h); nothing here is called per character of a request. Every function
// takes any value; above U+10FFFF and for surrogates the answer is that of an unassigned code point.
#ifndef LOCI_ENCODER_UNICODE_PROPERTIES_H_
#define LOCI_ENCODER_UNICODE_PROPERTIES_H_

#include <cstdint>

namespace loci {

// Categories Cc, Cf and Co (not unassigned ones), without tab, line feed and carriage return; and U+FFFD. What BERT's cleaning removes.
bool IsBertControl(uint32_t code_point);

// White_Space.
bool IsUnicodeSpace(uint32_t code_point);

// Category P*, or one of ASCII's punctuation characters, of which "$+<=>^`|~" are symbols to Unicode.
bool IsBertPunctuation(uint32_t code_point);

// The blocks that BERT calls Chinese characters: CJK ideographs, not kana or Hangul.
bool IsBertChinese(uint32_t code_point);

// Category Mn.
bool IsNonspacingMark(uint32_t code_point);

// Canonical combining class; 0 for starters.
int CombiningClass(uint32_t code_point);

inline constexpr int kMaxDecomposition = 8;
// Full canonical decomposition, before reordering. Returns how many code points were written to `out`, at least 1.
int CanonicalDecomposition(uint32_t code_point, uint32_t out[kMaxDecomposition]);

inline constexpr int kMaxLowerCase = 2;
// Lower case of one character by itself (no final sigma). Returns how many code points were written to `out`: 1, or 2 for U+0130.
int LowerCase(uint32_t code_point, uint32_t out[kMaxLowerCase]);

}  // namespace loci

#endif  // LOCI_ENCODER_UNICODE_PROPERTIES_H_
