#!/usr/bin/env python3
"""Makes data/: random blocks of every format with the values gguf-py decodes from them, and a row of values with the
bytes gguf-py encodes it to. Needs `pip install gguf numpy` (made with gguf 0.19, numpy 2.4)."""
import pathlib

import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

out = pathlib.Path(__file__).parent / "data"
rng = np.random.default_rng(3)
HALVES = {  # where the half-precision scales lie in a block
    "q4_0": [0], "q4_1": [0, 2], "q5_0": [0], "q5_1": [0, 2], "q8_0": [0], "q2_k": [80, 82], "q3_k": [108],
    "q4_k": [0, 2], "q5_k": [0, 2], "q6_k": [208], "iq4_nl": [0], "iq4_xs": [0], "mxfp4": []}
GRIDS = {"iq2_xxs": [0], "iq2_xs": [0], "iq2_s": [0], "iq3_xxs": [0], "iq3_s": [0], "iq1_s": [0], "iq1_m": [],
         "tq1_0": [52], "tq2_0": [64]}


def write_blocks(name, halves, rng):
    kind = Q[name.upper()]
    values, size = GGML_QUANT_SIZES[kind]
    count = 12 if values == 32 else 3
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at in halves:  # finite scales of every size: normal, subnormal, negative, zero
        scales = (rng.standard_normal(count) * 10.0 ** rng.integers(-7, 2, count)).astype(np.float16)
        scales[0] = 0 if at == halves[0] else scales[0]
        blocks[:, at:at + 2] = scales[:, None].view(np.uint8)
    if name == "iq1_m":  # the top nibbles of its last four words
        words = blocks[:, 48:].view("<u2")
        scales = (rng.standard_normal(count) * 10.0 ** rng.integers(-7, 2, count)).astype(np.float16).view("<u2")
        words[:] = (words & 0x0fff) | ((scales[:, None] >> np.array([0, 4, 8, 12]) & 15) << 12).astype("<u2")
    if name == "mxfp4":
        blocks[:4, 0] = [0, 1, 2, 254]  # subnormal scales and the largest
    (out / f"{name}.blocks").write_bytes(blocks.tobytes())
    decoded = np.asarray(dequantize(blocks.reshape(1, -1), kind), dtype=np.float32)
    (out / f"{name}.values").write_bytes(decoded.tobytes())


for name, halves in HALVES.items():
    write_blocks(name, halves, rng)
for name, halves in GRIDS.items():
    write_blocks(name, halves, np.random.default_rng(list(name.encode())))

rows = [rng.standard_normal(256) * 0.02, rng.standard_t(3, 256), np.zeros(32), np.full(32, 0.5), -np.arange(32.0),
        2.0 ** np.arange(-16, 16), -(2.0 ** np.arange(-14, 18)) / 3, np.nextafter(2.0 ** np.arange(-20, 12), 0, dtype=np.float32)]
source = np.concatenate(rows).astype(np.float32)[None]
(out / "source.values").write_bytes(source.tobytes())
for name in ["f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "mxfp4"]:
    (out / f"source.{name}").write_bytes(np.asarray(quantize(source, Q[name.upper()])).tobytes())
