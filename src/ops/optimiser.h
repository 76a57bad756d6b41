#pragma once

#include <cstdint>

#include "kernels/training.h"

// What an optimiser does to a piece of a parameter, on one thread, with the kernels of this CPU (kernels::select).
namespace coterie::ops {

using kernels::AdamWTask;

/// One step of AdamW; the task says how.
void adamw(const AdamWTask& task);

/// Σ x² of n values, in f64, in one order fixed by (instruction set, n).
double sum_of_squares(const float* x, int64_t n);

}  // namespace coterie::ops
