#!/usr/bin/env python3
"""Builds llama.cpp's programs in a folder outside the project, for the other scripts here to time against.

    benchmarks/peers/build.py ~/peers                    for this machine's instruction set
    benchmarks/peers/build.py ~/peers --cpu avx2         for AVX2 at most, beside the other; or avx512, without AMX

The source is the one in the source archive of PyPI's llama-cpp-python, which pip downloads from the index it is set up
with; a folder that has llama.cpp's CMakeLists.txt may be given with --source instead, ik_llama.cpp's too (with --name).
What is built already is kept; the binaries are DIR/NAME-CPU/bin/llama-bench and so on."""
import argparse
import os
import pathlib
import subprocess
import sys
import tarfile

PACKAGE = "llama-cpp-python"
TARGETS = ["llama-bench", "llama-batched-bench", "llama-server", "llama-quantize", "llama-cli", "ggml-rpc-server"]
CPUS = {
    "native": ["-DGGML_NATIVE=ON"],
    # Without AMX, with which llama.cpp ended by a segmentation fault on two processors of an Intel Xeon (2026-12-01).
    "avx512": ["-DGGML_NATIVE=OFF", "-DGGML_AVX=ON", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON", "-DGGML_BMI2=ON",
               "-DGGML_AVX512=ON", "-DGGML_AVX512_VBMI=ON", "-DGGML_AVX512_VNNI=ON", "-DGGML_AVX512_BF16=ON"],
    "avx2": ["-DGGML_NATIVE=OFF", "-DGGML_AVX=ON", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON", "-DGGML_BMI2=ON"],
}


def run(command):
    print("+", " ".join(map(str, command)), file=sys.stderr)
    if subprocess.run(command).returncode != 0:
        sys.exit(f"build: {command[0]} failed; its message is above")


def source(folder, version):
    """llama.cpp's folder within the archive, downloaded and unpacked when first asked for."""
    found = sorted(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
    if found:
        return found[-1]
    run([sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE, "--no-build-isolation", "--dest", folder,
         PACKAGE + (f"=={version}" if version else "")])
    for archive in folder.glob("llama_cpp_python-*.tar.gz"):
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    found = sorted(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
    return found[-1] if found else sys.exit(f"build: the archive of {PACKAGE} has no vendor/llama.cpp")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--cpu", choices=CPUS, default="native")
    parser.add_argument("--source", type=pathlib.Path, help="llama.cpp's or ik_llama.cpp's source, instead of the archive's")
    parser.add_argument("--name", default="llama.cpp", help="of the folder the build goes to")
    parser.add_argument("--version", help=f"of {PACKAGE} (default: the newest)")
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    build = arguments.folder / f"{arguments.name}-{arguments.cpu}"
    where = arguments.source or source(arguments.folder, arguments.version)
    run(["cmake", "-S", where, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DGGML_RPC=ON",
         "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", *CPUS[arguments.cpu]])
    run(["cmake", "--build", build, "-j", str(arguments.jobs), "--target", *arguments.targets])
    print(build / "bin")


if __name__ == "__main__":
    main()
