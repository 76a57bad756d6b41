#include "runtime/ranks/expert_ranks.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "ops/moe/plan.h"

namespace coterie::runtime {

namespace {

using comm::Awaited;
using comm::Kind;

/// The first values of a message of rows.
struct Shape {
  int64_t rows, width, slots;
  int64_t experts;  // that are asked: those with slots
};

constexpr int64_t padded(int64_t bytes) { return (bytes + 7) / 8 * 8; }
constexpr auto kFloat = static_cast<int64_t>(sizeof(float)), kId = static_cast<int64_t>(sizeof(int32_t));

}  // namespace

int64_t rows_payload(int64_t rows, int64_t width, int64_t slots, int64_t experts) {
  return static_cast<int64_t>(sizeof(Shape)) + padded(experts * kId) + padded((experts + 1) * kId) +
         padded(slots * kId) + padded(rows * width * kFloat);
}

int64_t outputs_payload(int64_t slots, int64_t width) { return padded(slots * width * kFloat); }

/// One layer's experts for the rows that are at home here.
class ExpertRanks::Lease final : public layers::ExpertLease {
 public:
  Lease(ExpertRanks& owner, const layers::ExpertCall& call)
      : owner_(owner),
        call_(call),
        awaited_{Kind::outputs, owner.inbox_.step(), call.layer},
        answers_(static_cast<size_t>(owner.ranks_.size())),
        questions_(answers_),
        asked_(answers_.size()) {
    const int64_t experts = call.plan.experts();
    const int here = owner.ranks_.rank();
    for (int64_t e = 0; e < experts; ++e)
      if (!call.plan.tokens_of(e).empty())
        asked_[static_cast<size_t>(owner.placement_.computes(here, call.layer, e, experts))].push_back(
            static_cast<int32_t>(e));
    for (int r = 0; r < owner.ranks_.size(); ++r) {
      if (r == here) continue;
      const bool asks = !asked_[static_cast<size_t>(r)].empty();
      answers_[static_cast<size_t>(r)] = asks;
      questions_[static_cast<size_t>(r)] = owner.divided_;
      if (asks || owner.divided_) send_rows(r);
    }
  }

  std::span<const int32_t> next() override {
    return std::exchange(handed_out_, true) ? std::span<const int32_t>()
                                            : asked_[static_cast<size_t>(owner_.ranks_.rank())];
  }
  std::span<const ops::ExpertInput> inputs() const override { return call_.inputs; }
  std::span<const ops::ExpertOutput> outputs() const override { return call_.outputs; }

  void add_outputs(tensor::Matrix out) override {
    while (true) {
      std::vector<char> waiting(answers_);
      for (size_t r = 0; r < waiting.size(); ++r) waiting[r] |= questions_[r];
      if (std::count(waiting.begin(), waiting.end(), 0) == std::ssize(waiting)) return;
      comm::Message message = owner_.inbox_.take(waiting, awaited_, [&](const comm::Message& m) {
        const auto from = static_cast<size_t>(m.from());
        const Kind kind = m.header().kind;
        return m.header().layer == call_.layer &&
               ((kind == Kind::outputs && answers_[from]) || (kind == Kind::rows && questions_[from]));
      });
      const auto from = static_cast<size_t>(message.from());
      if (message.header().kind == Kind::rows) {
        answer(owner_.ranks_, message, owner_.compute_, call_.plan.experts());
        questions_[from] = 0;
      } else {
        const float* values = message.array<float>(static_cast<size_t>(slots_of(message.from()) * out.cols)).data();
        for (const int32_t e : asked_[from])
          for (int64_t s = begin_of(e); s < begin_of(e + 1); ++s, values += out.cols)
            std::copy_n(values, out.cols, out.row(s));
        answers_[from] = 0;
      }
    }
  }

 private:
  // Slots are in the order of the experts.
  int64_t begin_of(int64_t expert) const { return call_.plan.expert_offset[static_cast<size_t>(expert)]; }
  int64_t slots_of(int rank) const {
    int64_t slots = 0;
    for (const int32_t e : asked_[static_cast<size_t>(rank)]) slots += begin_of(e + 1) - begin_of(e);
    return slots;
  }

