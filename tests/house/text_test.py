"""scripts/text: documents are cleaned and cut as they should be, and nothing held out is trained on."""

import gzip
import io
import pathlib
import sys
import tarfile
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "scripts/text"))

import documents  # noqa: E402
import gather  # noqa: E402
import near_duplicates  # noqa: E402
import packages  # noqa: E402
import readers  # noqa: E402
from documents import Document  # noqa: E402

PROSE = "It is a truth that the men of the city are in want of bread, and that he who has it is not for them as it was. " * 4


def document(text: str, work: str = "w") -> Document:
    return Document("s", work, "d", text)


class Documents(unittest.TestCase):
    def test_lines_are_joined_and_blanks_go(self):
        self.assertEqual(documents.clean("\ufeffone \r\ntwo\r\n\r\n\r\n\r\nthree\u00a0x\x00\n", True), "one two\n\nthree x")
        self.assertEqual(documents.clean("one  \ntwo\n", False), "one\ntwo")

    def test_no_piece_is_longer_and_nothing_is_lost(self):
        text = "\n\n".join(["word " * 300, "A sentence ends here. " * 900, "x" * 20000, "end"])
        found = documents.pieces(text)
        self.assertLessEqual(max(map(len, found)), documents.LONGEST + 1)
        self.assertEqual("".join("".join(found).split()), "".join(text.split()))

    def test_other_languages_and_damage_go(self):
        self.assertTrue(documents.readable(PROSE, code=False))
        self.assertFalse(documents.readable("Der Hund und die Katze laufen durch den Garten, weil es regnet. " * 9, code=False))
        self.assertFalse(documents.readable(PROSE + "\ufffd" * 5, code=False))
        self.assertFalse(documents.readable("x" * 500, code=True))

    def test_short_ones_are_left_out(self):
        settings = {"reader": "members", "domain": "d"}
        self.assertEqual(documents.of_work("s", settings, "w", "Too short."), [])
        (found,) = documents.of_work("s", settings, "w", PROSE)
        self.assertEqual((found.source, found.work, found.domain, found.text), ("s", "w", "d", PROSE.rstrip() + "\n"))


class HeldOut(unittest.TestCase):
    secret = "When forty winters shall besiege thy brow and dig deep trenches in thy beauty's field thy youth's proud livery"

    def cut(self, text: str) -> tuple[list[Document], int]:
        return near_duplicates.without_held_out([document(text)], [self.secret], 20, lambda number: None)

    def test_a_paragraph_that_quotes_it_is_cut(self):
        quoted = self.secret.upper().replace(" ", "\n")
        self.assertEqual(self.cut(f"{PROSE}\n\nHe said: {quoted}, and so on\n\nThe end of it.\n"),
                         ([document(f"{PROSE}\n\nThe end of it.\n")], 1))

    def test_what_remains_is_dropped_when_it_is_too_short(self):
        self.assertEqual(self.cut(f"Short.\n\n{self.secret}\n"), ([], 1))

    def test_a_few_words_of_it_stay(self):
        text = PROSE + " ".join(self.secret.split()[:10]) + "\n"
        self.assertEqual(self.cut(text), ([document(text)], 0))

    def test_works_are_held_out_whole_and_a_tenth_or_less_of_them(self):
        held = [work for work in range(1000) if gather.held_out_work({}, document("", str(work)))]
        self.assertTrue(5 < len(held) < 60, len(held))
        self.assertTrue(gather.held_out_work({"held_out": ["b"]}, document("", "b")))
        self.assertFalse(gather.held_out_work({"held_out": ["b"]}, document("", "a")))


class Unlike(unittest.TestCase):
    def test_near_duplicates_go_and_the_earlier_one_stays(self):
        try:
            import rensa  # noqa: F401
        except ImportError:
            self.skipTest("rensa is not installed; ./dev text installs it in its own environment")
        words = [f"word{i * i % 997}" for i in range(400)]
        first, other = document(" ".join(words)), document(" ".join(reversed(words)))
        near = document(" ".join(words[:100] + ["changed"] + words[101:]))
        self.assertEqual(near_duplicates.unlike([first, near, other], lambda number: None), [first, other])


class Sources(unittest.TestCase):
    def test_a_dictionary_is_read_by_its_index(self):
        with tempfile.TemporaryDirectory() as temporary:
            archive = pathlib.Path(temporary) / "d.tar.gz"
            entries = [b"00-database-info\n  about\n", b"ant\n  an insect\n", b"bee\n  another\n"]
            with tarfile.open(archive, "w:gz") as tar:
                for name, content in (("x/a.dict.dz", gzip.compress(b"".join(entries))), ("x/a.index",
                                      b"00-database-info\tA\tZ\nant\tZ\tQ\nemmet\tZ\tQ\nbee\tp\tP\n")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
            self.assertEqual(list(readers.dictionary([archive], {})), [("000000000", "ant\n  an insect\n\nbee\n  another\n\n")])

    def test_patterns_choose_and_refuse(self):
        source = {"files": ["*.py"], "without": ["*/encodings/*"]}
        self.assertEqual([packages.wanted(name, source) for name in ("a/b.py", "a/encodings/b.py", "c.txt")], [True, False, False])

    def test_commentary_becomes_paragraphs(self):
        self.assertEqual(readers.sword_text('<div sID="g1" type="x-p"/>One <hi>two</hi><div eID="g1" type="x-p"/>&amp; three'),
                         "\n\nOne two\n\n& three")

    def test_a_changed_source_is_named(self):
        lock = {"archives": {"a": "1"}, "documents": 2, "characters": 9, "sum": "x"}
        self.assertEqual(gather.changes({"s": lock}, {"s": lock}), [])
        self.assertIn("expected a", gather.changes({"s": {**lock, "archives": {"b": "2"}}}, {"s": lock})[0])
        self.assertIn("other documents", gather.changes({"s": {**lock, "sum": "y"}}, {"s": lock})[0])
        self.assertIn("no longer", gather.changes({}, {"s": lock})[0])

    def test_a_sample_is_the_same_whatever_the_order(self):
        found = [document(f"text {number} " * 20) for number in range(50)]
        drawn = {one.text for one in gather.limited(found, 2000)}
        self.assertEqual(drawn, {one.text for one in gather.limited(found[::-1], 2000)})
        self.assertTrue(2000 <= sum(map(len, drawn)) < 2400)


if __name__ == "__main__":
    unittest.main()
