"""examples/sessions.py against libcoterie.so: both texts are written, and an error is one line.

    ctypes_test.py LIBRARY SOURCE
"""

import pathlib
import subprocess
import sys


def run(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=120)


library, source = sys.argv[1], pathlib.Path(sys.argv[2])
script = source / "examples" / "sessions.py"
model = source / "models" / "coterie-small.gguf"

both = run(script, library, model, "One day", "The dog was")
assert both.returncode == 0, both.stderr
alone = [run(script, library, model, prompt) for prompt in ("One day", "The dog was")]
assert both.stdout == "".join(each.stdout for each in alone), (both.stdout, [each.stdout for each in alone])
assert both.stdout.startswith("One day") and len(both.stdout) > 60, both.stdout

missing = run(script, library, "no such model")
assert missing.returncode == 1 and missing.stderr.startswith("sessions.py: no such model"), missing.stderr
