"""Markdown taken apart into what is prose and what is not: fenced and indented code, tables and headings keep their lines."""

import dataclasses
import re

WIDTH = 120
FENCE = re.compile(r"^\s*(```+|~~~+)(.*)$")
ITEM = re.compile(r"^(\s*)([-*+]|\d+[.)])(\s+)")
# What one line must hold: a code span or a link is never cut in two.
ATOM = re.compile(r"(?:[^\s`\[]|`[^`]*`|\[[^\]]*\](?:\([^)]*\))?|\[)+")
# A line that begins so would be read as a heading, an item, a quotation or a table.
BEGINS_BLOCK = re.compile(r"^([-*+>|]|#+|\d+[.)])(\s|$)")


@dataclasses.dataclass
class Block:
    """Lines that belong together, from line `first` (1 is the page's first) on."""
    first: int
    lines: list[str]
    prose: bool  # a paragraph or an item of a list: its line breaks mean nothing

    @property
    def text(self) -> str:
        return " ".join(line.strip() for line in self.lines)


def blocks(text: str) -> list[Block]:
    found: list[Block] = []
    fence, item = None, False
    for number, line in enumerate(text.splitlines(), 1):
        match = FENCE.match(line)
        goes_on = bool(found) and found[-1].prose and found[-1].first + len(found[-1].lines) == number
        if match and (fence is None or line.strip() == fence):
            fence = match[1] if fence is None else None
            prose = False
        elif fence is not None or not line.strip() or line.lstrip().startswith(("|", "#", ">")):
            prose, item = False, item and bool(line.strip() == "" or fence)
        elif ITEM.match(line):
            prose, item, goes_on = True, True, False
        else:
            prose = goes_on or item or not line.startswith("    ")
        if prose and goes_on:
            found[-1].lines.append(line)
        else:
            found.append(Block(number, [line], prose))
    return found


def wrapped(block: Block) -> list[str]:
    """The block's text in lines of at most WIDTH characters, where its atoms allow that."""
    head = ITEM.match(block.lines[0])
    indent = re.match(r"\s*", block.lines[0])[0]
    rest = " " * len(head[0]) if head else indent
    text = block.text[len(head[0].lstrip()):] if head else block.text
    lines, line = [], head[0].rstrip() + " " * len(head[3]) if head else indent
    empty = True
    for atom in ATOM.findall(text):
        if not empty and len(line) + 1 + len(atom) > WIDTH and not BEGINS_BLOCK.match(atom):
            lines.append(line)
            line, empty = rest, True
        line += atom if empty else " " + atom
        empty = False
    return lines + [line]


def wrap(text: str) -> str:
    """The page with blocks wrapped that have a line which is too long; all others keep their lines."""
    lines: list[str] = []
    for block in blocks(text):
        lines += wrapped(block) if block.prose and any(len(line) > WIDTH for line in block.lines) else block.lines
    return "\n".join(lines) + ("\n" if text.endswith("\n") else "")
