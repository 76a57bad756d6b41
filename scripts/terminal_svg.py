"""Draws the transcripts in docs/pictures (NAME.txt) as pictures of a terminal (NAME.svg).

A transcript is `$ COMMAND` and what it printed. With --run the commands are run first, in the project's folder, and the
transcripts written anew; with --check nothing is written, and a picture that is not the one of its transcript is an error.
"""

import argparse
import pathlib
import subprocess
import sys
from xml.sax.saxutils import escape

PICTURES = "docs/pictures"
COLUMN, LINE, TOP, LEFT = 8.4, 19, 44, 18
BARS = "▁▂▃▄▅▆▇█"
INK, DIM, PROMPT, BAR, GROUND = "#d8dee9", "#7f8a9c", "#8fbc8f", "#e0a458", "#1e222a"


def run(root: pathlib.Path, transcript: str) -> str:
    command = transcript.splitlines()[0].removeprefix("$ ")
    result = subprocess.run(["bash", "-c", command], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            timeout=300, stdin=subprocess.DEVNULL)
    if result.returncode != 0:
        sys.exit(f"terminal_svg: {command}: exit code {result.returncode}: {result.stdout}")
    return f"$ {command}\n" + "".join(line.rstrip() + "\n" for line in result.stdout.splitlines())


def colour(line: str) -> str:
    if line.startswith("$ "):
        return PROMPT
    return DIM if " t/s" in line or line.startswith("layer ") else INK


def pieces(line: str) -> list[tuple[int, str]]:
    """Runs of one kind of sign, each with its column: words with single blanks between them, or bars."""
    found: list[tuple[int, str]] = []
    for column, sign in enumerate(line):
        if sign == " ":
            continue
        if found:
            start, text = found[-1]
            blanks = column - start - len(text)
            if blanks <= 1 and (sign in BARS) == (text[0] in BARS) and not (blanks and sign in BARS):
                found[-1] = (start, text + " " * blanks + sign)
                continue
        found.append((column, sign))
    return found


def draw_piece(column: int, text: str, y: float, ink: str) -> str:
    x = LEFT + column * COLUMN
    if text[0] in BARS:
        bars = [(i, LINE * (BARS.index(sign) + 1) / 9) for i, sign in enumerate(text)]
        return "".join(f'<rect x="{x + i * COLUMN + 1:.1f}" y="{y + 4 - height:.1f}" width="{COLUMN - 2:.1f}" '
                       f'height="{height:.1f}" fill="{BAR}"/>' for i, height in bars)
    return (f'<text x="{x:.1f}" y="{y}" fill="{ink}" textLength="{len(text) * COLUMN:.1f}" '
            f'lengthAdjust="spacingAndGlyphs">{escape(text)}</text>')


def draw(transcript: str) -> str:
    lines = transcript.splitlines()
    width, height = LEFT * 2 + max(map(len, lines)) * COLUMN, TOP + len(lines) * LINE
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" font-size="14" '
             'font-family="ui-monospace, Menlo, Consolas, \'DejaVu Sans Mono\', monospace">',
             f"<title>{escape(lines[0])}</title>",
             f'<rect width="100%" height="100%" rx="8" fill="{GROUND}"/>']
    parts += [f'<circle cx="{LEFT + 4 + 20 * i}" cy="17" r="6" fill="{ink}"/>' for i, ink in enumerate(("#e06c75", "#e5c07b", "#98c379"))]
    for number, line in enumerate(lines):
        parts += [draw_piece(column, text, TOP + number * LINE, colour(line)) for column, text in pieces(line)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--run", action="store_true", help="run the commands, and write the transcripts anew")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()
    root, stale = arguments.root.resolve(), []
    for path in sorted((root / PICTURES).glob("*.txt")):
        if arguments.run:
            path.write_text(run(root, path.read_text(encoding="utf-8")), encoding="utf-8")
        picture, drawn = path.with_suffix(".svg"), draw(path.read_text(encoding="utf-8"))
        if not arguments.check:
            picture.write_text(drawn, encoding="utf-8")
        elif not picture.is_file() or picture.read_text(encoding="utf-8") != drawn:
            stale.append(picture.relative_to(root).as_posix())
    for name in stale:
        print(f"{name} is not the picture of its transcript (python3 scripts/terminal_svg.py draws it)", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
