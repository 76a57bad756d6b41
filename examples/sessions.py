"""Two texts written together, from Python, through the C interface and nothing but the standard library.

    python sessions.py libcoterie.so MODEL [PROMPT [PROMPT]]
"""

import ctypes
import sys


class GenerateOptions(ctypes.Structure):
    """coterie_generate_options of coterie_c.h, field by field."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("max_tokens", ctypes.c_int64),
        ("top_k", ctypes.c_int64),
        ("repeat_last_n", ctypes.c_int64),
        ("seed", ctypes.c_uint64),
        ("temperature", ctypes.c_double),
        ("top_p", ctypes.c_double),
        ("min_p", ctypes.c_double),
        ("typical", ctypes.c_double),
        ("repeat_penalty", ctypes.c_double),
        ("presence_penalty", ctypes.c_double),
        ("frequency_penalty", ctypes.c_double),
        ("stop", ctypes.POINTER(ctypes.c_char_p)),
        ("stop_count", ctypes.c_size_t),
        ("bias_ids", ctypes.POINTER(ctypes.c_int32)),
        ("biases", ctypes.POINTER(ctypes.c_float)),
        ("bias_count", ctypes.c_size_t),
        ("ignore_end", ctypes.c_int32),
    ]


OK, TOO_SMALL, NOT_YET = 0, 8, 0


class Coterie:
    """The library, with its statuses as exceptions."""

    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        self.c.coterie_version.restype = ctypes.c_char_p
        self.c.coterie_last_error.restype = ctypes.c_char_p
        self.c.coterie_session_length.restype = ctypes.c_int64

    def call(self, name, *arguments):
        if getattr(self.c, "coterie_" + name)(*arguments) != OK:
            raise RuntimeError(self.c.coterie_last_error().decode())

    def array(self, kind, name, *arguments):
        """What a function that fills an array gives: asked for the size first."""
        count = ctypes.c_size_t()
        status = getattr(self.c, "coterie_" + name)(*arguments, None, ctypes.c_size_t(0), ctypes.byref(count))
        if status not in (OK, TOO_SMALL):
            raise RuntimeError(self.c.coterie_last_error().decode())
        values = (kind * count.value)()
        self.call(name, *arguments, values, count, ctypes.byref(count))
        return values


def main(library, model_path, prompts):
    coterie = Coterie(library)
    model = ctypes.c_void_p()
    coterie.call("model_load", model_path.encode(), None, ctypes.byref(model))

    options = GenerateOptions()
    coterie.c.coterie_generate_defaults(ctypes.byref(options), ctypes.c_size_t(ctypes.sizeof(options)))
    options.temperature, options.max_tokens = 0, 24

    sessions = (ctypes.c_void_p * len(prompts))()
    for i, prompt in enumerate(prompts):
        session = ctypes.c_void_p()
        coterie.call("session_new", model, ctypes.byref(session))
        ids = coterie.array(ctypes.c_int32, "tokenize", model, prompt.encode(), ctypes.c_int32(1))
        coterie.call("session_start", session, ids, ctypes.c_size_t(len(ids)), ctypes.byref(options), None, None)
        sessions[i] = session

    # One step moves both on, and reads the weights once.
    while any(coterie.c.coterie_session_finish(ctypes.c_void_p(s)) == NOT_YET for s in sessions):
        coterie.call("step", sessions, ctypes.c_size_t(len(prompts)))

    for prompt, session in zip(prompts, sessions):
        coterie.call("session_error", ctypes.c_void_p(session))
        text = bytes(coterie.array(ctypes.c_char, "session_text", ctypes.c_void_p(session)))
        print(prompt + text.decode())
        coterie.c.coterie_session_free(ctypes.c_void_p(session))
    coterie.c.coterie_model_free(model)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        main(sys.argv[1], sys.argv[2], sys.argv[3:] or ["Once upon a time", "The little dog"])
    except RuntimeError as error:
        sys.exit(f"sessions.py: {error}")
