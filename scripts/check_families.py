"""Checks that families are known by name in their own files only.

A family's model_type, GGUF architecture and class name, as src/families/known/ defines them, may not occur in a string
anywhere else in src/: whoever needs to know something of a family asks its `Family` (src/families/family.h).
"""

import argparse
import pathlib
import re
import sys

KNOWN = pathlib.Path("src/families/known")
NAME = re.compile(r'\.(?:model_type|architecture|class_name) = "([^"]+)"')
# Comments, raw strings, strings and characters, so that none is found within another.
TOKEN = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<mark>[^(\s]*)\((?P<raw>.*?)\)(?P=mark)"|"(?P<string>(?:\\.|[^"\\\n])*)"|\'(?:\\.|[^\'\\])+\'',
    re.DOTALL,
)

# Names of families that are names of other things too.
ALSO = {
    "coterie": "the program's own name",
    "mamba": "a kind of layer, and its place in the paths of tensors",
    "mamba2": "a kind of layer, and its place in the paths of tensors",
}
# Files that speak of families for another reason.
FILES = {
    "src/lens/fitted_routes.cpp": "routings fitted to published models, which users ask for by these names",
    "src/text/pre_tokenizers.cpp": "values of tokenizer.ggml.pre, which name a way to split text",
    "src/text/gguf_vocabulary.cpp": "values of tokenizer.ggml.model, which name a kind of vocabulary",
}


def family_names(root: pathlib.Path) -> set[str]:
    names = set()
    for path in sorted((root / KNOWN).glob("*.cpp")):
        names.update(NAME.findall(path.read_text(encoding="utf-8")))
    return names - ALSO.keys()


def strings(text: str):
    """The strings of a source file, with the number of the line each begins in."""
    for match in TOKEN.finditer(text):
        value = match["raw"] if match["raw"] is not None else match["string"]
        if value is not None:
            yield text.count("\n", 0, match.start()) + 1, value


def check(root: pathlib.Path) -> list[str]:
    names = family_names(root)
    if not names:
        return [f"{KNOWN}: no family is defined here; has `Family` changed its fields?"]
    # llama.cpp is a program, olmoe.gguf and ./olmoe are files; a name within a longer one (llama3, llama-bpe) is another.
    word = re.compile(r"(?<![\w./-])(" + "|".join(map(re.escape, sorted(names))) + r")(?!\.\w|[\w-])")
    faults = []
    for path in sorted((root / "src").rglob("*")):
        relative = path.relative_to(root)
        if path.suffix not in (".h", ".cpp") or relative.is_relative_to(KNOWN) or str(relative) in FILES:
            continue
        for line, value in strings(path.read_text(encoding="utf-8")):
            for found in word.findall(value):
                faults.append(f'{relative}:{line}: "{found}" is a family: ask its `Family` (src/families/family.h)')
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    faults = check(parser.parse_args().root)
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
