"""scripts/check_headers.py finds a header that leans on others."""

import json
import shutil
import unittest

import check_headers
from trees import TreeTest


class Headers(TreeTest):
    def check(self, header: str, extra: str = "") -> tuple[int, str]:
        compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
        self.write({
            "src/base/text.h": header,
            "src/base/piece.inl.h": "this is read inside a namespace",
            "src/base/text.cpp": "#include <string>\n#include \"base/text.h\"\n",
            "all.h": "#include <string>\n",
            "build/compile_commands.json": json.dumps([{
                "directory": str(self.root), "file": str(self.root / "src/base/text.cpp"),
                "command": f"ccache {compiler} -std=c++20 -I{self.root}/src -Winvalid-pch -include {self.root}/all.h {extra}"
                           f" -o text.o -c {self.root}/src/base/text.cpp"}]),
        })
        return self.run_script(check_headers, "--build", str(self.root / "build"))

    def test_a_whole_header_passes(self):
        self.assertEqual(self.check("#pragma once\n#include <string>\nstd::string text();\n"),
                         (0, "1 headers, 0 do not compile alone\n"))

    def test_a_header_that_leans_on_a_precompiled_one_does_not(self):
        code, said = self.check("#pragma once\nstd::string text();\n")
        self.assertEqual(code, 1)
        self.assertIn("base/text.h does not compile alone", said)

    def test_nothing_to_compile_is_a_failure(self):
        self.write({"build/compile_commands.json": "[]", "src/base/text.h": ""})
        self.assertEqual(self.run_script(check_headers, "--build", str(self.root / "build"))[0], 1)


if __name__ == "__main__":
    unittest.main()
