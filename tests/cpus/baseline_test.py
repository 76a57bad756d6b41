"""check_baseline.py on disassembly with the faults that it is there to find."""

import unittest

import check_baseline


def function(name: str, *instructions: str) -> list[str]:
    return [f"0000000000001000 <{name}>:", *(f"    1000:\t{instruction}" for instruction in instructions), ""]


class Baseline(unittest.TestCase):
    def faults(self, *lines: str) -> dict:
        return check_baseline.check(lines)[0]

    def test_sse2_passes(self):
        self.assertEqual(self.faults(*function("main", "mulps  %xmm0,%xmm1", "tzcnt  %eax,%eax", "rep stos %al,%es:(%rdi)",
                                               "lock cmpxchg %rdx,(%rax)", "verr   %ax", "pause")), {})

    def test_younger_instructions_are_found(self):
        for instruction in ("vaddps %ymm0,%ymm1,%ymm2", "vinserti64x4 $0x1,%ymm1,%zmm0,%zmm0", "popcnt %eax,%eax",
                            "pshufb %xmm0,%xmm1", "shlx   %eax,%ecx,%edx", "crc32b %al,%eax", "xgetbv",
                            "tdpbusd %tmm0,%tmm1,%tmm2", "rep lzcnt %eax,%eax"):
            with self.subTest(instruction):
                self.assertEqual(list(self.faults(*function("coterie::ops::add(int)", instruction))), ["coterie::ops::add(int)"])

    def test_where_the_cpu_was_asked_they_may_stand(self):
        for name in ("coterie::kernels::avx512::run(coterie::kernels::MatmulTask const&)",
                     "void coterie::kernels::avx2::(anonymous namespace)::run_blocks<int>(int)",
                     "coterie::kernels::avx512::(anonymous namespace)::Tiles<int>::run(int) [clone .cold]"):
            with self.subTest(name):
                self.assertEqual(self.faults(*function(name, "vzeroupper", "kandw  %k1,%k2,%k3")), {})

    def test_what_reads_xcr0_does_nothing_else(self):
        name = "coterie::base::(anonymous namespace)::read()"
        self.assertEqual(self.faults(*function(name, "xgetbv")), {})
        self.assertEqual(list(self.faults(*function(name, "vzeroupper"))), [name])
        name = "coterie::base::read_json(std::filesystem::__cxx11::path const&)"
        self.assertEqual(list(self.faults(*function(name, "vaddps %ymm0,%ymm1,%ymm2"))), [name])

    def test_what_fills_the_tables_runs_on_every_cpu(self):
        for name in ("coterie::kernels::avx512::vector_kernels()", "coterie::kernels::amx::add_matmul_blocks256(int*)"):
            with self.subTest(name):
                self.assertEqual(list(self.faults(*function(name, "vinserti64x4 $0x1,%ymm1,%zmm0,%zmm0"))), [name])

    def test_a_template_of_the_library_is_no_exception(self):
        for name in ("std::vector<coterie::kernels::Candidate>::push_back(coterie::kernels::Candidate&&)",
                     "std::vector<coterie::kernels::avx2::Piece>::push_back(coterie::kernels::avx2::Piece&&)",
                     "void std::sort<coterie::kernels::avx512::Piece*>(coterie::kernels::avx512::Piece*)",
                     "coterie::ops::add(coterie::kernels::avx512::Task const&)"):
            with self.subTest(name):
                self.assertEqual(list(self.faults(*function(name, "vmovdqu (%rax),%ymm0"))), [name])

    def test_prefixes_are_passed_over(self):
        for instruction in ("{vex} vpdpbusd %ymm0,%ymm1,%ymm2", "fs pshufb %xmm0,%xmm1", "pextrw $0x1,%xmm0,(%rax)"):
            with self.subTest(instruction):
                self.assertEqual(list(self.faults(*function("g()", instruction))), ["g()"])
        self.assertEqual(self.faults(*function("g()", "pextrw $0x1,%xmm0,%eax")), {})

    def test_functions_are_told_apart(self):
        lines = function("coterie::kernels::avx2::f()", "vzeroupper") + function("g()", "vzeroupper")
        self.assertEqual(list(self.faults(*lines)), ["g()"])


if __name__ == "__main__":
    unittest.main()
