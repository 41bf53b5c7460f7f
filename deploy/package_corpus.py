#!/usr/bin/env python3
"""Turns `apt-cache dumpavail` (standard input) into JSON lines: a passage for each package name.

usage: apt-cache dumpavail | package_corpus.py [--long] > packages.jsonl

id and title are the package's name, text is its one-line description; with --long the paragraphs of the long description follow it,
where this machine has them (apt fetches them as Translation-en).
"""

import json
import sys


def passage_text(lines, with_long):
    """The description field's lines as one text: list bullets and verbatim lines joined, ` .` as the end of a paragraph."""
    synopsis = lines[0].strip()
    if not with_long:
        return synopsis
    paragraphs, words = [synopsis], []
    for line in lines[1:] + [" ."]:
        if line.strip() == ".":
            if words:
                paragraphs.append(" ".join(words))
            words = []
        else:
            words.append(line.strip())
    return "\n".join(paragraphs)


def main():
    with_long = "--long" in sys.argv[1:]
    sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    sys.stdout.reconfigure(encoding="utf-8")
    best = {}  # By name; of several versions the one with the longest description.
    name, description, collecting = "", [], False
    for line in [*sys.stdin, "\n"]:
        line = line.rstrip("\n")
        if not line:
            if name and description:
                text = passage_text(description, with_long)
                if len(text) > len(best.get(name, "")):
                    best[name] = text
            name, description, collecting = "", [], False
        elif line[0] in " \t":
            if collecting:
                description.append(line)
        else:
            field, _, value = line.partition(":")
            collecting = field in ("Description", "Description-en")
            if collecting:
                description = [value]
            elif field == "Package":
                name = value.strip()
    for package, text in best.items():
        print(json.dumps({"id": package, "title": package, "text": text}, ensure_ascii=False))


if __name__ == "__main__":
    main()
