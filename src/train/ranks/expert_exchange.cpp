#include "train/ranks/expert_exchange.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "ops/moe/experts_share.h"
#include "ops/moe/plan_part.h"

namespace coterie::train {

namespace {

using comm::Kind;
using comm::Message;
using ops::ConstMatrix;
using ops::Matrix;

/// The first values of a message of rows.
struct RowsHead {
  int64_t rows, width, slots;
  int64_t first, experts;  // those of the owner
  int64_t named;           // 1: the rows are named, for what is dropped
};

void copy_rows(ConstMatrix from, float* to) {
  for (int64_t r = 0; r < from.rows; ++r, to += from.cols) std::copy_n(from.row(r), from.cols, to);
}

}  // namespace

/// One layer's experts from the forward pass until its backward pass is done.
class ExpertExchange::Layer final : public ops::ExpertsElsewhere {
 public:
  Layer(Team& team, tensor::Arena& kept, const layers::ExpertCall& call, const layers::ExpertWork& work)
      : team_(team),
        kept_(kept),
        layer_(call.layer),
        inputs_(call.inputs.begin(), call.inputs.end()),
        outputs_(call.outputs.begin(), call.outputs.end()),
        work_(work),
        here_(team.rank()),
        size_(team.size()) {}

  void outputs(const ops::Context& context, ConstMatrix x, const ops::RoutingPlan& plan, bool keep,
               Matrix out) override {
    mark_ = kept_.mark();
    parts_.clear(), shares_.clear(), rows_.clear();
    shares_.resize(static_cast<size_t>(size_)), rows_.resize(static_cast<size_t>(size_));
    const comm::Placement placement{size_};
    const auto experts = std::ssize(inputs_);
    for (int r = 0; r < size_; ++r)
      parts_.push_back(ops::part_of_plan(plan, placement.first(r, experts), placement.end(r, experts)));
    for (int r = 0; r < size_; ++r)
      if (r != here_) send_rows(r, x, placement);
    {
      const ops::PlanPart& own = parts_[static_cast<size_t>(here_)];
      const tensor::ArenaScope scratch(context.arena);
      const Matrix read = context.arena.matrix(own.rows(), x.cols);
      std::vector<ops::DropoutRow> names;
      for (int64_t r = 0; r < read.rows; ++r) {
        const auto token = own.token[static_cast<size_t>(r)];
        std::copy_n(x.row(token), x.cols, read.row(r));
        if (work_.dropped.rate > 0) names.push_back(work_.dropped.rows[static_cast<size_t>(token)]);
      }
      share(here_, own.expert_offset, own.slot_row, own.rows(), placement.first(here_, experts), names)
          .forward(context, read, keep ? &kept_ : nullptr, out.row_range(own.first_slot, own.end_slot));
    }
    std::vector<char> asked = others(), answered = others();
    while (any(asked) || any(answered)) {
      Message message = take(Kind::rows, asked, Kind::outputs, answered);
      const auto from = static_cast<size_t>(message.from());
      if (message.header().kind == Kind::rows) {
        answer_rows(context, message, keep);
        asked[from] = 0;
      } else {
        const ops::PlanPart& part = parts_[from];
        const float* values = message.array<float>(static_cast<size_t>(part.slots() * out.cols)).data();
        for (int64_t s = part.first_slot; s < part.end_slot; ++s, values += out.cols)
          std::copy_n(values, out.cols, out.row(s));
        answered[from] = 0;
      }
    }
  }

