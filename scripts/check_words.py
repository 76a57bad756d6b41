"""Checks that the words which scripts/words.toml replaces stay out of src, include, docs and the pages at the root.

An entry's `not` is a regular expression over words: identifiers count as the words they are made of (`RopeTable` and
`rope_table` are "rope table"), and a phrase may be broken over two lines. `pending` lists folders that still have to be
cleaned; there, and in code that Markdown shows, the entry does not hold yet. `allow` names files with the reason.
"""

import argparse
import pathlib
import re
import sys
import tomllib

from check_tree import tracked

PLACES = ("src/", "include/", "docs/")
KINDS = (".cpp", ".h", ".rs", ".md", ".inc")
CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
CODE = re.compile(r"^[ \t]*(```+|~~~+).*?^[ \t]*\1[ \t]*$|`[^`]+`", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"^[ \t]*(///?|#)[ \t]?", re.MULTILINE)


def looked_at(name: str) -> bool:
    return name.endswith(KINDS) and (name.startswith(PLACES) or "/" not in name)


def without_code(page: str) -> str:
    """A page of Markdown with its code taken out, its lines kept."""
    return CODE.sub(lambda match: "\n" * match[0].count("\n") or "…", page)


def plain(text: str) -> str:
    """The words of a text: comment signs gone, identifiers taken apart, every character still on its line."""
    return CAMEL.sub(" ", COMMENT.sub("", text).replace("_", " "))


class Word:
    def __init__(self, entry: dict):
        self.shown, self.write = entry["not"], entry["write"]
        phrase = entry["not"].replace(" ", r"\s+")
        self.pattern = re.compile(rf"\b(?:{phrase})(?!\w)", re.IGNORECASE)
        self.pending = tuple(entry.get("pending", ()))
        self.allow = entry.get("allow", {})

    def check(self, name: str, words: str, prose: str) -> list[str]:
        if name.startswith(self.pending) or name in self.allow:
            return []
        text = prose if self.pending and name.endswith(".md") else words
        return [f'{name}:{text.count(chr(10), 0, match.start()) + 1}: "{" ".join(match[0].split())}": write {self.write}'
                for match in self.pattern.finditer(text)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--all", action="store_true", help="hold every entry everywhere: what is pending is listed too")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    entries = tomllib.loads((root / "scripts/words.toml").read_text(encoding="utf-8"))["word"]
    if arguments.all:
        entries = [{key: value for key, value in entry.items() if key != "pending"} for entry in entries]
    words, faults = [Word(entry) for entry in entries], []
    for word in words:
        faults += [f"scripts/words.toml: {word.shown}: {name} does not exist" for name in word.allow if not (root / name).is_file()]
    for name in filter(looked_at, tracked(root)):
        text = (root / name).read_text(encoding="utf-8")
        page = plain(without_code(text)) if name.endswith(".md") else ""
        text = plain(text)
        for word in words:
            faults += word.check(name, text, page)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
