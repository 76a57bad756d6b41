#include "train/ranks/gathered_weights.h"

#include <algorithm>

#include "base/error.h"
#include "comm/placement.h"

namespace coterie::train {

using checkpoint::TensorToWrite;
using comm::Kind;
using models::Parameter;

void GatheredWeights::write_on_first(const std::function<void()>& write) {
  if (!team_.first()) return answer_first();
  write();
  for (int to = 1; to < team_.size(); ++to) {
    comm::Writer message(Kind::ask, team_.inbox().step(), -1);
    message.value(Question{What::done, 0, 0, 0});
    team_.ranks().send(to, std::move(message));
  }
}

void GatheredWeights::answer_first() {
  while (true) {
    comm::Message message = team_.inbox().take_whenever(
        [](const comm::Message& m) { return m.from() == 0 && m.header().kind == Kind::ask; });
    const auto asked = message.value<Question>();
    if (asked.what == What::done) return;
    const ValueRange range{static_cast<size_t>(asked.parameter), asked.begin, asked.end};
    const auto count = static_cast<size_t>(range.count());
    comm::Writer answer(Kind::values, team_.inbox().step(), -1, count * sizeof(float) + 8);
    answer.array(std::span(find(asked.what, range), count));
    team_.ranks().send(0, std::move(answer));
  }
}

const float* GatheredWeights::find(What what, const ValueRange& range) const {
  const Parameter& p = parameters_.list()[range.parameter];
  if (what == What::values) return p.values + (range.begin - p.begin());
  const std::span<const ValueRange> own = ownership_.of(team_.rank());
  for (size_t i = 0; i < own.size(); ++i) {
    if (own[i].parameter != range.parameter || range.begin < own[i].begin || range.end > own[i].end) continue;
    const AdamW::Moments moments = optimiser_.moments(i);
    return (what == What::first_moment ? moments.first : moments.second).data() + (range.begin - own[i].begin);
  }
  base::fail(base::ErrorKind::internal, p.path, "rank {} does not own values {} to {}", team_.rank(), range.begin,
             range.end);
}

void GatheredWeights::fetch(What what, int owner, const ValueRange& range,
                            const std::function<void(std::span<const float>)>& into) {
  constexpr int64_t kMost = 1 << 20;  // values of a message
  std::vector<char> missing(static_cast<size_t>(team_.size()));
  missing[static_cast<size_t>(owner)] = 1;
  for (int64_t begin = range.begin; begin < range.end; begin += kMost) {
    const ValueRange part{range.parameter, begin, std::min(begin + kMost, range.end)};
    const auto count = static_cast<size_t>(part.count());
    if (owner == team_.rank()) {
      into({find(what, part), count});
      continue;
    }
    comm::Writer message(Kind::ask, team_.inbox().step(), -1);
    message.value(Question{what, static_cast<int64_t>(part.parameter), part.begin, part.end});
    team_.ranks().send(owner, std::move(message));
    comm::Message answer = team_.inbox().take(
        missing, {Kind::values, team_.inbox().step(), -1},
        [&](const comm::Message& m) { return m.from() == owner && m.header().kind == Kind::values; });
    into(answer.array<float>(count));
  }
}

families::ReadExpert GatheredWeights::reader() {
  return [this](const std::string& path, int64_t expert, std::span<float> into) {
    const std::span<const Parameter> list = parameters_.list();
    const auto found = std::find_if(list.begin(), list.end(), [&](const Parameter& p) { return p.path == path; });
    base::require(found != list.end() && found->of_expert() == std::ssize(into), "ranks", "{}: {} values of expert {}",
                  path, into.size(), expert);
    const ValueRange range{static_cast<size_t>(found - list.begin()), expert * found->of_expert(),
                           (expert + 1) * found->of_expert()};
    float* to = into.data();
    fetch(What::values, comm::Placement{team_.size()}.owner(expert, found->experts), range,
          [&](std::span<const float> values) { to = std::copy(values.begin(), values.end(), to); });
  };
}

std::vector<TensorToWrite> GatheredWeights::moments() {
  std::vector<TensorToWrite> result;
  const std::span<const Parameter> list = parameters_.list();
  for (size_t i = 0; i < list.size(); ++i) {
    if (!list[i].trained) continue;
    for (const auto& [what, name] :
         {std::pair(What::first_moment, "first_moment."), std::pair(What::second_moment, "second_moment.")})
      result.push_back({name + list[i].path, tensor::DType::f32, {list[i].whole()}, [this, i, what](const auto& write) {
                          for (const auto& [rank, range] : ownership_.of_parameter(i))
                            fetch(what, rank, range,
                                  [&](std::span<const float> values) { write(std::as_bytes(values)); });
                        }});
  }
  return result;
}

void GatheredWeights::fetch_into_memory(bool matrices) {
  const std::span<const Parameter> list = parameters_.list();
  for (size_t i = 0; i < list.size(); ++i) {
    const Parameter& p = list[i];
    if (!p.trained || p.experts == 0 || (p.matrix && !matrices)) continue;
    for (const auto& [rank, range] : ownership_.of_parameter(i)) {
      if (rank == team_.rank()) continue;
      float* to = p.values - p.begin() + range.begin;
      fetch(What::values, rank, range,
            [&](std::span<const float> values) { to = std::copy(values.begin(), values.end(), to); });
    }
  }
}

}  // namespace coterie::train