  void gradients(ops::Reverse& back, const ops::RoutingPlan& plan, ConstMatrix dy, float* weight_gradient,
                 Matrix parts) override {
    for (int r = 0; r < size_; ++r)
      if (r != here_) send_gradients(r, plan, dy);
    std::vector<ConstMatrix> dys(static_cast<size_t>(size_));
    {
      const ops::PlanPart& own = parts_[static_cast<size_t>(here_)];
      const Matrix of_rows = back.context().arena.matrix(own.rows(), dy.cols);
      for (int64_t r = 0; r < of_rows.rows; ++r)
        std::copy_n(dy.row(own.token[static_cast<size_t>(r)]), dy.cols, of_rows.row(r));
      shares_[static_cast<size_t>(here_)]->row_gradients(
          back, of_rows,
          std::span(plan.slot_weight).subspan(static_cast<size_t>(own.first_slot), static_cast<size_t>(own.slots())),
          weight_gradient + own.first_slot, parts.row_range(own.first_slot, own.end_slot));
    }
    std::vector<char> asked = others(), answered = others();
    std::deque<Message> gradients;  // whose rows the shares still read
    const auto put = [&](Message& message) {
      const auto from = static_cast<size_t>(message.from());
      const ops::PlanPart& part = parts_[from];
      const std::span<const float> weights = message.array<float>(static_cast<size_t>(part.slots()));
      std::copy(weights.begin(), weights.end(), weight_gradient + part.first_slot);
      const float* values = message.array<float>(static_cast<size_t>(part.slots() * parts.cols)).data();
      for (int64_t s = part.first_slot; s < part.end_slot; ++s, values += parts.cols)
        std::copy_n(values, parts.cols, parts.row(s));
      answered[from] = 0;
    };
    while (any(asked)) {
      Message message = take(Kind::gradients, asked, Kind::input_gradients, answered);
      if (message.header().kind == Kind::input_gradients) {
        put(message);
        continue;
      }
      asked[static_cast<size_t>(message.from())] = 0;
      answer_gradients(back, gradients.emplace_back(std::move(message)), dy.cols, parts.cols);
    }
    // While the others' answers travel. In the order of the ranks, which is that of the samples.
    for (std::optional<ops::ExpertsShare>& one : shares_) one->weight_gradients();
    while (any(answered)) {
      Message message = take(Kind::gradients, asked, Kind::input_gradients, answered);
      put(message);
    }
    shares_.clear();
    kept_.release(mark_);
  }

 private:
  std::vector<char> others() const {
    std::vector<char> all(static_cast<size_t>(size_), 1);
    all[static_cast<size_t>(here_)] = 0;
    return all;
  }
  static bool any(const std::vector<char>& of) { return std::find(of.begin(), of.end(), 1) != of.end(); }

  // The next message of this layer that is a question of those who have not asked, or an answer that is missing.
  Message take(Kind question, const std::vector<char>& asked, Kind answer, const std::vector<char>& answered) {
    std::vector<char> waiting(asked);
    for (size_t r = 0; r < waiting.size(); ++r) waiting[r] |= answered[r];
    comm::Inbox& inbox = team_.inbox();
    const Kind awaited = any(asked) ? question : answer;
    return inbox.take(waiting, {awaited, inbox.step(), layer_}, [&](const Message& m) {
      const auto from = static_cast<size_t>(m.from());
      const Kind kind = m.header().kind;
      return m.header().layer == layer_ && ((kind == question && asked[from]) || (kind == answer && answered[from]));
    });
  }

  ops::ExpertsShare& share(int of, std::span<const int32_t> expert_offset, std::span<const int32_t> slot_row,
                           int64_t rows, int64_t first, std::span<const ops::DropoutRow> names) {
    ops::ExpertDropout dropped = work_.dropped;
    // The names live as long as the share.
    rows_[static_cast<size_t>(of)].assign(names.begin(), names.end());
    dropped.rows = rows_[static_cast<size_t>(of)];
    return shares_[static_cast<size_t>(of)].emplace(
        ops::plan_of_part(expert_offset, slot_row, rows, first, std::ssize(inputs_)), inputs_, outputs_, work_.rule,
        work_.hidden, dropped);
  }

  void send_rows(int to, ConstMatrix x, const comm::Placement& placement) {
    const ops::PlanPart& part = parts_[static_cast<size_t>(to)];
    const int64_t first = placement.first(to, std::ssize(inputs_));
    comm::Writer message(Kind::rows, team_.inbox().step(), layer_,
                         static_cast<size_t>(part.rows() * x.cols + part.slots()) * sizeof(float) + 256);
    const bool named = work_.dropped.rate > 0;
    message.value(RowsHead{part.rows(), x.cols, part.slots(), first, std::ssize(part.expert_offset) - 1, named});
    message.array(std::span(part.expert_offset));
    message.array(std::span(part.slot_row));
    auto* values = message.room<float>(static_cast<size_t>(part.rows() * x.cols));
    for (const int32_t token : part.token) values = std::copy_n(x.row(token), x.cols, values);
    if (named) {
      auto* names = message.room<ops::DropoutRow>(part.token.size());
      for (const int32_t token : part.token) *names++ = work_.dropped.rows[static_cast<size_t>(token)];
    }
    team_.ranks().send(to, std::move(message));
  }