  void send_rows(int to) {
    const ops::RoutingPlan& plan = call_.plan;
    const std::vector<int32_t>& experts = asked_[static_cast<size_t>(to)];
    const int64_t slots = slots_of(to), count = std::ssize(experts);
    // Each token once, in order.
    std::vector<int32_t> row_of(static_cast<size_t>(plan.tokens), -1);
    for (const int32_t e : experts)
      for (const int32_t t : plan.tokens_of(e)) row_of[static_cast<size_t>(t)] = 0;
    int32_t rows = 0;
    for (int32_t& row : row_of)
      if (row == 0) row = rows++;

    const int64_t width = call_.x.cols;
    comm::Writer message(Kind::rows, awaited_.step, awaited_.layer,
                         static_cast<size_t>(rows_payload(rows, width, slots, count)));
    message.value(Shape{rows, width, slots, count});
    message.array(std::span<const int32_t>(experts));
    auto* offset = message.room<int32_t>(static_cast<size_t>(count) + 1);
    int32_t at = 0;
    for (const int32_t e : experts) *offset++ = at, at += static_cast<int32_t>(begin_of(e + 1) - begin_of(e));
    *offset = at;
    auto* slot_row = message.room<int32_t>(static_cast<size_t>(slots));
    for (const int32_t e : experts)
      for (const int32_t t : plan.tokens_of(e)) *slot_row++ = row_of[static_cast<size_t>(t)];
    auto* values = message.room<float>(static_cast<size_t>(rows * width));
    for (int64_t t = 0; t < plan.tokens; ++t)
      if (const int32_t row = row_of[static_cast<size_t>(t)]; row >= 0)
        std::copy_n(call_.x.row(t), width, values + row * width);
    owner_.ranks_.send(to, std::move(message));
  }

  ExpertRanks& owner_;
  const layers::ExpertCall call_;
  Awaited awaited_;
  std::vector<char> answers_, questions_;    // [R] that are still to come
  std::vector<std::vector<int32_t>> asked_;  // [R]: experts with tokens that each of them computes
  bool handed_out_ = false;
};

ExpertRanks::ExpertRanks(comm::Ranks& ranks, comm::Inbox& inbox, const ExpertPlacement& placement, bool divided,
                         ComputeExperts compute)
    : ranks_(ranks), inbox_(inbox), placement_(placement), divided_(divided), compute_(std::move(compute)) {}

std::unique_ptr<layers::ExpertLease> ExpertRanks::lease(const layers::ExpertCall& call) {
  return std::make_unique<Lease>(*this, call);
}

void answer(comm::Ranks& ranks, comm::Message& message, const ComputeExperts& compute, int64_t experts) {
  const auto shape = message.value<Shape>();
  base::require(
      shape.rows >= 0 && shape.width > 0 && shape.slots >= 0 && shape.experts >= 0 && shape.experts <= experts, "ranks",
      "rank {} asks for {} experts of {}", message.from(), shape.experts, experts);
  const std::span<const int32_t> asked = message.array<int32_t>(static_cast<size_t>(shape.experts));
  const std::span<const int32_t> offset = message.array<int32_t>(static_cast<size_t>(shape.experts) + 1);
  const std::span<const int32_t> slot_row = message.array<int32_t>(static_cast<size_t>(shape.slots));
  const std::span<const float> values = message.array<float>(static_cast<size_t>(shape.rows * shape.width));
  base::require(offset.front() == 0 && offset.back() == shape.slots && std::is_sorted(offset.begin(), offset.end()),
                "ranks", "rank {} sent a plan of {} slots that is none", message.from(), shape.slots);
  for (size_t i = 0; i < asked.size(); ++i)
    base::require(asked[i] >= 0 && asked[i] < experts && (i == 0 || asked[i] > asked[i - 1]), "ranks",
                  "rank {} asks for expert {} of {}", message.from(), asked[i], experts);
  for (const int32_t row : slot_row)
    base::require(row >= 0 && row < shape.rows, "ranks", "rank {} sent a slot of row {} of {}", message.from(), row,
                  shape.rows);

  ops::RoutingPlan plan;
  plan.tokens = shape.rows;
  plan.expert_offset.assign(static_cast<size_t>(experts) + 1, 0);
  const std::vector<int32_t> ids(asked.begin(), asked.end());
  for (size_t e = 0, next = 0; e < static_cast<size_t>(experts); ++e) {
    if (next < ids.size() && static_cast<size_t>(ids[next]) == e) ++next;
    plan.expert_offset[e + 1] = offset[next];
  }
  plan.slot_token.assign(slot_row.begin(), slot_row.end());

  if (shape.slots == 0) return;
  const comm::Header& header = message.header();
  comm::Writer outputs(Kind::outputs, header.step, header.layer,
                       static_cast<size_t>(outputs_payload(shape.slots, shape.width)));
  auto* out = outputs.room<float>(static_cast<size_t>(shape.slots * shape.width));
  compute(header.layer, {values.data(), shape.rows, shape.width}, plan, ids, {out, shape.slots, shape.width});
  ranks.send(message.from(), std::move(outputs));
}

}  // namespace coterie::runtime
