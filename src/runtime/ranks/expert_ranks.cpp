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
  int64_t first, experts;  // those of the owner
};

constexpr int64_t padded(int64_t bytes) { return (bytes + 7) / 8 * 8; }
constexpr auto kFloat = static_cast<int64_t>(sizeof(float)), kId = static_cast<int64_t>(sizeof(int32_t));

}  // namespace

int64_t rows_payload(int64_t rows, int64_t width, int64_t slots, int64_t experts) {
  return static_cast<int64_t>(sizeof(Shape)) + padded((experts + 1) * kId) + padded(slots * kId) +
         padded(rows * width * kFloat);
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
        questions_(answers_) {
    const int64_t experts = call.plan.experts();
    const int here = owner.ranks_.rank();
    for (int64_t e = owner.placement_.first(here, experts); e < owner.placement_.end(here, experts); ++e)
      if (!call.plan.tokens_of(e).empty()) here_.push_back(static_cast<int32_t>(e));
    for (int r = 0; r < owner.ranks_.size(); ++r) {
      if (r == here) continue;
      const auto [first, end] = slots_of(r);
      answers_[static_cast<size_t>(r)] = end > first;
      questions_[static_cast<size_t>(r)] = owner.divided_;
      if (end > first || owner.divided_) send_rows(r);
    }
  }

  std::span<const int32_t> next() override {
    return std::exchange(handed_out_, true) ? std::span<const int32_t>() : here_;
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
        const auto [first, end] = slots_of(message.from());
        const float* values = message.array<float>(static_cast<size_t>((end - first) * out.cols)).data();
        for (int64_t s = first; s < end; ++s, values += out.cols) std::copy_n(values, out.cols, out.row(s));
        answers_[from] = 0;
      }
    }
  }

 private:
  // Slots are in the order of the experts, so those of a rank are neighbours.
  std::pair<int64_t, int64_t> slots_of(int rank) const {
    const auto at = [&](int64_t expert) { return call_.plan.expert_offset[static_cast<size_t>(expert)]; };
    return {at(owner_.placement_.first(rank, call_.plan.experts())),
            at(owner_.placement_.end(rank, call_.plan.experts()))};
  }

  void send_rows(int to) {
    const ops::RoutingPlan& plan = call_.plan;
    const auto [begin, end] = slots_of(to);
    const int64_t first = owner_.placement_.first(to, plan.experts());
    const int64_t experts = owner_.placement_.end(to, plan.experts()) - first;
    // Each token once, in order.
    std::vector<int32_t> row_of(static_cast<size_t>(plan.tokens), -1);
    for (int64_t s = begin; s < end; ++s) row_of[static_cast<size_t>(plan.slot_token[static_cast<size_t>(s)])] = 0;
    int32_t rows = 0;
    for (int32_t& row : row_of)
      if (row == 0) row = rows++;

    const int64_t width = call_.x.cols;
    comm::Writer message(Kind::rows, awaited_.step, awaited_.layer,
                         static_cast<size_t>(rows_payload(rows, width, end - begin, experts)));
    message.value(Shape{rows, width, end - begin, first, experts});
    auto* offset = message.room<int32_t>(static_cast<size_t>(experts) + 1);
    for (int64_t e = 0; e <= experts; ++e)
      offset[e] = plan.expert_offset[static_cast<size_t>(first + e)] - static_cast<int32_t>(begin);
    auto* slot_row = message.room<int32_t>(static_cast<size_t>(end - begin));
    for (int64_t s = begin; s < end; ++s)
      slot_row[s - begin] = row_of[static_cast<size_t>(plan.slot_token[static_cast<size_t>(s)])];
    auto* values = message.room<float>(static_cast<size_t>(rows * width));
    for (int64_t t = 0; t < plan.tokens; ++t)
      if (const int32_t row = row_of[static_cast<size_t>(t)]; row >= 0)
        std::copy_n(call_.x.row(t), width, values + row * width);
    owner_.ranks_.send(to, std::move(message));
  }

  ExpertRanks& owner_;
  const layers::ExpertCall call_;
  Awaited awaited_;
  std::vector<char> answers_, questions_;  // [R] that are still to come
  std::vector<int32_t> here_;
  bool handed_out_ = false;
};

ExpertRanks::ExpertRanks(comm::Ranks& ranks, comm::Inbox& inbox, bool divided, ComputeExperts compute)
    : ranks_(ranks), inbox_(inbox), placement_{ranks.size()}, divided_(divided), compute_(std::move(compute)) {}

std::unique_ptr<layers::ExpertLease> ExpertRanks::lease(const layers::ExpertCall& call) {
  return std::make_unique<Lease>(*this, call);
}

void answer(comm::Ranks& ranks, comm::Message& message, const ComputeExperts& compute, int64_t experts) {
  const auto shape = message.value<Shape>();
  base::require(shape.rows >= 0 && shape.width > 0 && shape.slots >= 0 && shape.first >= 0 && shape.experts >= 0 &&
                    shape.first + shape.experts <= experts,
                "ranks", "rank {} asks for experts {} to {} of {}", message.from(), shape.first,
                shape.first + shape.experts, experts);
  const std::span<const int32_t> offset = message.array<int32_t>(static_cast<size_t>(shape.experts) + 1);
  const std::span<const int32_t> slot_row = message.array<int32_t>(static_cast<size_t>(shape.slots));
  const std::span<const float> values = message.array<float>(static_cast<size_t>(shape.rows * shape.width));
  base::require(offset.front() == 0 && offset.back() == shape.slots && std::is_sorted(offset.begin(), offset.end()),
                "ranks", "rank {} sent a plan of {} slots that is none", message.from(), shape.slots);
  for (const int32_t row : slot_row)
    base::require(row >= 0 && row < shape.rows, "ranks", "rank {} sent a slot of row {} of {}", message.from(), row,
                  shape.rows);

  ops::RoutingPlan plan;
  plan.tokens = shape.rows;
  plan.expert_offset.assign(static_cast<size_t>(experts) + 1, 0);
  std::vector<int32_t> ids;
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t own = std::clamp<int64_t>(e + 1 - shape.first, 0, shape.experts);
    plan.expert_offset[static_cast<size_t>(e) + 1] = offset[static_cast<size_t>(own)];
    if (plan.expert_offset[static_cast<size_t>(e) + 1] > plan.expert_offset[static_cast<size_t>(e)])
      ids.push_back(static_cast<int32_t>(e));
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
