"""scripts/check_families.py finds a family's name outside of the family's file."""

import unittest

import check_families
from trees import TreeTest

FAMILY = 'const Family kBird = {\n    .model_type = "bird",\n    .architecture = "bird-2",\n    .class_name = "BirdModel",\n};\n'


class Families(TreeTest):
    def setUp(self):
        super().setUp()
        self.write({"src/families/known/bird.cpp": FAMILY, "src/cli/run.cpp": "int main() {}\n"})

    def said_of(self, source: str) -> str:
        self.write({"src/cli/run.cpp": source})
        return self.run_script(check_families)[1]

    def test_a_name_in_its_own_file_passes(self):
        self.assertEqual(self.run_script(check_families), (0, ""))

    def test_each_name_of_a_family_is_found(self):
        for name in ("bird", "bird-2", "BirdModel"):
            said = self.said_of(f'int a;\nbool is(Name n) {{ return n == "{name}"; }}\n')
            self.assertIn(f'src/cli/run.cpp:2: "{name}"', said)

    def test_a_name_within_a_sentence_is_found(self):
        self.assertIn('"bird"', self.said_of('auto hint = "take a bird, or another";\n'))
        self.assertIn('"bird"', self.said_of('auto json = R"({"model_type": "bird"})";\n'))

    def test_other_words_comments_and_files_pass(self):
        for source in ('auto a = "birds bird3 bird-bpe";\n', "// a bird\n", "/* \"bird\" */\n", 'auto a = "run ./bird -o bird.gguf";\n',
                       "int bird;\n"):
            self.assertEqual(self.said_of(source), "", source)

    def test_a_tree_without_families_is_refused(self):
        self.write({"src/families/known/bird.cpp": "const Family kBird = {};\n"})
        self.assertEqual(self.run_script(check_families)[0], 1)


if __name__ == "__main__":
    unittest.main()
