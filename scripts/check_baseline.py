"""Checks that a binary runs on every x86-64: instructions beyond the baseline (SSE2) stand only where the CPU was asked.

The binary is disassembled (binutils' objdump) function by function. An instruction that a first x86-64 lacks may stand
in a function of a namespace that is compiled for an instruction set (coterie::kernels::avx2, ::avx512, ::amx), which
run only after src/kernels/table.cpp has asked the CPU, or in one of the crates below, which ask it themselves.
"""

import argparse
import collections
import pathlib
import re
import subprocess
import sys

NAMESPACES = re.compile(r"\bcoterie::kernels::(avx2|avx512|amx)::")
# Of their functions, those that fill the tables run on every CPU.
FILLS_TABLES = re.compile(r"::(\w+_kernels|add_matmul_\w+|permitted)$")
# Crates that choose at run time, each with where it asks; symbols as objdump demangles them.
ASKS_ITSELF = {
    r"\bmemchr::": "memchr asks std_detect before it calls its AVX2 searchers",
    r"\baho_corasick::packed": "aho-corasick asks std_detect before it builds a packed searcher",
    r"\brand_chacha::guts::": "ppv-lite86, below it, asks std_detect and dispatches to impl_avx2 and its like",
    r"\bcompiler_builtins::math::libm_math::arch::x86::": "fma() asks CPUID on its first call",
    r"\bcore::core_arch::x86::": "intrinsics that were not inlined into the crates above",
    r"\bstd_detect::": "std_detect is what asks the CPU",
}
# These read XCR0 once CPUID says that they can, and nothing more.
READS_XCR0 = re.compile(r"^(coterie::base::\(anonymous namespace\)::(read|saved_registers)|__cpu_indicator_init|"
                        r"get_available_features|init_have_avx)\b")
ASKS = {re.compile(pattern): reason for pattern, reason in ASKS_ITSELF.items()}

# What SSE2 x86-64 has although the name looks younger: verr, verw; tzcnt is bsf to a CPU that does not know it, and
# compilers emit it where both give the same; pause and endbr64 are no-operations to an older CPU.
VEX_LIKE_BASELINE = {"verr", "verw"}
BEYOND = {
    # SSE3, SSSE3
    "addsubpd", "addsubps", "haddpd", "haddps", "hsubpd", "hsubps", "movddup", "movshdup", "movsldup", "lddqu", "fisttp",
    "fisttpll", "fisttps", "fisttpl", "pshufb", "phaddw", "phaddd", "phaddsw", "phsubw", "phsubd", "phsubsw",
    "pmaddubsw", "pmulhrsw", "psignb", "psignw", "psignd", "pabsb", "pabsw", "pabsd", "palignr",
    # SSE4.1, SSE4.2, POPCNT, LZCNT
    "pmulld", "pmuldq", "dppd", "dpps", "movntdqa", "blendpd", "blendps", "blendvpd", "blendvps", "pblendvb", "pblendw",
    "pminuw", "pminud", "pminsb", "pminsd", "pmaxuw", "pmaxud", "pmaxsb", "pmaxsd", "roundps", "roundpd", "roundss",
    "roundsd", "insertps", "pinsrb", "pinsrd", "pinsrq", "extractps", "pextrb", "pextrd", "pextrq", "pmovsxbw",
    "pmovsxbd", "pmovsxbq", "pmovsxwd", "pmovsxwq", "pmovsxdq", "pmovzxbw", "pmovzxbd", "pmovzxbq", "pmovzxwd",
    "pmovzxwq", "pmovzxdq", "ptest", "pcmpeqq", "pcmpgtq", "packusdw", "mpsadbw", "phminposuw", "pcmpestri",
    "pcmpestrm", "pcmpistri", "pcmpistrm", "crc32", "crc32b", "crc32w", "crc32l", "crc32q", "popcnt", "lzcnt",
    # BMI, ADX, MOVBE, AES, SHA and the rest
    "andn", "bextr", "blsi", "blsr", "blsmsk", "bzhi", "mulx", "pdep", "pext", "rorx", "sarx", "shlx", "shrx", "adcx",
    "adox", "movbe", "aesenc", "aesenclast", "aesdec", "aesdeclast", "aesimc", "aeskeygenassist", "pclmulqdq",
    "pclmullqlqdq", "pclmulhqlqdq", "pclmullqhqdq", "pclmulhqhqdq", "sha1rnds4", "sha1nexte", "sha1msg1", "sha1msg2",
    "sha256rnds2", "sha256msg1", "sha256msg2", "gf2p8mulb", "gf2p8affineqb", "gf2p8affineinvqb", "rdrand", "rdseed",
    "xgetbv", "xsave", "xsave64", "xsavec", "xsavec64", "xsaveopt", "xsaveopt64", "xsaves", "xrstor", "xrstor64",
    "rdtscp", "rdpid", "rdfsbase", "rdgsbase", "wrfsbase", "wrgsbase", "xbegin", "xend", "xabort", "xtest", "movdiri",
    "movdir64b", "tpause", "umwait", "umonitor", "serialize", "movntss", "movntsd", "extrq", "insertq", "prefetchw",
    "tdpfp16ps", "clflushopt", "clwb", "cmpxchg16b", "ldtilecfg", "sttilecfg", "tilerelease",
    "tilezero", "tileloadd", "tileloaddt1", "tilestored", "tdpbssd", "tdpbsud", "tdpbusd", "tdpbuud", "tdpbf16ps",
}  # fmt: skip

FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")
# "  401136:\tvaddps %ymm0,..." with --no-show-raw-insn
INSTRUCTION = re.compile(
    r"^\s+[0-9a-f]+:\t(?:(?:lock|rep|repz|repnz|data16|[c-gs]s|notrack|bnd|addr32|xacquire|xrelease|rex\S*|\{\w+\}) )*"
    r"([a-z][a-z0-9]*)\s*(.*)")


def beyond(mnemonic: str, operands: str = "") -> bool:
    """Whether a first x86-64 lacks the instruction."""
    if mnemonic.startswith(("v", "k")):
        return mnemonic not in VEX_LIKE_BASELINE
    if mnemonic == "pextrw":  # SSE2's writes a register, SSE4.1's memory
        return operands.endswith(")")
    return mnemonic in BEYOND


def own_name(function: str) -> str:
    """The function's qualified name, without its parameters, template arguments and return type."""
    function = re.sub(r" \[clone [^]]*\]", "", function).replace("(anonymous namespace)", "{anonymous}")
    name, depth = "", 0
    for character in function:
        if character in "(<":
            depth += 1
        elif character in ")>" and depth > 0:
            depth -= 1
        elif depth == 0:
            name += character
    return name.strip().split(" ")[-1] if "operator" not in name else name


def allowed(function: str, mnemonic: str) -> bool:
    name = own_name(function)
    if NAMESPACES.search(name):
        return not FILLS_TABLES.search(name)
    if READS_XCR0.search(function):
        return mnemonic == "xgetbv"
    return any(pattern.search(function) for pattern in ASKS)


def check(lines) -> tuple[dict[str, collections.Counter], int]:
    """The functions that may not have what they have, each with its instructions; and how many were looked at."""
    faults: dict[str, collections.Counter] = {}
    function, functions = "", 0
    for line in lines:
        if match := FUNCTION.match(line):
            function, functions = match[1], functions + 1
        elif (match := INSTRUCTION.match(line)) and beyond(match[1], match[2]) and not allowed(function, match[1]):
            faults.setdefault(function, collections.Counter())[match[1]] += 1
    return faults, functions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=pathlib.Path)
    binary = parser.parse_args().binary
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", str(binary)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace", bufsize=1 << 20) as process:
        faults, functions = check(process.stdout)
    if process.returncode != 0 or functions < 100:
        print(f"{binary}: objdump ended with {process.returncode} after {functions} functions", file=sys.stderr)
        return 1
    for function, instructions in sorted(faults.items()):
        shown = ", ".join(f"{name} ({count})" for name, count in instructions.most_common(4))
        print(f"{binary}: {function}: {shown}", file=sys.stderr)
    if faults:
        print(f"{len(faults)} of {functions} functions have instructions that not every x86-64 CPU has", file=sys.stderr)
        return 1
    print(f"{functions} functions: instructions beyond the baseline stand only where the CPU was asked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
