#include "train/not_finite.h"

#include <algorithm>
#include <cmath>

namespace coterie::train {

namespace {

bool all_finite(const float* values, int64_t count) {
  return std::all_of(values, values + count, [](float x) { return std::isfinite(x); });
}

}  // namespace

void FirstNotFinite::block(int64_t layer, tensor::ConstMatrix x) {
  if (layer_ >= 0) return;
  for (int64_t r = 0; r < x.rows; ++r)
    if (!all_finite(x.row(r), x.cols)) layer_ = layer;
}

std::string weight_not_finite(const models::Parameters& parameters) {
  for (const models::Parameter& p : parameters.list())
    if (!all_finite(p.values, p.count)) return p.path;
  return {};
}

std::string gradient_not_finite(const models::Parameters& parameters) {
  const auto list = parameters.list();
  for (auto p = list.rbegin(); p != list.rend(); ++p)
    if (p->trained && !all_finite(p->gradient, p->count)) return p->path;
  return {};
}

}  // namespace coterie::train
