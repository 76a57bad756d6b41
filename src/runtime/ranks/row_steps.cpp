#include "runtime/ranks/row_steps.h"

#include <utility>
#include <vector>

namespace coterie::runtime {

using models::SequenceStep;

tensor::Matrix RowSteps::forward(ops::Context& context, std::span<const SequenceStep> given,
                                 const models::PassOptions& pass) {
  std::vector<SequenceStep> steps;
  for (const SequenceStep& step : given) {
    if (step.ids.empty()) continue;
    steps.push_back(step);
    steps.back().leaves = nullptr;  // all ranks would have to leave it between the same layers
  }
  if (steps.empty()) return decoder_.forward(context, given, pass);
  std::vector<const SequenceStep*> all;
  for (const SequenceStep& step : steps) all.push_back(&step);
  copies_.begin(all);
  for (int to = 1; to < ranks_.size(); ++to) {
    comm::Writer message(comm::Kind::step, inbox_.step(), -1);
    message.value(static_cast<int64_t>(pass.hidden));
    copies_.write(message, [&](size_t i) { return !copies_.exact(i); });
    ranks_.send(to, std::move(message));
  }
  ops::Context here = context;
  here.rows = &rows_;
  rows_.begin();
  const tensor::Matrix result = decoder_.forward(here, steps, pass);
  copies_.keep(inbox_.step(), true);
  return result;
}

void RowSteps::serve(ops::Context& context, comm::Message& message) {
  const auto hidden = message.value<int64_t>();
  const std::vector<SequenceStep> steps = copies_.read(message);
  ops::Context here = context;
  here.rows = &rows_;
  rows_.begin();
  decoder_.forward(here, steps, {.hidden = hidden != 0});
  copies_.keep_read(inbox_.step());
}

}  // namespace coterie::runtime
