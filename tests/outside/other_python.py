"""Of tests that need packages which the Python that runs the tests may lack."""
import os
import sys


def other_python(missing):
    """Begins again with the Python of COTERIE_REFERENCE_PYTHON; exit code 77 where that is none, or this one."""
    other = os.environ.get("COTERIE_REFERENCE_PYTHON", "")
    if other and os.path.abspath(other) != os.path.abspath(sys.executable):
        os.execv(other, [other, *sys.argv])
    print(f"skipped: {missing}; COTERIE_REFERENCE_PYTHON may name a Python that has it")
    sys.exit(77)
