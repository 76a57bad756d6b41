"""Checks that the tables of keys in the guides have the keys that the code reads, and no others.

A table's key columns (headed "section" or "key") are compared with what the source file asks its readers for; the words
that a key may have (`{"word", Value::…}` in the source, and the names of the rules of routing) must be in the table.
"""

import argparse
import pathlib
import re
import sys

# What reads, what tells, under which heading, and further sources of words.
TABLES = [
    ("src/families/config/router_keys.cpp", "docs/guides/own-config.md", "The router", "src/layers/moe/routers/*.cpp"),
    ("src/surgery/merge/merge_recipe.cpp", "docs/guides/merge.md", "Keys", None),
    ("src/train/recipe_sections.cpp", "docs/guides/train.md", "The recipe", None),
    ("src/train/tune_recipe.cpp", "docs/guides/tune.md", "The section `tune`", None),
]
READS = re.compile(
    r"\b(?:integers?|numbers?|boolean|strings?|object|value|count|list|choice<[\w:]+>|real|read_name|asked|texts|recipe_dtype|list|setting|has|Section \w+)"
    r'\(\s*(?:[\w.]+,\s*)?"([a-z_]+)"')
WORDS = re.compile(r'\{"([a-z0-9_]+)",\s')
RULES = re.compile(r'\.name = "(\w+)"')
CODE = re.compile(r"`([^`]+)`")


def rows_under(page: str, heading: str) -> list[list[str]]:
    """The cells of the table's lines below a heading, its header first."""
    lines, inside = [], False
    for line in page.splitlines():
        if line.startswith("#"):
            inside = line.lstrip("# ") == heading
        elif inside and line.startswith("|") and not re.fullmatch(r"[|\s:-]+", line):
            lines.append([cell.strip() for cell in line.strip().strip("|").split("|")])
    return lines


def faults(root: pathlib.Path) -> list[str]:
    found = []
    for source, page, heading, rules in TABLES:
        code = (root / source).read_text(encoding="utf-8")
        rows = rows_under((root / page).read_text(encoding="utf-8"), heading)
        if not rows:
            found.append(f"{page}: no table under \"{heading}\"")
            continue
        columns = [i for i, name in enumerate(rows[0]) if name in ("section", "key")]
        told = {word for row in rows[1:] for i in columns for each in CODE.findall(row[i]) for word in each.split(": ")}
        words = {word for row in rows for cell in row for each in CODE.findall(cell) for word in re.split(r"\W+", each)}
        read = set(READS.findall(code)) - set(CODE.findall(heading))
        named = set(WORDS.findall(code))
        if rules:
            named |= {name for file in sorted(root.glob(rules)) for name in RULES.findall(file.read_text(encoding="utf-8"))}
        found += [f"{page}: \"{heading}\" does not have {key}, which {source} reads" for key in sorted(read - told)]
        found += [f"{page}: \"{heading}\" has {key}, which {source} does not read" for key in sorted(told - read)]
        found += [f"{page}: \"{heading}\" does not say {word}, which {source} knows" for word in sorted(named - words)]
        if not read:
            found.append(f"{source}: no key is read in a way that this script knows")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    found = faults(parser.parse_args().root.resolve())
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
