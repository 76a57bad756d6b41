#pragma once

#include "kernels/matmul.h"

namespace coterie::kernels::avx512 {

/// One token by repacked rows, each panel as two halves in registers of 256 bits (avx512/matmul_halves.cpp).
void halves_q4_k(const MatmulTask& task) noexcept;
void halves_q5_k(const MatmulTask& task) noexcept;
void halves_q6_k(const MatmulTask& task) noexcept;

}  // namespace coterie::kernels::avx512
