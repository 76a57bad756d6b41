#!/usr/bin/env python3
"""Runs a command in a control group that may hold so much memory and no swap, and reports what it took of it.

Page cache counts for whoever touched it first. So the files that the command reads (--drop) are first written back and
put out of memory: otherwise what lies there already would be free memory for a program that maps them. Works with cgroup
v1 and v2, as root, without systemd. The report is one line of JSON on stderr, or in --report:

  peak_bytes        the most that the group held at once, page cache included
  limit_hits        how often it asked for more than it may have (v1: memory.failcnt, v2: max in memory.events)
  oom_kills         processes that were ended for that
  major_faults      pages that had to come from a disk
  read_bytes        from disks, by the command and its children
  left_in_memory    bytes of the files that could not be put out of memory before: of them the figures are not to be trusted

examples:
  cage.py --memory 2400M --drop model.gguf -- build/release/coterie bench model.gguf --prompt 0 --generate 64
  cage.py --memory 2400M --drop model.gguf -- llama-bench -m model.gguf -p 0 -n 64

exit code: the command's; 125 when there is no group to be had
"""
import argparse
import contextlib
import ctypes
import errno
import json
import mmap
import os
import pathlib
import resource
import signal
import sys
import time

FAILED = 125
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


class NoGroup(Exception):
    pass


def size(text):
    number = text.rstrip("KMGiB")
    unit = text[len(number):].removesuffix("B")
    try:
        return int(float(number) * UNITS[unit])
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{text} is no size like 2400M or 2.4G") from None


def mounts():
    """(file system, options of it, mount point) of every mount."""
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ", 1)
        kind, _, options = after.split(" ", 2)
        yield kind, options.split(","), pathlib.Path(before.split(" ")[4])


def own_path(controller):
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if (controller in controllers.split(",")) if controller else controllers == "":
            return path.lstrip("/")
    return ""


def below(mount, path):
    """Where this process is; in a container its path may not be shown."""
    return mount / path if (mount / path).is_dir() else mount


class V1:
    name = "cgroup v1"

    def __init__(self, mount):
        self.group = below(mount, own_path("memory")) / f"cage-{os.getpid()}"
        self.group.mkdir()

    def limit(self, limit):
        write(self.group / "memory.limit_in_bytes", limit)
        swap = self.group / "memory.memsw.limit_in_bytes"
        if swap.exists():
            write(swap, limit)

    def figures(self):
        kills = [line.split()[1] for line in read(self.group / "memory.oom_control").splitlines()
                 if line.startswith("oom_kill ")]
        return {"peak_bytes": int(read(self.group / "memory.max_usage_in_bytes")),
                "limit_hits": int(read(self.group / "memory.failcnt")), "oom_kills": int(kills[0]) if kills else None}


class V2:
    name = "cgroup v2"

    def __init__(self, mount):
        self.parent = below(mount, own_path(""))
        if "memory" not in read(self.parent / "cgroup.controllers").split():
            raise NoGroup(f"{self.parent} controls no memory")
        self.leaf = None
        if "memory" not in read(self.parent / "cgroup.subtree_control").split():
            self.hand_on_memory()
        self.group = self.parent / f"cage-{os.getpid()}"
        self.group.mkdir()

    def hand_on_memory(self):
        """A group whose children control memory holds no process itself: this one moves out of the way."""
        control = self.parent / "cgroup.subtree_control"
        try:
            write(control, "+memory")
            return
        except OSError as reason:
            if reason.errno != errno.EBUSY:
                raise
        self.leaf = self.parent / f"cage-leaf-{os.getpid()}"
        self.leaf.mkdir()
        write(self.leaf / "cgroup.procs", os.getpid())
        try:
            write(control, "+memory")
        except OSError as reason:
            raise NoGroup(f"other processes are in {self.parent}, so that its children get no memory controller; with "
                          "systemd: systemd-run --scope -p MemoryMax=2400M -p MemorySwapMax=0 COMMAND") from reason

    def limit(self, limit):
        write(self.group / "memory.max", limit)
        swap = self.group / "memory.swap.max"
        if swap.exists():
            write(swap, 0)

    def figures(self):
        events = dict(line.split() for line in read(self.group / "memory.events").splitlines())
        peak = self.group / "memory.peak"  # since Linux 5.19
        return {"peak_bytes": int(read(peak)) if peak.exists() else None, "limit_hits": int(events["max"]),
                "oom_kills": int(events["oom_kill"])}


