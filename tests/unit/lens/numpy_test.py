"""The figures of `coterie lens`, counted once more from a trace by NumPy, which shares no line with the program."""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

try:
    import numpy
except ImportError:
    numpy = None

PROJECT = pathlib.Path(__file__).resolve().parents[3]
MODEL = PROJECT / "models/coterie-small.gguf"
ARGUMENTS = argparse.Namespace()
TEXT = "\n".join(f"The {w} man went to the market, and the {w} dog, who hadn't eaten, followed him."
                 for w in ("old", "young", "tired", "happy", "small", "great", "last", "first")) + "\n"


def read(path):
    """safetensors by hand: eight bytes of length, JSON, data."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    types = {"I32": "<i4", "I16": "<i2", "F32": "<f4"}
    header = json.loads(data[8:8 + length])
    return {name: numpy.frombuffer(data[8 + length:], types[t["dtype"]], int(numpy.prod(t["shape"])), t["data_offsets"][0]).reshape(t["shape"])
            for name, t in header.items() if name != "__metadata__"}


def information(x, c):
    """In nats, of two arrays of numbers."""
    table = numpy.zeros((x.max() + 1, c.max() + 1))
    numpy.add.at(table, (x, c), 1)
    p = table / table.sum()
    independent = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    both = p[p > 0] * numpy.log(p[p > 0] / independent[p > 0])
    class_shares = p.sum(0)[p.sum(0) > 0]
    return both.sum(), -(class_shares * numpy.log(class_shares)).sum()


@unittest.skipIf(numpy is None, "there is no NumPy")
class Lens(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(cls.folder.name)
        (folder / "text.txt").write_text(TEXT)
        run = lambda *words: subprocess.run([ARGUMENTS.binary, *words], check=True, capture_output=True)
        run("trace", MODEL, "--text", folder / "text.txt", "--window", "64", "-o", folder / "t.safetensors")
        run("lens", MODEL, "--text", folder / "text.txt", "--window", "64", "-o", folder / "r.html")
        cls.trace, cls.study = read(folder / "t.safetensors"), json.loads((folder / "r.json").read_text())
        # The page has no figures but those of the JSON: the same object stands in it.
        page = (folder / "r.html").read_text()
        cls.in_page = json.loads(page.split('<script id="data" type="application/json">')[1].split("</script>")[0])

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def rows(self):
        """Of tokens that the study counts: all but the one that begins a window, where the model has such a one."""
        keep = self.trace["position"] >= 0
        return keep if len(keep) == self.study["tokens"] else self.trace["position"] > 0

    def test_it_is_the_same_text(self):
        self.assertEqual(int(self.rows().sum()), self.study["tokens"])
        self.assertEqual(self.in_page, self.study)

    def test_loads_and_entropies(self):
        keep = self.rows()
        for i, layer in enumerate(self.study["layers"]):
            experts = self.trace["experts"][keep, i]
            counts = numpy.bincount(experts.reshape(-1), minlength=layer["experts"])
            numpy.testing.assert_allclose(layer["load"], counts / counts.sum() * layer["experts"], atol=2e-6)
            self.assertEqual(layer["dead"], int((counts == 0).sum()))
            entropy = self.trace["entropy"][keep, i].mean() / numpy.log(layer["experts"])
            self.assertAlmostEqual(layer["entropy"], float(entropy), places=5)

    def test_information(self):
        keep = self.rows()
        ids, positions = self.trace["ids"][keep], self.trace["position"][keep]
        often = numpy.bincount(ids, minlength=4096)[ids] >= 5
        distance = numpy.where(positions > 0, numpy.floor(numpy.log2(numpy.maximum(positions, 1))).astype(int) + 1, 0)
        far = numpy.bincount(distance)[distance] >= 5
        for i, layer in enumerate(self.study["layers"]):
            experts = self.trace["experts"][keep, i]
            for name, labels, used in (("token", ids, often), ("position", distance, far)):
                told = [information(experts[used, k], labels[used]) for k in range(experts.shape[1])]
                found = layer["information"][name]
                self.assertAlmostEqual(found["nats"], numpy.mean([t[0] for t in told]), places=9)
                self.assertAlmostEqual(found["entropy"], numpy.mean([t[1] for t in told]), places=9)
                self.assertEqual(found["tokens"], int(used.sum()))
                self.assertAlmostEqual(found["normalised"], (found["nats"] - found["permuted"]) / found["entropy"], places=9)

    def test_what_goes_together(self):
        keep = self.rows()
        for i, layer in enumerate(self.study["layers"]):
            has = numpy.zeros((int(keep.sum()), layer["experts"]))
            numpy.put_along_axis(has, self.trace["experts"][keep, i].astype(int), 1, axis=1)
            both = has.T @ has
            of = numpy.maximum(numpy.diag(both), 1)[:, None]
            numpy.fill_diagonal(both, 0)
            numpy.testing.assert_allclose(layer["together"], both / of, atol=2e-6)

    def test_vocabulary_and_paths(self):
        keep = self.rows()
        ids = self.trace["ids"][keep]
        often = numpy.bincount(ids, minlength=4096)[ids] >= 5
        for i, layer in enumerate(self.study["layers"]):
            table = numpy.zeros((4096, layer["experts"]))
            for k in range(self.trace["experts"].shape[2]):
                numpy.add.at(table, (ids[often], self.trace["experts"][keep, i, k][often]), 1)
            self.assertAlmostEqual(layer["vocabulary"]["specialisation"], table.max(1).sum() / often.sum(), places=5)
        paths, counts = numpy.unique(self.trace["experts"][keep, :, 0], axis=0, return_counts=True)
        self.assertEqual(self.study["paths"]["distinct"], len(paths))
        self.assertAlmostEqual(self.study["paths"]["common"][0]["share"], counts.max() / counts.sum(), places=6)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    _, rest = parser.parse_known_args(namespace=ARGUMENTS)
    unittest.main(argv=[sys.argv[0], *rest])
