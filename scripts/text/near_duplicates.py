"""Which documents say what another says, by MinHash, and which paragraphs stand in a held-out document, by runs of words."""

import functools
import re
from collections.abc import Callable, Iterable
from zlib import crc32

from documents import Document

SHINGLE = 5  # words
ALIKE = 0.7  # estimated Jaccard similarity of the sets of shingles
HASHES, BANDS = 64, 16
RUN = 13  # words in a row that a text to train on must not share with a held-out one
EVERY = 4  # of the runs, those that begin with a word whose sum is divisible by this are looked at, in both texts


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def shingles(text: str) -> list[str]:
    found = words(text)
    return [" ".join(found[i : i + SHINGLE]) for i in range(max(1, len(found) - SHINGLE + 1))]


def unlike(documents: list[Document], progress: Callable[[int], None]) -> list[Document]:
    """Those that are no near-duplicate of an earlier one."""
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(threshold=ALIKE, num_perm=HASHES, num_bands=BANDS)
    kept: list[Document] = []
    hashes = []
    for number, document in enumerate(documents):
        minhash = RMinHash(num_perm=HASHES, seed=1)
        minhash.update(shingles(document.text))
        if not any(minhash.jaccard(hashes[other]) >= ALIKE for other in index.query(minhash)):
            index.insert(len(kept), minhash)
            hashes.append(minhash)
            kept.append(document)
        progress(number)
    return kept


@functools.cache
def begins(word: str) -> bool:
    return crc32(word.encode()) % EVERY == 0


def runs(text: str) -> Iterable[int]:
    found = words(text)
    for i in range(len(found) - RUN + 1):
        if begins(found[i]):
            yield hash(" ".join(found[i : i + RUN]))


def without_held_out(documents: list[Document], held_out: Iterable[str], shortest: int,
                     progress: Callable[[int], None]) -> tuple[list[Document], int]:
    """The documents without the paragraphs that share a run with a held-out text, and how many were cut; a document of which
    too little remains goes."""
    forbidden = {run for text in held_out for run in runs(text)}
    result, cut = [], 0
    for number, document in enumerate(documents):
        paragraphs = document.text.rstrip("\n").split("\n\n")
        if forbidden.isdisjoint(runs(document.text)):
            result.append(document)
        else:
            kept = [paragraph for paragraph in paragraphs if forbidden.isdisjoint(runs(paragraph))]
            cut += len(paragraphs) - len(kept)
            text = "\n\n".join(kept) + "\n"
            # A run that crosses from one paragraph into the next is cut with the document.
            if len(text) >= shortest and forbidden.isdisjoint(runs(text)):
                result.append(Document(document.source, document.work, document.domain, text))
        progress(number)
    return result, cut
