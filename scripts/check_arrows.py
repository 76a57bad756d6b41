"""Checks that the rooms of src/ include only what scripts/arrows.toml allows them.

CMake links the rooms by the same file, and hands include roots on from room to room, so a wrong include of a room two
steps down would compile; this script is what forbids it. It also refuses an arrow that nothing uses: a room should not
be allowed more than it needs.
"""

import argparse
import pathlib
import re
import sys
import tomllib

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]')
ROOM_CALL = re.compile(r"^\s*coterie_room\(\s*(\w+)", re.MULTILINE)


def check_order(arrows: dict[str, list[str]]) -> list[str]:
    """A room sees only rooms of earlier lines, so there is no circle."""
    faults, above = [], set()
    for room, seen in arrows.items():
        for other in seen:
            if other not in above:
                faults.append(f"scripts/arrows.toml: {room} lists {other}, which is not on a line above it")
        above.add(room)
    return faults


def check_cmake(arrows: dict[str, list[str]], text: str) -> list[str]:
    """Each room is built; what it links CMake takes from arrows.toml itself."""
    rooms = set(ROOM_CALL.findall(re.sub(r"#.*", "", text)))
    faults = [f"CMakeLists.txt: no coterie_room({room} …)" for room in arrows if room not in rooms]
    return faults + [f"CMakeLists.txt: coterie_room({room} …) is not in scripts/arrows.toml" for room in sorted(rooms - set(arrows))]


def check_include(room: str, quote: str, path: str, arrows: dict[str, list[str]], source: pathlib.Path) -> str | None:
    """What is wrong with one #include of a file of `room`, or None."""
    first, _, rest = path.partition("/")
    if quote == "<":
        return f"<{path}>: a room is included with quotes" if first in arrows and rest else None
    if ".." in path.split("/") or not rest or first == "src":
        return f'"{path}": write "room/file.h", from the room\'s name on'
    if first not in arrows:
        return f'"{path}": {first} is no room; outside libraries are included with <>'
    if first != room and first not in arrows[room]:
        return f'"{path}": {room} may not see {first}'
    if not (source / path).is_file():
        return f'"{path}": there is no such file'
    return None


def check_sources(root: pathlib.Path, arrows: dict[str, list[str]]) -> list[str]:
    faults, source = [], root / "src"
    used = {room: set() for room in arrows}
    for file in sorted(source.rglob("*")):
        name = file.relative_to(root).as_posix()
        if file.suffix not in {".h", ".cpp", ".inc"}:
            continue
        room = file.relative_to(source).parts[0]
        if room not in arrows:
            faults.append(f"{name}: src/{room} is not in scripts/arrows.toml")
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if match := INCLUDE.match(line):
                used[room].add(match[2].partition("/")[0])
                if fault := check_include(room, *match.groups(), arrows, source):
                    faults.append(f"{name}:{number}: {fault}")
    for room, seen in arrows.items():
        faults += [f"scripts/arrows.toml: {room} lists {other}, which none of its files includes" for other in seen
                   if other not in used[room]]
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    root = parser.parse_args().root
    arrows = tomllib.loads((root / "scripts/arrows.toml").read_text(encoding="utf-8"))
    faults = check_order(arrows) + check_cmake(arrows, (root / "CMakeLists.txt").read_text(encoding="utf-8"))
    faults += check_sources(root, arrows)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
