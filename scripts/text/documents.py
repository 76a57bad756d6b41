"""Works cleaned and cut into documents, each with the sum of its text."""

import hashlib
import re
import unicodedata
from dataclasses import dataclass

LONGEST = 8000  # characters of a document
SHORTEST = 200
COMMON = frozenset("the of and to a in is that it for be as with his he was not on by this which or i are".split())


@dataclass(frozen=True)
class Document:
    source: str
    work: str
    domain: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def clean(text: str, unwrap: bool) -> str:
    """Composed Unicode without control characters, trailing blanks and runs of empty lines."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\ufeff", "").replace("\u00a0", " "))
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c)[0] != "C") if not text.isprintable() else text
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip("\n")
    if unwrap:
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return text


def sentences(paragraph: str) -> list[str]:
    """Pieces of a paragraph of about LONGEST / 4 characters that end with sentences."""
    result, current = [], ""
    for sentence in re.split(r'(?<=[.!?]["\u201d\u2019)]) +|(?<=[.!?]) +', paragraph):
        if current and len(current) + len(sentence) > LONGEST // 4:
            result.append(current)
            current = ""
        current = f"{current} {sentence}" if current else sentence
    return [*result, current]


def pieces(text: str) -> list[str]:
    """Whole paragraphs, up to LONGEST characters together; a longer paragraph is cut after a sentence, or else anywhere."""
    result, current = [], ""
    for paragraph in text.split("\n\n"):
        for part in [paragraph] if len(paragraph) <= LONGEST // 2 else sentences(paragraph):
            for start in range(0, len(part), LONGEST) or [0]:
                block = part[start : start + LONGEST]
                if current and len(current) + len(block) > LONGEST:
                    result.append(current + "\n")
                    current = ""
                current = f"{current}\n\n{block}" if current else block
    return [*result, current + "\n"] if current else result


def readable(text: str, code: bool) -> bool:
    """English, or code: mostly letters a keyboard has, and for English enough of its commonest words."""
    if text.count("\ufffd") * 500 > len(text) or sum(c.isascii() for c in text) < 0.93 * len(text):
        return False
    if code:
        return max(map(len, text.split("\n"))) < 400
    words = re.findall(r"[a-z]+", text.lower())
    return len(words) >= 30 and sum(word in COMMON for word in words) >= 0.12 * len(words)


def of_work(source: str, settings: dict, work: str, text: str) -> list[Document]:
    code = settings["reader"] == "code"
    if settings["reader"] == "classics":  # they are cleaned and cut
        return [Document(source, work, settings["domain"], text)]
    # Definitions have few of the commonest words.
    easy = code or settings["reader"] == "dictionary"
    cut = pieces(clean(text, settings.get("unwrap", False)))
    return [Document(source, work, settings["domain"], piece) for piece in cut if len(piece) >= SHORTEST and readable(piece, easy)]
