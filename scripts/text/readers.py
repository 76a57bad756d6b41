"""What a source's archives hold, as works: a name and its text. A work is a book, a chapter, a speech, a page, a file."""

import csv
import gzip
import html
import io
import json
import pathlib
import re
import tempfile
import warnings
import zlib
from collections.abc import Iterator

import packages

Works = Iterator[tuple[str, str]]
LETTERS_OF_DICTIONARY = 6000  # characters of entries that are one work


def classics(archives: list[pathlib.Path], source: dict) -> Works:
    """The training half of what scripts/fetch_text.py wrote; its held-out half stays held out."""
    with source["classics"].open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            yield f"{number:05}", json.loads(line)["text"]


def members(archives: list[pathlib.Path], source: dict) -> Works:
    yield from packages.files(archives, source)


plain = code = members


def austen(archives: list[pathlib.Path], source: dict) -> Works:
    """R's lazy-load data base: an index, and a compressed vector of lines for each novel."""
    import rdata

    folder = "usr/lib/R/site-library/janeaustenr/data/Rdata"
    found = dict(packages.members(archives[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rdata says which type it assumed
        index = rdata.conversion.convert(rdata.parser.parse_data(found[f"{folder}.rdx"]))["variables"]
        for name, (offset, length) in sorted(index.items()):
            piece = found[f"{folder}.rdb"][offset : offset + length]
            lines = rdata.conversion.convert(rdata.parser.parse_data(zlib.decompress(piece[4:])))
            yield str(name), "\n".join(map(str, lines))


def sword_text(markup: str) -> str:
    """OSIS, and the remains of it, as paragraphs."""
    markup = re.sub(r'<div [se]ID="[^"]*" type="x-p"/>|</?title[^>]*>|</?p>|<lb[^>]*>|<br */?>', "\n\n", markup)
    text = html.unescape(re.sub(r"<[^>]*>", "", markup))
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))


OLD_TESTAMENT = 24_115  # records of an index in the King James Bible's order, headings included


def sword(archives: list[pathlib.Path], source: dict) -> Works:
    """A commentary of the SWORD project; a work is what it has on a chapter of the Bible."""
    from pysword.bible import SwordBible
    from pysword.modules import SwordModules

    with tempfile.TemporaryDirectory() as temporary:
        for name, content in packages.members(archives[0]):
            if name.startswith("usr/share/sword/"):
                path = pathlib.Path(temporary) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        base = pathlib.Path(temporary) / "usr/share/sword"
        (settings,) = SwordModules(str(base)).parse_modules().values()
        folder = base / settings["datapath"]
        # A compressed commentary lies in its files as a compressed Bible does. Which of two records its index has is not
        # always what the settings say.
        (index,) = folder.glob("ot.?zv")
        kind = "ztext4" if index.stat().st_size == 12 * OLD_TESTAMENT else "ztext"
        module = SwordBible(str(folder), kind, settings.get("versification", "kjv"), settings["encoding"], settings["sourcetype"],
                            settings["blocktype"])
        for books in module.get_structure().get_books().values():
            for book in books:
                yield from sword_book(module, book)


def sword_book(module, book) -> Works:
    last = ""
    for chapter, verses in enumerate(book.chapter_lengths, 1):
        entries = []
        for verse in range(1, verses + 1):
            try:
                entry = module.get(books=[book.name], chapters=[chapter], verses=[verse], clean=False)
            except (ValueError, IndexError, KeyError):  # the module has nothing on this book
                continue
            if entry != last:  # one that is on several verses is found at each of them
                entries.append(sword_text(entry))
            last = entry
        yield f"{book.name} {chapter}", "\n\n".join(entries)


def verses(archives: list[pathlib.Path], source: dict) -> Works:
    """A Bible as rows of id, book, chapter, verse, text; notes in braces are left out. A work is a book."""
    found = dict(packages.members(archives[0]))
    rows = csv.reader(io.StringIO(gzip.decompress(found[source["files"][0]]).decode("utf-8")))
    next(rows)
    chapters: dict[tuple[int, int], list[str]] = {}
    for _, book, chapter, _, text in rows:
        chapters.setdefault((int(book), int(chapter)), []).append(" ".join(re.sub(r"\{[^}]*\}", "", text).split()))
    for book in sorted({book for book, _ in chapters}):
        yield f"book {book}", "\n\n".join(" ".join(chapters[key]) for key in sorted(chapters) if key[0] == book)


def dictionary(archives: list[pathlib.Path], source: dict) -> Works:
    """A dictionary of dictd's: entries as they follow each other, some thousand characters of them a work."""
    found = dict(packages.members(archives[0]))
    (name,) = (name for name in found if name.endswith(".dict.dz"))
    content = gzip.decompress(found[name])
    digits = {letter: value for value, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}

    def number(word: str) -> int:
        result = 0
        for letter in word:
            result = result * 64 + digits[letter]
        return result

    places = set()
    for line in found[name.replace(".dict.dz", ".index")].decode("utf-8", errors="replace").splitlines():
        headword, offset, length = line.split("\t")[:3]
        if not headword.startswith("00"):
            places.add((number(offset), number(length)))
    current, first = "", 0
    for offset, length in sorted(places):
        current += content[offset : offset + length].decode("utf-8", errors="replace").strip() + "\n\n"
        if len(current) > LETTERS_OF_DICTIONARY:
            yield f"{first:09}", current
            current, first = "", offset + length
    if current:
        yield f"{first:09}", current


BLOCKS = "h1,h2,h3,h4,h5,p,pre,li,dt,dd,td,blockquote,figcaption"
NOT_TEXT = "script,style,nav,header,footer,form,table.nav,div.navigation,div.sphinxsidebar,div.related,a.headerlink,a.anchor"


def page(markup: str) -> str:
    """The blocks of a page of HTML that hold no other block, in their order."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(markup)
    for node in tree.css(NOT_TEXT):
        node.decompose()
    blocks = []
    for node in tree.css(BLOCKS):
        if node.tag != "pre" and len(node.css(BLOCKS)) > 1:  # css() counts the node itself
            continue
        text = node.text()
        text = text.strip("\n") if node.tag == "pre" else " ".join(text.split())
        if text and not (node.tag in ("li", "p", "td") and len(text.split()) < 3):  # menus and cells
            blocks.append(text)
    return "\n\n".join(blocks)


def html_pages(archives: list[pathlib.Path], source: dict) -> Works:
    for name, markup in packages.files(archives, source):
        yield name, page(markup)


READERS = {"classics": classics, "members": members, "austen": austen, "sword": sword, "verses": verses,
           "dictionary": dictionary, "html": html_pages, "plain": plain, "code": code}
