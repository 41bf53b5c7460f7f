#!/usr/bin/env python3
"""Prints encoder/unicode_corrections.h: where Hugging Face's `tokenizers` reads Unicode otherwise than Debian 12's utf8proc.

    python tests/golden/tokenizer_unicode_corrections.py > encoder/unicode_corrections.h

Asks both about every code point. Made with tokenizers 0.23.3 and utf8proc 2.8.0 (Unicode 15.0). Ends with an error where the
difference is of a kind that the tables can't say.
"""

import ctypes
import sys

import tokenizers
from tokenizers import normalizers, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


class Utf8proc:
    """The parts of utf8proc that encoder/unicode_properties.cc calls."""

    class Property(ctypes.Structure):
        _fields_ = [("category", ctypes.c_short), ("combining_class", ctypes.c_short)]

    def __init__(self):
        self.lib = ctypes.CDLL("libutf8proc.so.2")
        self.lib.utf8proc_version.restype = ctypes.c_char_p
        self.lib.utf8proc_unicode_version.restype = ctypes.c_char_p
        self.lib.utf8proc_category_string.restype = ctypes.c_char_p
        self.lib.utf8proc_get_property.restype = ctypes.POINTER(self.Property)
        self.buffer = (ctypes.c_int32 * 32)()
        self.boundary = ctypes.c_int(0)

    def category(self, c):
        return self.lib.utf8proc_category_string(c).decode()

    def combining_class(self, c):
        return self.lib.utf8proc_get_property(c).contents.combining_class

    def lower(self, c):
        return self.lib.utf8proc_tolower(c)

    def decompose(self, c):
        n = self.lib.utf8proc_decompose_char(c, self.buffer, 32, 1 << 4, ctypes.byref(self.boundary))
        return [self.buffer[i] for i in range(n)]


def bert(**on):
    options = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    return normalizers.BertNormalizer(**{**options, **on})


