"""Wraps the prose of the Markdown files that git knows to lines of at most 120 characters; `./dev fmt` calls it.

Only paragraphs and items with a line that is too long are wrapped anew. Code and tables keep their lines.
"""

import argparse
import pathlib

import prose
from check_tree import tracked


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    root = parser.parse_args().root
    for name in tracked(root):
        if name.endswith(".md"):
            text = (root / name).read_text(encoding="utf-8")
            if (new := prose.wrap(text)) != text:
                (root / name).write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
