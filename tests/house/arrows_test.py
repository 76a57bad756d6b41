"""scripts/check_arrows.py finds each way in which an arrow can point wrongly."""

import unittest

import check_arrows
from trees import TreeTest

ARROWS = 'base = []\nthreads = ["base"]\ntensor = ["base"]\nops = ["base", "tensor"]\n'
CMAKE = """
coterie_room(base PUBLIC_LINKS fmt::fmt)
coterie_room(threads LINKS Threads::Threads)
coterie_room(tensor)  # coterie_room(ghost)
coterie_room(ops
             EXCLUDE "main\\\\.cpp$")
"""


class Arrows(TreeTest):
    def setUp(self):
        super().setUp()
        self.write({
            "scripts/arrows.toml": ARROWS,
            "CMakeLists.txt": CMAKE,
            "src/base/error.h": "#include <string>\n",
            "src/tensor/view.h": '#include "base/error.h"\n',
            "src/threads/pool.h": '#include "base/error.h"\n',
            "src/ops/matmul.cpp": '#include <vector>\n#include "base/error.h"\n#include "tensor/view.h"\n  #  include "ops/matmul.h"\n',
            "src/ops/matmul.h": "#pragma once\n",
        })

    def fault(self) -> str:
        code, said = self.run_script(check_arrows)
        self.assertEqual(code, 1, "the wrong arrow was not found")
        self.assertEqual(said.count("\n"), 1, said)
        return said

    def test_right_arrows_pass(self):
        self.assertEqual(self.run_script(check_arrows), (0, ""))

    def test_a_room_that_may_not_be_seen(self):
        self.write({"src/ops/softmax.cpp": '\n#include "threads/pool.h"\n'})
        self.assertIn('src/ops/softmax.cpp:2: "threads/pool.h": ops may not see threads', self.fault())

    def test_upwards(self):
        self.write({"src/base/deep/thing.h": '#include "ops/matmul.h"\n'})
        self.assertIn("base may not see ops", self.fault())

    def test_a_way_round_over_the_parent_folder(self):
        self.write({"src/ops/sly.cpp": '#include "../threads/pool.h"\n'})
        self.assertIn("from the room's name on", self.fault())

    def test_a_neighbour_without_its_room(self):
        self.write({"src/ops/short.cpp": '#include "matmul.h"\n'})
        self.assertIn("from the room's name on", self.fault())

    def test_angle_brackets_do_not_hide_it(self):
        self.write({"src/ops/sly.cpp": "#include <threads/pool.h>\n"})
        self.assertIn("included with quotes", self.fault())

    def test_an_outside_library_in_quotes(self):
        self.write({"src/ops/json.cpp": '#include "nlohmann/json.hpp"\n'})
        self.assertIn("nlohmann is no room", self.fault())

    def test_a_missing_file(self):
        self.write({"src/ops/gone.cpp": '#include "tensor/gone.h"\n'})
        self.assertIn("no such file", self.fault())

    def test_a_folder_that_is_no_room(self):
        self.write({"src/attic/old.cpp": ""})
        self.assertIn("src/attic is not in scripts/arrows.toml", self.fault())

    def test_cmake_builds_what_is_not_listed(self):
        self.write({"CMakeLists.txt": CMAKE + "coterie_room(attic)\n"})
        self.assertIn("coterie_room(attic …) is not in scripts/arrows.toml", self.fault())

    def test_an_arrow_that_nothing_uses(self):
        self.write({"src/threads/pool.h": "#pragma once\n"})
        self.assertIn("threads lists base, which none of its files includes", self.fault())

    def test_cmake_forgets_a_room(self):
        self.write({"CMakeLists.txt": CMAKE.replace("coterie_room(threads", "other_call(threads")})
        self.assertIn("no coterie_room(threads …)", self.fault())

    def test_a_circle(self):
        self.write({"scripts/arrows.toml": ARROWS.replace('tensor = ["base"]', 'tensor = ["base", "ops"]'),
                    "src/tensor/view.h": '#include "base/error.h"\n#include "ops/matmul.h"\n'})
        self.assertIn("tensor lists ops, which is not on a line above it", self.fault())


if __name__ == "__main__":
    unittest.main()
