"""What a build's compile_commands.json says of each source, those that are compiled together (cmake/room.cmake) too."""

import json
import pathlib
import re


def read(build: pathlib.Path, root: pathlib.Path) -> list[dict]:
    """An entry for each source: a file of `together` stands for those that it includes."""
    entries = []
    for entry in json.loads((build / "compile_commands.json").read_text(encoding="utf-8")):
        file = pathlib.Path(entry["file"])
        if file.parent.name != "together":
            entries.append(entry)
            continue
        for name in re.findall(r'^#include "(.+)"$', file.read_text(encoding="utf-8"), re.MULTILINE):
            source = str(root / "src" / name)
            entries.append({**entry, "file": source, "command": entry["command"].replace(str(file), source)})
    return entries
