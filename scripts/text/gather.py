"""Gathers the corpus of `./dev text`: the sources of sources.toml as cleaned, labelled, unlike documents.

Into the folder --to go, each whole or not at all:
  corpus.jsonl, held-out.new.jsonl   all sources; a document a line: text, source, work, domain
  own-model.jsonl, own-held-out.jsonl   what the model that comes with the project trains on, and is measured by beside the
                                     held-out classics: public-domain and permissive sources, by their shares
  prose.jsonl                        the same documents, each once
  manifest.tsv                       the sum of every document, with its source and where it went
Sources that were read before are not read again. What differs from sources.lock is named at the end; --lock writes it.
"""

import argparse
import concurrent.futures
import gzip
import hashlib
import json
import os
import pathlib
import sys
import time
import tomllib

import documents
import near_duplicates
import packages
import readers
from documents import Document

HERE = pathlib.Path(__file__).parent
HELD_OUT = 40  # one work in so many is held out
HELD_OUT_LETTERS = 100_000  # of a source, so that no source is most of what is measured


def say(text: str) -> None:
    print(f"text: {text}", file=sys.stderr, flush=True)


class Progress:
    """A line every ten seconds of a long step."""

    def __init__(self, what: str, total: int):
        self.what, self.total, self.last = what, total, time.monotonic()

    def __call__(self, number: int) -> None:
        if time.monotonic() - self.last > 10:
            self.last = time.monotonic()
            say(f"{self.what}: {100 * number // max(1, self.total)} % of {self.total:,} documents")


