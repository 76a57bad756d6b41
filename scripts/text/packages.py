"""Packages of PyPI, npm and Debian by name and version, fetched by their own clients into one folder, and their files."""

import fnmatch
import gzip
import hashlib
import io
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator


class Unavailable(Exception):
    """A package that its client did not give; the text says what to do."""


def sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(command: list[str], folder: pathlib.Path) -> bool:
    return subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False).returncode == 0


def by_pip(name: str, version: str, folder: pathlib.Path) -> bool:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    return run([*command, f"{name}=={version}", "--dest", "."], folder)


def by_npm(name: str, version: str, folder: pathlib.Path) -> bool:
    if not shutil.which("npm"):
        raise Unavailable(f"{name} comes from npm, which is not installed here")
    return run(["npm", "pack", "--silent", f"{name}@{version}"], folder)


def by_apt(name: str, version: str, folder: pathlib.Path) -> bool:
    """That version, or, once it has been superseded, the one there is: the lock file's sums then tell."""
    if not shutil.which("apt-get"):
        raise Unavailable(f"{name} comes from Debian 12, and there is no apt-get here")
    quiet = ["apt-get", "download", "--quiet=2", "-o", "APT::Sandbox::User=root"]  # it may write here
    return run([*quiet, f"{name}={version}"], folder) or run([*quiet, name], folder)


CLIENTS = {"pypi": by_pip, "npm": by_npm, "debian": by_apt}


def fetch(package: str, folder: pathlib.Path) -> pathlib.Path:
    """The archive of "client:name==version", which is fetched once: what is whole has its final name."""
    client, _, rest = package.partition(":")
    name, _, version = rest.partition("==")
    place = folder / f"{client}+{name.replace('/', '+')}+{version.replace(':', '%3a')}"
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            inner = pathlib.Path(temporary) / "package"
            inner.mkdir()
            if not CLIENTS[client](name, version, inner) or len(list(inner.iterdir())) != 1:
                hint = "; `apt-get update`, as root, brings apt's lists up to date" if client == "debian" else ""
                raise Unavailable(f"{name} {version} could not be had from {client}{hint}")
            inner.rename(place)
    return next(place.iterdir())


def tar_members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        if member.isfile():
            yield member.name.removeprefix("./"), archive.extractfile(member).read()


def members(archive: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """The files of an archive with their paths in it; those of source archives and of npm without the outermost folder."""
    if archive.suffix == ".deb":
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as process:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                yield from tar_members(tar)
            process.stdout.read()
        if process.returncode != 0:
            raise Unavailable(f"dpkg-deb could not read {archive.name}")
    elif archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as file:
            yield from ((name, file.read(name)) for name in file.namelist() if not name.endswith("/"))
    else:
        with tarfile.open(archive) as tar:
            yield from ((name.partition("/")[2], content) for name, content in tar_members(tar))


def wanted(name: str, source: dict) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in source["files"]) and not any(
        fnmatch.fnmatch(name, pattern) for pattern in source.get("without", []))


def files(archives: list[pathlib.Path], source: dict) -> Iterator[tuple[str, str]]:
    """The texts that the source's patterns choose, in the order of their names, each with its name."""
    found = {name: content for archive in archives for name, content in members(archive) if wanted(name, source)}
    for name in sorted(found):
        content = found[name]
        if name.endswith(".gz"):
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read()
        yield name, content.decode("utf-8", errors="replace")
