#!/usr/bin/env python3
"""Writes src/quant/grid_codes.h: the codebooks of the iq1, iq2 and iq3 formats, which are facts of the format, as gguf-py
has them. Needs `pip install gguf numpy` (made with gguf 0.19).  usage: make_grids.py > src/quant/grid_codes.h"""
import numpy as np
from gguf import quants

print("""#pragma once

#include <array>
#include <cstdint>

// The codebooks of the iq1, iq2 and iq3 formats: written by scripts/make_grids.py from those of gguf-py (quants.py), not
// by hand. An entry holds the codes of its values, the first in the lowest bits: eight of 2 bits for iq1 and iq2, four of
// 4 bits for iq3. What a code stands for: quant/grids.h.
namespace coterie::quant {
""")
for name, kind in [("Iq2xxs", quants.IQ2_XXS), ("Iq2xs", quants.IQ2_XS), ("Iq2s", quants.IQ2_S),
                   ("Iq3xxs", quants.IQ3_XXS), ("Iq3s", quants.IQ3_S), ("Iq1", quants.IQ1_S)]:
    kind.init_grid()
    grid = kind.grid.reshape(kind.grid_shape)
    codes = np.searchsorted(np.array(kind.grid_map, dtype=np.float32), grid)
    bits = 16 // grid.shape[1]
    words = [sum(int(code) << (bits * i) for i, code in enumerate(row)) for row in codes]
    print(f"inline constexpr std::array<uint16_t, {len(words)}> k{name}Codes = {{")
    print(",\n".join("    " + ", ".join(f"0x{word:04x}" for word in words[at:at + 14])
                     for at in range(0, len(words), 14)) + "};")
print("\n}  // namespace coterie::quant")