def ranges(code_points):
    out = []
    for c in sorted(code_points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def emit(items, width=122):
    line = "   "
    for item in items:
        if len(line) + len(item) + 1 > width:
            print(line)
            line = "   "
        line += " " + item
    print(line)
    print("};")


def emit_ranges(comment, name, code_points):
    print(f"\n// {comment}")
    print(f"inline constexpr CodePointRange {name}[] = {{")
    emit(["{0x%X, 0x%X}," % (a, b) for a, b in ranges(code_points)])


def main():
    u = Utf8proc()
    nfd, strip, clean, lower = normalizers.NFD(), bert(strip_accents=True), bert(clean_text=True), bert(lowercase=True)
    pre = pre_tokenizers.BertPreTokenizer()

    def split(c):
        return [piece for piece, _ in pre.pre_tokenize_str("a" + chr(c) + "b")]

    hf_nfd = {c: [ord(x) for x in nfd.normalize_str(chr(c))] for c in CODE_POINTS}
    whole = [c for c in CODE_POINTS if hf_nfd[c] == [c]]
    not_decomposed = {c for c in whole if u.decompose(c) != [c]}
    if any(hf_nfd[c] != u.decompose(c) for c in CODE_POINTS if c not in not_decomposed):
        sys.exit("a decomposition differs")

    hf_mark = {c for c in whole if strip.normalize_str(chr(c)) == ""}
    mark = {c for c in whole if u.category(c) == "Mn"}
    hf_removed = {c for c in CODE_POINTS if clean.normalize_str(chr(c)) == ""} - {0xFFFD}
    removed = {c for c in CODE_POINTS if u.category(c) in ("Cc", "Cf", "Co")} - {9, 10, 13}
    ascii_punctuation = {c for c in range(33, 127) if not chr(c).isalnum()}
    hf_punctuation = {c for c in CODE_POINTS if split(c) == ["a", chr(c), "b"]}
    punctuation = {c for c in CODE_POINTS if u.category(c).startswith("P")} | ascii_punctuation
    hf_space = {c for c in CODE_POINTS if split(c) == ["a", "b"]}
    space = {c for c in CODE_POINTS if u.category(c).startswith("Z")} | {9, 10, 11, 12, 13, 0x85}
    if hf_removed - removed or hf_space != space:
        sys.exit("a removed character or white space differs")

    hf_lower = {c: [ord(x) for x in lower.normalize_str(chr(c))] for c in CODE_POINTS}
    lower_differs = [c for c in CODE_POINTS if hf_lower[c] != [u.lower(c)] and c != 0x130]
    if hf_lower[0x130] != [0x69, 0x307] or any(len(hf_lower[c]) != 1 for c in lower_differs):
        sys.exit("a lower case of several characters differs")

    # The combining class, by whether NFD swaps two marks. U+0334 has class 1, U+0345 has 240, the largest.
    def is_starter(c):
        after, before = "a" + chr(c) + "\u0334", "a\u0345" + chr(c)
        return nfd.normalize_str(after) == after and nfd.normalize_str(before) == before

    starters = {c for c in whole if u.combining_class(c) and c not in (0x334, 0x345) and is_starter(c)}
    for c in whole:
        if u.combining_class(c) == 0 and not is_starter(c):
            sys.exit(f"U+{c:04X} combines")

    print("// Where Hugging Face's `tokenizers` reads Unicode otherwise than Debian 12's utf8proc: it takes categories from Unicode 8.0,")
    print("// decompositions from 9.0 and lower case from 17.0; utf8proc has 15.0 for all.")
    print("//")
    print("// Printed by tests/golden/tokenizer_unicode_corrections.py; the program to compare with is the specification.")
    print(f"// Made with tokenizers {tokenizers.__version__}, utf8proc {u.lib.utf8proc_version().decode()}"
          f" (Unicode {u.lib.utf8proc_unicode_version().decode()}).")
    print("#ifndef LOCI_ENCODER_UNICODE_CORRECTIONS_H_\n#define LOCI_ENCODER_UNICODE_CORRECTIONS_H_\n")
    print("#include <cstdint>\n\nnamespace loci::unicode_corrections {\n")
    print("// Both ends belong to it. Tables are in rising order.\nstruct CodePointRange {\n  uint32_t first;\n  uint32_t last;\n};\n")
    print("// `first` .. `last` in steps of `step` become themselves plus `offset`.")
    print("struct LowerCaseRange {\n  uint32_t first;\n  uint32_t last;\n  uint32_t step;\n  int32_t offset;\n};")
    emit_ranges("Mn for utf8proc, another category here.", "kNotNonspacingMark", mark - hf_mark)
    emit_ranges("Mn here only.", "kNonspacingMark", hf_mark - mark)
    emit_ranges("P* for utf8proc, another category here.", "kNotPunctuation", punctuation - hf_punctuation)
    emit_ranges("P* here only.", "kPunctuation", hf_punctuation - punctuation)
    emit_ranges("Cc, Cf or Co for utf8proc, another category here.", "kNotControl", removed - hf_removed)
    emit_ranges("With a combining class for utf8proc, starters here.", "kStarter", starters)
    emit_ranges("Decomposed by utf8proc, not here.", "kNotDecomposed", not_decomposed)
    runs = []
    for c in lower_differs:
        offset = hf_lower[c][0] - c
        if runs and runs[-1][3] == offset and c - runs[-1][1] in (1, 2) and (
                runs[-1][2] == c - runs[-1][1] or runs[-1][0] == runs[-1][1]):
            runs[-1][2] = c - runs[-1][1]
            runs[-1][1] = c
        else:
            runs.append([c, c, 1, offset])
    print("\n// Lower case that utf8proc does not know.\ninline constexpr LowerCaseRange kLowerCase[] = {")
    emit(["{0x%X, 0x%X, %d, %d}," % tuple(run) for run in runs])
    print("\n}  // namespace loci::unicode_corrections\n\n#endif  // LOCI_ENCODER_UNICODE_CORRECTIONS_H_")


if __name__ == "__main__":
    main()