def read(path):
    return path.read_text()


def write(path, value):
    with open(path, "w") as file:
        file.write(str(value))


def make_group():
    unified = None
    for kind, options, mount in mounts():
        if kind == "cgroup" and "memory" in options:
            return V1(mount)
        if kind == "cgroup2":
            unified = mount
    if unified is None:
        raise NoGroup("no control groups are mounted")
    return V2(unified)


def in_memory(file, length):
    """Bytes of the file in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    address = libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    found = (ctypes.c_ubyte * ((length + mmap.PAGESIZE - 1) // mmap.PAGESIZE))()
    known = libc.mincore(address, length, found) == 0
    libc.munmap(address, length)
    return sum(page & 1 for page in found) * mmap.PAGESIZE if known else length


def drop(names):
    left = 0
    for name in names:
        with open(name, "rb") as file:
            os.fsync(file.fileno())
            length = os.fstat(file.fileno()).st_size
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if length > 0:
                left += in_memory(file, length)
    return left


def run(group, command):
    """Of the command and its children: exit code, seconds, use of resources."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            write(group.group / "cgroup.procs", os.getpid())
            os.execvp(command[0], command)
        except OSError as reason:
            print(f"cage: {command[0]}: {reason}", file=sys.stderr)
        os._exit(127)
    try:
        _, status = os.waitpid(child, 0)
    except BaseException:  # whoever ends the cage ends what is in it
        for process in read(group.group / "cgroup.procs").split():
            os.kill(int(process), signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
        raise
    seconds = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return os.waitstatus_to_exitcode(status), seconds, {
        "major_faults": after.ru_majflt - before.ru_majflt, "minor_faults": after.ru_minflt - before.ru_minflt,
        "peak_resident_bytes": after.ru_maxrss * 1024, "read_bytes": (after.ru_inblock - before.ru_inblock) * 512}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=size, required=True, metavar="SIZE", help="2400M, 2.4G")
    parser.add_argument("--drop", action="append", default=[], metavar="FILE", help="put it out of memory first")
    parser.add_argument("--report", metavar="FILE", help="write the report there")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        left = drop(options.drop)
        group = make_group()
    except (OSError, NoGroup) as reason:
        print(f"cage: {reason}", file=sys.stderr)
        return FAILED
    try:
        try:
            group.limit(options.memory)
        except OSError as reason:
            print(f"cage: {group.group}: {reason}", file=sys.stderr)
            return FAILED
        code, seconds, used = run(group, options.command)
        report = {"group": group.name, "limit_bytes": options.memory, "exit_code": code, "seconds": round(seconds, 3),
                  "left_in_memory": left, **group.figures(), **used}
    finally:
        leave(group)
    line = json.dumps(report)
    if options.report:
        pathlib.Path(options.report).write_text(line + "\n")
    else:
        print(line, file=sys.stderr)
    return code if code >= 0 else 128 - code


def leave(group):
    leaf = getattr(group, "leaf", None)
    try:
        if leaf:
            write(group.parent / "cgroup.subtree_control", "-memory")
    except OSError:
        pass  # the parent keeps what it was asked to do
    for _ in range(50):  # what is charged to a group goes away a moment after its processes
        try:
            group.group.rmdir()
            return
        except OSError:
            time.sleep(0.1)
    print(f"cage: {group.group} could not be removed", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
