#include "ops/moe/formed_rows.h"

#include <algorithm>

#include "base/error.h"
#include "ops/rows.h"

namespace coterie::ops {

using kernels::ActivationForm;

namespace {

int64_t block_values(ActivationForm form) {
  switch (form) {
    case ActivationForm::floats: return 1;
    case ActivationForm::blocks32: return 32;
    case ActivationForm::blocks256: return 256;
  }
  return 1;
}

int64_t block_bytes(ActivationForm form) {
  switch (form) {
    case ActivationForm::floats: return sizeof(float);
    case ActivationForm::blocks32: return sizeof(kernels::ActivationBlock32);
    case ActivationForm::blocks256: return sizeof(kernels::ActivationBlock256);
  }
  return 0;
}

}  // namespace

int64_t row_bytes(ActivationForm form, int64_t cols) {
  base::require(cols % block_values(form) == 0, "row_bytes", "{} values do not divide into blocks of {}", cols,
                block_values(form));
  return cols / block_values(form) * block_bytes(form);
}

ActivationForm form_of_inputs(const Context& context, std::span<const ExpertInput> experts,
                              std::span<const int32_t> ids, bool gated, int64_t cols) {
  if (context.precision != Precision::fast || ids.empty()) return ActivationForm::floats;
  const auto form_of = [&](const Weight& w) {
    return w.columns ? ActivationForm::floats : context.kernels.matmul.fast[static_cast<size_t>(w.dtype)].form;
  };
  const ActivationForm form = form_of(experts[static_cast<size_t>(ids.front())].up);
  if (cols % block_values(form) != 0) return ActivationForm::floats;
  for (const int32_t e : ids) {
    const ExpertInput& expert = experts[static_cast<size_t>(e)];
    if (expert.gate_low || expert.up_low || form_of(expert.up) != form || (gated && form_of(expert.gate) != form))
      return ActivationForm::floats;
  }
  return form;
}

FormedRows form_rows(Context& context, ConstMatrix x, ActivationForm form) {
  auto** const rows = context.arena.take<const std::byte*>(x.rows);
  const FormedRows formed{form, {rows, static_cast<size_t>(x.rows)}, x.cols};
  if (form == ActivationForm::floats) {
    for (int64_t r = 0; r < x.rows; ++r) rows[r] = reinterpret_cast<const std::byte*>(x.row(r));
    return formed;
  }
  const int64_t bytes = row_bytes(form, x.cols);
  auto* const blocks = context.arena.take<std::byte>(bytes * x.rows);
  const kernels::MatmulKernels& kernels = context.kernels.matmul;
  for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      std::byte* const row = blocks + r * bytes;
      rows[r] = row;
      if (form == ActivationForm::blocks32)
        kernels.quantise32(x.row(r), x.cols, reinterpret_cast<kernels::ActivationBlock32*>(row));
      else
        kernels.quantise256(x.row(r), x.cols, reinterpret_cast<kernels::ActivationBlock256*>(row));
    }
  });
  return formed;
}

}  // namespace coterie::ops