def write(path: pathlib.Path, lines: list[str]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    partial.rename(path)


def write_part(path: pathlib.Path, part: list[Document]) -> None:
    write(path, [row(document) for document in part])
    print(f"{path}: {len(part):,} documents, {sum(len(d.text) for d in part) / 1e6:.2f} million characters", flush=True)


def row(document: Document) -> str:
    return json.dumps({"text": document.text, "source": document.source, "work": document.work, "domain": document.domain},
                      ensure_ascii=False)


def stored(name: str, settings: dict, archives: list[pathlib.Path], folder: pathlib.Path) -> list[Document]:
    """The documents of a source, from the archives or from what an earlier run made of the same ones by the same code."""
    code = [HERE / "readers.py", HERE / "documents.py", *archives]
    if settings["reader"] == "classics":
        code.append(settings["classics"])
    key = hashlib.sha256("".join([repr(sorted(settings.items())), *map(packages.sha256, code)]).encode()).hexdigest()
    path = folder / f"{name}-{key[:16]}.jsonl.gz"
    if path.exists():
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [Document(**json.loads(line)) for line in file]
    found = []
    for work, text in readers.READERS[settings["reader"]](archives, settings):
        found += documents.of_work(name, settings, work, text)
    for old in folder.glob(f"{name}-????????????????.jsonl.gz"):
        old.unlink()
    partial = path.with_suffix(".partial")
    with gzip.open(partial, "wt", encoding="utf-8", compresslevel=1) as file:
        file.writelines(row(document) + "\n" for document in found)
    partial.rename(path)
    return found


def held_out_work(settings: dict, document: Document) -> bool:
    if "held_out" in settings:
        return document.work in settings["held_out"]
    return int.from_bytes(hashlib.sha256(f"{document.source}/{document.work}".encode()).digest()[:8]) % HELD_OUT == 0


def limited(found: list[Document], letters: float) -> list[Document]:
    """Documents of about so many characters, drawn by their sums, in their order."""
    drawn, total = set(), 0
    for sha256, index in sorted((document.sha256, index) for index, document in enumerate(found)):
        if total < letters:
            drawn.add(index)
            total += len(found[index].text)
    return [document for index, document in enumerate(found) if index in drawn]


class Sources:
    """The table, and what is read of it: first what the project's model takes, so that it depends on nothing else."""

    def __init__(self, folder: pathlib.Path):
        self.table = tomllib.loads((HERE / "sources.toml").read_text(encoding="utf-8"))
        self.folder, self.archives = folder, {}
        for name in ("packages", "works"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for settings in self.table.values():
            if settings["reader"] == "classics":
                settings["classics"] = folder / "classics.jsonl"
        self.of_own = [name for name, settings in self.table.items() if settings["free"] and "share" in settings]
        self.others = [name for name in self.table if name not in self.of_own]

    def read(self, names: list[str]) -> dict[str, list[Document]]:
        for name in names:
            self.archives[name] = [packages.fetch(package, self.folder / "packages") for package in self.table[name]["packages"]]
        result = {}
        with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
            reading = {name: pool.submit(stored, name, self.table[name], self.archives[name], self.folder / "works") for name in names}
            for name, future in reading.items():
                result[name] = future.result()
                letters = sum(len(document.text) for document in result[name]) / 1e6
                say(f"{name}: {len(result[name]):,} documents, {letters:.2f} million characters")
        return result

    def split(self, found: list[Document]) -> tuple[list[Document], list[Document]]:
        """What may be trained on, and what is held out. The classics have a held-out half of their own."""
        train, held_out = [], []
        for name, settings in self.table.items():
            mine = [document for document in found if document.source == name]
            away = [document for document in mine if settings["reader"] != "classics" and held_out_work(settings, document)]
            held_out += limited(away, HELD_OUT_LETTERS)
            train += [document for document in mine if settings["reader"] == "classics" or not held_out_work(settings, document)]
        return train, held_out


def unlike_and_cut(sources: Sources, before: list[Document], held_out: list[Document],
                   found: list[Document]) -> tuple[list[Document], list[Document]]:
    """What of `found` may be trained on, without what `before` or held-out documents have; and what it adds to these."""
    unlike = near_duplicates.unlike(before + found, Progress("near-duplicates", len(before) + len(found)))
    kept = {id(document) for document in unlike}
    unlike = [document for document in found if id(document) in kept]
    say(f"{len(found) - len(unlike):,} near-duplicates left out of {len(found):,} documents")
    train, more = sources.split(unlike)
    train, cut = near_duplicates.without_held_out(train, [document.text for document in held_out + more], documents.SHORTEST,
                                                  Progress("held-out runs", len(train)))
    say(f"{cut:,} paragraphs cut that share {near_duplicates.RUN} words in a row with a held-out document")
    return train, more


def lock_of(sources: Sources, everything: list[Document]) -> dict:
    result = {}
    for name in sources.table:
        mine = [document for document in everything if document.source == name]
        sums = hashlib.sha256("\n".join(sorted(document.sha256 for document in mine)).encode()).hexdigest()
        result[name] = {"archives": {archive.name: packages.sha256(archive) for archive in sources.archives[name]},
                        "documents": len(mine), "characters": sum(len(document.text) for document in mine), "sum": sums}
    return result


def changes(found: dict, locked: dict) -> list[str]:
    result = []
    for name, now in found.items():
        before = locked.get(name)
        if before is None:
            result.append(f"{name}: new since sources.lock")
        elif before["archives"] != now["archives"]:
            result.append(f"{name}: expected {', '.join(before['archives'])}, found {', '.join(now['archives'])}, whose sum differs")
        elif before["sum"] != now["sum"]:
            result.append(f"{name}: the same package gives other documents ({before['documents']} then, {now['documents']} now)")
    return result + [f"{name}: no longer gathered" for name in locked if name not in found]


def gather(folder: pathlib.Path, lock: bool) -> None:
    sources = Sources(folder)
    with (folder / "held-out.jsonl").open(encoding="utf-8") as file:
        old = [Document("held-out", str(number), "classics", json.loads(line)["text"]) for number, line in enumerate(file)]
    try:
        read = sources.read(sources.of_own)
        own_read = []
        for name, found in read.items():
            own_read += limited(found, 1e6 * sources.table[name]["share"])
        own, own_held_out = unlike_and_cut(sources, old, old, own_read)
        repeated = [d for name in sources.of_own for d in [d for d in own if d.source == name] * sources.table[name].get("repeat", 1)]
        write_part(folder / "own-model.jsonl", repeated)
        write_part(folder / "prose.jsonl", own)
        write_part(folder / "own-held-out.jsonl", own_held_out)

        taken = set(own_read)
        rest = [d for found in [*read.values(), *sources.read(sources.others).values()] for d in found if d not in taken]
    except packages.Unavailable as error:
        sys.exit(f"text: {error}")
    others, held_out = unlike_and_cut(sources, old + own_held_out + own, old + own_held_out, rest)
    train, held_out = own + others, own_held_out + held_out
    write_part(folder / "corpus.jsonl", train)
    write_part(folder / "held-out.new.jsonl", held_out)
    parts = [(own, "corpus, own model"), (others, "corpus"), (held_out, "held out")]
    rows = [f"{d.sha256}\t{d.source}\t{d.work}\t{d.domain}\t{part}" for found, part in parts for d in found]
    write(folder / "manifest.tsv", ["sha256\tsource\twork\tdomain\tpart", *rows])

    found = lock_of(sources, train + held_out)
    path = HERE / "sources.lock"
    if lock:
        write(path, [json.dumps(found, indent=1, sort_keys=True)])
    for change in changes(found, json.loads(path.read_text()) if path.exists() else {}):
        say(f"changed source: {change}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=pathlib.Path, required=True, help="the folder, where scripts/fetch_text.py has written")
    parser.add_argument("--lock", action="store_true", help="write sources.lock: what came of each source becomes what is expected")
    options = parser.parse_args()
    gather(options.to, options.lock)


if __name__ == "__main__":
    main()
