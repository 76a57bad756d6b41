"""What the docs say about who calls whom, compared with the sources.

A sentence "`A` (`src/…/file.cpp`) … calls `B` and `C`" holds when the body of A, or the file where A is a path, calls B
and C. A is a function (`room::name`, `Type::name`, `name()`), a type (then any of its members) or a path. Where a path
stands beside A, in brackets or after "in", only that file is looked at.
"""

import pathlib
import re

BESIDE = r"(?:,? \([^()]*(?:\(\)[^()]*)*\))?"
CALLER = re.compile(rf"`(?P<caller>[^`]+)`(?P<beside>{BESIDE}(?: in `[^`]+`)?)[^`.;:]{{0,60}}?\bcalls (?=`)")
CALLEE = re.compile(rf"`(?P<callee>[^`]+)`{BESIDE}(?P<more>(?:,| and| and then|, and) (?=`))?")
PATH = re.compile(r"`(src/[\w./-]+)`")
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


def statements(text: str) -> list[tuple[str, str | None, str]]:
    """Each (caller, path beside it, callee) of a paragraph."""
    found = []
    for match in CALLER.finditer(text):
        path = PATH.search(match["beside"])
        place, more = match.end(), True
        while more and (callee := CALLEE.match(text, place)):
            found.append((match["caller"], path and path[1], callee["callee"]))
            place, more = callee.end(), callee["more"]
    return found


def closing(text: str, place: int) -> int:
    """The place after the brace that closes the one at `place`."""
    depth = 0
    for at in range(place, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return at + 1
    return len(text)


def bodies(text: str, caller: str) -> list[str]:
    """The bodies in a source text of the function, or of the members of the type, that `caller` names."""
    parts = caller.removesuffix("()").split("::")
    is_type = parts[-1][0].isupper()
    if is_type:
        name = rf"\b{parts[-1]}::~?\w+"
    elif len(parts) > 1 and parts[-2][0].isupper():
        name = rf"\b{parts[-2]}::{parts[-1]}"
    else:
        name = rf"(?<![\w:.>]){parts[-1]}"
    head = re.compile(name + r"\s*\([^;{}]*\)[^;{}()]*(?::[^;]*?)?(?=\{)")
    return [text[match.end():closing(text, match.end())] for match in head.finditer(text)]


class Sources:
    def __init__(self, root: pathlib.Path, files: list[str]):
        self.root = root
        self.files = [name for name in files if name.startswith("src/") and name.endswith((".cpp", ".h"))]
        self.texts: dict[str, str] = {}

    def text(self, name: str) -> str:
        if name not in self.texts:
            self.texts[name] = COMMENT.sub("", (self.root / name).read_text(encoding="utf-8"))
        return self.texts[name]

    def fault(self, caller: str, path: str | None, callee: str) -> str | None:
        """What is wrong with "caller calls callee", or None."""
        if caller.startswith("src/"):
            found = [self.text(caller)] if caller in self.files else []
        else:
            name = caller.removesuffix("()").split("::")[-1]
            within = [path] if path in self.files else self.files
            found = [body for file in within if name in self.text(file) for body in bodies(self.text(file), caller)]
        if not found:
            return f"nothing in {path or 'src'} defines {caller}, which is said to call {callee}"
        call = re.compile(rf"\b{callee.removesuffix('()').split('::')[-1]}\s*(?:<[^;>]*>)?\s*[({{]")
        return None if any(call.search(body) for body in found) else f"{caller} does not call {callee}"
