#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ops/context.h"
#include "ops/moe/expert_weights.h"

namespace coterie::ops {

/// Rows [N, cols] as kernels read them: f32, or quantised to int8 in blocks, with what a kernel wants to know of a
/// block. They may lie anywhere, and are made once, on whichever machine has them first.
struct FormedRows {
  kernels::ActivationForm form = kernels::ActivationForm::floats;
  std::span<const std::byte* const> rows;
  int64_t cols = 0;

  int64_t count() const { return std::ssize(rows); }
};

/// Bytes of a row of `cols` values, which are whole blocks.
int64_t row_bytes(kernels::ActivationForm form, int64_t cols);

/// The form in which the first halves of the experts `ids` read rows of `cols`, in the context's precision. By the
/// types of their weights alone, which need not be here. `gated`: they have gates. Floats where experts differ, where
/// blocks do not divide the rows, and where a LoRA reads them too.
kernels::ActivationForm form_of_inputs(const Context& context, std::span<const ExpertInput> experts,
                                       std::span<const int32_t> ids, bool gated, int64_t cols);

/// Rows of x in this form: where they lie, or quantised, to the bits that a matmul of x would quantise to, in memory of
/// the context's arena.
FormedRows form_rows(Context& context, ConstMatrix x, kernels::ActivationForm form);

}  // namespace coterie::ops