  void answer_rows(const ops::Context& context, Message& message, bool keep) {
    const auto head = message.value<RowsHead>();
    base::require(head.rows >= 0 && head.width > 0 && head.slots >= 0 && head.experts >= 0, "ranks",
                  "rank {} sent {} rows of {} for {} slots of {} experts", message.from(), head.rows, head.width,
                  head.slots, head.experts);
    const auto expert_offset = message.array<int32_t>(static_cast<size_t>(head.experts) + 1);
    const auto slot_row = message.array<int32_t>(static_cast<size_t>(head.slots));
    const auto values = message.array<float>(static_cast<size_t>(head.rows * head.width));
    std::span<const ops::DropoutRow> names;
    if (head.named) names = message.array<ops::DropoutRow>(static_cast<size_t>(head.rows));
    comm::Writer answer(Kind::outputs, team_.inbox().step(), layer_,
                        static_cast<size_t>(head.slots * head.width) * sizeof(float) + 8);
    auto* out = answer.room<float>(static_cast<size_t>(head.slots * head.width));
    share(message.from(), expert_offset, slot_row, head.rows, head.first, names)
        .forward(context, {values.data(), head.rows, head.width}, keep ? &kept_ : nullptr,
                 {out, head.slots, head.width});
    team_.ranks().send(message.from(), std::move(answer));
  }

  void send_gradients(int to, const ops::RoutingPlan& plan, ConstMatrix dy) {
    const ops::PlanPart& part = parts_[static_cast<size_t>(to)];
    comm::Writer message(Kind::gradients, team_.inbox().step(), layer_,
                         static_cast<size_t>(part.rows() * dy.cols + part.slots()) * sizeof(float) + 64);
    message.value(int64_t{part.rows()}), message.value(int64_t{part.slots()});
    message.array(
        std::span(plan.slot_weight).subspan(static_cast<size_t>(part.first_slot), static_cast<size_t>(part.slots())));
    auto* values = message.room<float>(static_cast<size_t>(part.rows() * dy.cols));
    for (const int32_t token : part.token) values = std::copy_n(dy.row(token), dy.cols, values);
    team_.ranks().send(to, std::move(message));
  }

  void answer_gradients(ops::Reverse& back, Message& message, int64_t dy_width, int64_t x_width) {
    const auto rows = message.value<int64_t>(), slots = message.value<int64_t>();
    const auto weights = message.array<float>(static_cast<size_t>(slots));
    const auto values = message.array<float>(static_cast<size_t>(rows * dy_width));
    comm::Writer answer(Kind::input_gradients, team_.inbox().step(), layer_,
                        static_cast<size_t>(slots * x_width + slots) * sizeof(float) + 16);
    std::vector<float> weight_gradient(static_cast<size_t>(slots));
    const Matrix parts = back.context().arena.matrix(slots, x_width);
    shares_[static_cast<size_t>(message.from())]->row_gradients(back, {values.data(), rows, dy_width}, weights,
                                                                weight_gradient.data(), parts);
    answer.array(std::span<const float>(weight_gradient));
    copy_rows(parts, answer.room<float>(static_cast<size_t>(slots * x_width)));
    team_.ranks().send(message.from(), std::move(answer));
  }

  Team& team_;
  tensor::Arena& kept_;
  tensor::Arena::Mark mark_ = {};
  int64_t layer_;
  std::vector<ops::ExpertInput> inputs_;
  std::vector<ops::ExpertOutput> outputs_;
  layers::ExpertWork work_;
  int here_, size_;
  std::vector<ops::PlanPart> parts_;                      // [R] of this rank's plan, by owner
  std::vector<std::optional<ops::ExpertsShare>> shares_;  // [R] this rank's experts, for the rows of each
  std::vector<std::vector<ops::DropoutRow>> rows_;        // [R]
};

void ExpertExchange::compute(ops::Context& context, const layers::ExpertCall& call, const layers::ExpertWork& work,
                             tensor::Matrix y) {
  ops::experts_elsewhere(context, call.x, call.plan, std::make_shared<Layer>(team_, kept_, call, work), y);
}

}  // namespace coterie::train
