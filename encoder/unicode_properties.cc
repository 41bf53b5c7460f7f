#include "encoder/unicode_properties.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>

#include "encoder/unicode_corrections.h"

namespace loci {
namespace {

namespace corrections = unicode_corrections;

template <size_t kCount>
bool Contains(const corrections::CodePointRange (&ranges)[kCount], uint32_t code_point) {
  const auto* after =
      std::upper_bound(std::begin(ranges), std::end(ranges), code_point,
                       [](uint32_t value, const corrections::CodePointRange& range) { return value < range.first; });
  return after != std::begin(ranges) && code_point <= std::prev(after)->last;
}

bool IsScalarValue(uint32_t code_point) { return code_point < 0xD800 || (code_point >= 0xE000 && code_point <= 0x10FFFF); }

utf8proc_category_t Category(uint32_t code_point) {
  if (!IsScalarValue(code_point)) return UTF8PROC_CATEGORY_CN;
  return utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
}

}  // namespace

bool IsBertControl(uint32_t code_point) {
  if (code_point == 0xFFFD) return true;
  if (code_point == '\t' || code_point == '\n' || code_point == '\r') return false;
  const utf8proc_category_t category = Category(code_point);
  if (category != UTF8PROC_CATEGORY_CC && category != UTF8PROC_CATEGORY_CF && category != UTF8PROC_CATEGORY_CO) return false;
  return !Contains(corrections::kNotControl, code_point);
}

bool IsUnicodeSpace(uint32_t code_point) {
  if (code_point < 0x80) return code_point == ' ' || (code_point >= 0x09 && code_point <= 0x0D);
  if (code_point == 0x85) return true;
  const utf8proc_category_t category = Category(code_point);
  return category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL || category == UTF8PROC_CATEGORY_ZP;
}

bool IsBertPunctuation(uint32_t code_point) {
  if (code_point < 0x80) {
    const bool letter_or_digit = (code_point >= '0' && code_point <= '9') || (code_point >= 'A' && code_point <= 'Z') ||
                                 (code_point >= 'a' && code_point <= 'z');
    return code_point > ' ' && code_point < 0x7F && !letter_or_digit;
  }
  if (Contains(corrections::kPunctuation, code_point)) return true;
  switch (Category(code_point)) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
      return !Contains(corrections::kNotPunctuation, code_point);
    default:
      return false;
  }
}

bool IsBertChinese(uint32_t code_point) {
  // As in BERT's tokenization.py; `tokenizers` leaves out 0x2B820..0x2B91F, so do we.
  return (code_point >= 0x4E00 && code_point <= 0x9FFF) || (code_point >= 0x3400 && code_point <= 0x4DBF) ||
         (code_point >= 0x20000 && code_point <= 0x2A6DF) || (code_point >= 0x2A700 && code_point <= 0x2B81F) ||
         (code_point >= 0x2B920 && code_point <= 0x2CEAF) || (code_point >= 0xF900 && code_point <= 0xFAFF) ||
         (code_point >= 0x2F800 && code_point <= 0x2FA1F);
}

bool IsNonspacingMark(uint32_t code_point) {
  if (Contains(corrections::kNonspacingMark, code_point)) return true;
  return Category(code_point) == UTF8PROC_CATEGORY_MN && !Contains(corrections::kNotNonspacingMark, code_point);
}

int CombiningClass(uint32_t code_point) {
  if (!IsScalarValue(code_point) || Contains(corrections::kStarter, code_point)) return 0;
  return utf8proc_get_property(static_cast<utf8proc_int32_t>(code_point))->combining_class;
}

int CanonicalDecomposition(uint32_t code_point, uint32_t out[kMaxDecomposition]) {
  if (IsScalarValue(code_point) && !Contains(corrections::kNotDecomposed, code_point)) {
    utf8proc_int32_t parts[kMaxDecomposition];
    int boundary_class = 0;
    const utf8proc_ssize_t count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code_point), parts, kMaxDecomposition,
                                                           UTF8PROC_DECOMPOSE, &boundary_class);
    if (count >= 1 && count <= kMaxDecomposition) {
      std::copy(parts, parts + count, out);
      return static_cast<int>(count);
    }
  }
  out[0] = code_point;
  return 1;
}

int LowerCase(uint32_t code_point, uint32_t out[kMaxLowerCase]) {
  out[0] = code_point;
  if (code_point == 0x130) {  // Capital I with a dot above.
    out[0] = 'i';
    out[1] = 0x307;
    return 2;
  }
  for (const corrections::LowerCaseRange& range : corrections::kLowerCase) {
    if (code_point >= range.first && code_point <= range.last && (code_point - range.first) % range.step == 0) {
      out[0] = static_cast<uint32_t>(static_cast<int32_t>(code_point) + range.offset);
      return 1;
    }
  }
  if (IsScalarValue(code_point)) out[0] = static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code_point)));
  return 1;
}

}  // namespace loci
