#include "ops/optimiser.h"

#include "kernels/table.h"

namespace coterie::ops {

namespace {
const kernels::TrainingKernels& selected() {
  static const kernels::TrainingKernels& kernels = kernels::select().training;
  return kernels;
}
}  // namespace

void adamw(const AdamWTask& task) { selected().adamw(task); }

double sum_of_squares(const float* x, int64_t n) { return selected().sum_of_squares(x, n); }

}  // namespace coterie::ops
