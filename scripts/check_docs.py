"""Checks that what the docs name exists.

In every Markdown file that git knows (or would add): relative links and their anchors; paths in `code` (src/…, docs/…,
…; braces and stars are expanded); functions in `code` (`name()`, `Type::name`), which must occur in the sources; the
verbs of ./dev; and the commands and long options of coterie, which are compared with the binary's own --help; each of its
commands has a place in docs/commands.md. Where a sentence says that one function calls another (scripts/doc_calls.py), it
does. Prose has lines of at most 120 characters.
"""

import argparse
import functools
import pathlib
import re
import subprocess
import sys

import doc_calls
import prose
from check_tree import tracked

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`]+)`")
HEADING = re.compile(r"^#+\s+(.*?)\s*#*$")
PATH = re.compile(r"(src|include|tests|docs|scripts|examples|cmake|benchmarks|\.ci)/[\w./{},*-]*")
FUNCTION = re.compile(r"(?:~?\w+(?:<[^>]*>)?::)*(~?\w+)\(\)|(?:\w+::)+(\w+)")
PROGRAM = re.compile(r"(?:^|[\s;|&(])(?:\S*/)?coterie\s+([a-z][\w-]*)([^|;&#]*)")
DEV_VERB = re.compile(r"(?:^|\s)\./dev\s+([a-z]\w*)")
OPTION = re.compile(r"(?<![\w-])--([a-z][a-z0-9-]*)")
COMMANDS = re.compile(r"^Commands:\n(.*?)(?:\n\n|\Z)", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^  ([a-z][\w-]*)", re.MULTILINE)
COMMANDS_PAGE = "docs/commands.md"
SHELLS = {"sh", "console"}
# Names from outside that the docs may use like ours.
OUTSIDE = ("std::", "fmt::", "nlohmann::")


class Page:
    """A Markdown file, taken apart: prose lines and the shell's lines (of fenced blocks), each with its number."""

    def __init__(self, path: pathlib.Path):
        self.prose: list[tuple[int, str]] = []
        self.shell: list[tuple[int, str]] = []
        fence = language = None
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            match = prose.FENCE.match(line)
            if match and (fence is None or line.strip() == fence):
                fence, language = (match[1], match[2].strip()) if fence is None else (None, None)
            elif fence is None:
                self.prose.append((number, line))
            elif language in SHELLS:
                self.shell.append((number, re.sub(r"(^|\s)#.*", "", line)))

    def anchors(self) -> set[str]:
        found = set()
        for _, line in self.prose:
            if match := HEADING.match(line):
                title = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", match[1]).lower()
                found.add(re.sub(r"[^\w\- ]", "", title).replace(" ", "-"))
        return found


def expand_braces(pattern: str) -> list[str]:
    match = re.search(r"\{([^{}]*)\}", pattern)
    if not match:
        return [pattern]
    return [each for part in match[1].split(",")
            for each in expand_braces(pattern[:match.start()] + part + pattern[match.end():])]


class Program:
    """The binary's own words about its commands."""

    def __init__(self, binary: str):
        self.binary = binary

    @functools.cache
    def help(self, *command: str) -> str | None:
        """What `coterie COMMAND --help` prints, or None where it does not know the command."""
        result = subprocess.run([self.binary, *command, "--help"], capture_output=True, text=True, timeout=60)
        return result.stdout if result.returncode == 0 else None

    def commands(self) -> list[str]:
        found = COMMANDS.search(self.help() or "")
        return COMMAND.findall(found[1]) if found else []

    def check(self, line: str) -> list[str]:
        faults = []
        for command, rest in PROGRAM.findall(line):
            text = self.help(command)
            if text is None:
                faults.append(f"coterie has no command '{command}'")
                continue
            known = set(OPTION.findall(text))
            faults += [f"coterie {command} has no option --{option}" for option in OPTION.findall(rest)
                       if option not in known]
        return faults


class Docs:
    def __init__(self, root: pathlib.Path, binary: str | None):
        self.root = root
        self.files = tracked(root)
        self.sources = doc_calls.Sources(root, self.files)
        self.program = Program(binary) if binary else None
        dev = (root / "dev").read_text(encoding="utf-8") if (root / "dev").is_file() else ""
        self.verbs = set(re.findall(r"^verb_(\w+)\(\)", dev, re.MULTILINE)) | {"help"}

    @functools.cached_property
    def words(self) -> set[str]:
        """Every identifier in the sources, tests, examples and scripts."""
        kinds = (".cpp", ".h", ".rs", ".py", ".sh", ".cmake", "CMakeLists.txt")
        return {word for name in self.files if name.endswith(kinds)
                for word in re.findall(r"\w+", (self.root / name).read_text(encoding="utf-8", errors="replace"))}

    def check_link(self, page: pathlib.Path, target: str) -> str | None:
        if re.match(r"[a-z]+:", target):
            return None
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists():
            return f"the link {target} leads nowhere"
        if anchor and file.suffix == ".md" and anchor not in Page(file).anchors():
            return f"{name or 'this page'} has no heading for #{anchor}"
        return None

    def check_code(self, code: str) -> list[str]:
        faults = []
        if PATH.fullmatch(code):
            faults += [f"there is no {each}" for each in expand_braces(code.rstrip("/")) if not list(self.root.glob(each))]
        elif (match := FUNCTION.fullmatch(code)) and not code.startswith(OUTSIDE):
            name = (match[1] or match[2]).lstrip("~")
            if name not in self.words:
                faults.append(f"nothing in the sources is called {name}")
        return faults + self.check_command(code)

    def check_command(self, line: str) -> list[str]:
        faults = [f"./dev has no verb '{verb}'" for verb in DEV_VERB.findall(line) if verb not in self.verbs]
        return faults + (self.program.check(line) if self.program else [])

    def check_prose(self, text: str) -> list[tuple[int, str]]:
        """The faults of paragraphs and items, each with the number of its line."""
        faults = []
        for block in filter(lambda block: block.prose, prose.blocks(text)):
            faults += [(block.first + i, f"{len(line)} characters; prose has at most {prose.WIDTH} (./dev fmt wraps it)")
                       for i, line in enumerate(block.lines) if len(line) > prose.WIDTH and prose.wrapped(block) != block.lines]
            found = [self.sources.fault(*each) for each in doc_calls.statements(block.text)]
            faults += [(block.first, fault) for fault in found if fault]
        return faults

    def check_commands_page(self) -> list[str]:
        page = self.root / COMMANDS_PAGE
        text = page.read_text(encoding="utf-8") if page.is_file() else ""
        return [f"{COMMANDS_PAGE}: does not show coterie {command}" for command in (self.program.commands() if self.program else [])
                if not re.search(rf"\bcoterie {command}\b", text)]

    def check(self, name: str) -> list[str]:
        path = self.root / name
        page = Page(path)
        faults = [f"{name}:{number}: {fault}" for number, fault in self.check_prose(path.read_text(encoding="utf-8"))]
        for number, line in page.prose:
            found = [self.check_link(path, target) for target in LINK.findall(CODE.sub("", line))]
            for code in CODE.findall(line):
                found += self.check_code(code)
            faults += [f"{name}:{number}: {fault}" for fault in found if fault]
        for number, line in page.shell:
            faults += [f"{name}:{number}: {fault}" for fault in self.check_command(line)]
        return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--binary", help="the coterie to ask about commands and options; without it they go unchecked")
    arguments = parser.parse_args()
    docs = Docs(arguments.root.resolve(), arguments.binary)
    pages = [name for name in docs.files if name.endswith(".md")]
    faults = [fault for name in pages for fault in docs.check(name)] + docs.check_commands_page()
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults or not pages else 0


if __name__ == "__main__":
    sys.exit(main())
