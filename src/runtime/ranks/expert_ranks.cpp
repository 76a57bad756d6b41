#include "runtime/ranks/expert_ranks.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "base/error.h"
#include "ops/moe/plan.h"
#include "ops/rows.h"
#include "runtime/ranks/expert_messages.h"

namespace coterie::runtime {

namespace {

using comm::Awaited;
using comm::Kind;
using kernels::ActivationForm;

/// Slots of each thread that are computed before what they gave is sent: their outputs stay in the second cache until
/// they have been copied into the answers, which travel while the next are computed.
constexpr int64_t kSlotsAtOnce = 256;

/// Rows of one rank for experts of this one.
struct Asking {
  int64_t first_row = 0;                // among the rows of all
  std::span<const int32_t> asked;       // experts, rising
  std::span<const int32_t> begin, end;  // [asked]: slots of each
  std::span<const int32_t> slot_row;
  size_t next = 0;  // of `asked`
};

}  // namespace

/// One layer's experts for the rows that are at home here.
class ExpertRanks::Lease final : public layers::ExpertLease {
 public:
  Lease(ExpertRanks& owner, const layers::ExpertCall& call)
      : owner_(owner),
        call_(call),
        awaited_{Kind::outputs, owner.inbox_.step(), call.layer},
        answers_(static_cast<size_t>(owner.ranks_.size())),
        questions_(answers_),
        asked_(answers_.size()),
        answered_(answers_.size()) {
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
    // Of a divided step they are computed with those that others ask for.
    return owner_.divided_ || std::exchange(handed_out_, true) ? std::span<const int32_t>()
                                                               : asked_[static_cast<size_t>(owner_.ranks_.rank())];
  }
  std::span<const ops::ExpertInput> inputs() const override { return call_.inputs; }
  std::span<const ops::ExpertOutput> outputs() const override { return call_.outputs; }

  std::span<const float* const> add_outputs(tensor::Matrix out) override {
    rows_.resize(static_cast<size_t>(call_.plan.slots()));
    if (!owner_.divided_) {
      for (const int32_t e : asked_[static_cast<size_t>(owner_.ranks_.rank())])
        for (int64_t s = begin_of(e); s < begin_of(e + 1); ++s) rows_[static_cast<size_t>(s)] = out.row(s);
    } else {
      std::vector<comm::Message> questions;
      while (std::count(questions_.begin(), questions_.end(), 0) < std::ssize(questions_)) {
        questions.push_back(take(Kind::rows, questions_));
        questions_[static_cast<size_t>(questions.back().from())] = 0;
      }
      compute_together(questions);
    }
    while (std::count(answers_.begin(), answers_.end(), 0) < std::ssize(answers_))
      point_at(arrived_.emplace_back(take(Kind::outputs, answers_)), out.cols);
    return rows_;
  }

 private:
  // Slots are in the order of the experts.
  int64_t begin_of(int64_t expert) const { return call_.plan.expert_offset[static_cast<size_t>(expert)]; }
  int64_t slots_of(int rank) const {
    int64_t slots = 0;
    for (const int32_t e : asked_[static_cast<size_t>(rank)]) slots += begin_of(e + 1) - begin_of(e);
    return slots;
  }

  comm::Message take(Kind kind, std::span<const char> from) {
    return owner_.inbox_.take(from, {kind, awaited_.step, awaited_.layer}, [&](const comm::Message& m) {
      return m.header().layer == call_.layer && m.header().kind == kind && from[static_cast<size_t>(m.from())];
    });
  }

  // The rows of x, made once in each form that is wanted.
  const ops::FormedRows& rows_in(ActivationForm form) {
    auto& formed = formed_[static_cast<size_t>(form)];
    if (!formed) formed = ops::form_rows(owner_.context_, call_.x, form);
    return *formed;
  }
  ActivationForm form_of(std::span<const int32_t> experts) const {
    return ops::form_of_inputs(owner_.context_, call_.inputs, experts, call_.gated, call_.x.cols);
  }

  // An owner's answer comes in pieces, in the order of its slots.
  void point_at(comm::Message& message, int64_t width) {
    const auto from = static_cast<size_t>(message.from());
    Answered& to = answered_[from];
    const std::vector<int32_t>& experts = asked_[from];
    auto left = static_cast<int64_t>(message.left()) / (width * static_cast<int64_t>(sizeof(float)));
    const float* values = message.array<float>(static_cast<size_t>(left * width)).data();
    while (left > 0) {
      base::require(to.expert < experts.size(), "ranks", "rank {} sent more than it was asked for in layer {}",
                    message.from(), call_.layer);
      const int64_t e = experts[to.expert], slots = begin_of(e + 1) - begin_of(e),
                    count = std::min(left, slots - to.slot);
      for (int64_t s = 0; s < count; ++s, values += width)
        rows_[static_cast<size_t>(begin_of(e) + to.slot + s)] = values;
      left -= count, to.slot += count;
      if (to.slot == slots) ++to.expert, to.slot = 0;
    }
    answers_[from] = to.expert < experts.size();
  }

  // This rank's experts for the rows of all: each expert's weights are read once, and more rows at a time are faster
  // (512 rows on two ranks, AVX-512 and AMX, December 2026: docs/log.md).
  void compute_together(std::vector<comm::Message>& messages) {
    const int64_t experts = call_.plan.experts(), width = call_.x.cols;
    const std::vector<int32_t>& mine = asked_[static_cast<size_t>(owner_.ranks_.rank())];
    const ActivationForm own_form = form_of(mine);
    std::vector<Question> questions;
    for (comm::Message& message : messages) {
      const Question& question = questions.emplace_back(read_question(message, experts));
      base::require(question.shape.width == width, "ranks", "rank {} sent rows of {}, expected {}", message.from(),
                    question.shape.width, width);
    }
    std::vector<int32_t> begin, end;  // of own slots
    for (const int32_t e : mine)
      begin.push_back(static_cast<int32_t>(begin_of(e))), end.push_back(static_cast<int32_t>(begin_of(e + 1)));
    // Nearly always one: experts of a layer may be stored in different formats.
    for (int f = 0; f < kernels::kActivationForms; ++f) {
      const auto form = static_cast<ActivationForm>(f);
      Together together{.asking = {}, .of = {}, .rows = {}};
      if (!mine.empty() && own_form == form) {
        together.asking.push_back({0, mine, begin, end, call_.plan.slot_token});
        together.of.push_back(nullptr);
        const std::span<const std::byte* const> own = rows_in(form).rows;
        together.rows.assign(own.begin(), own.end());
      }
      for (const Question& question : questions) {
        if (question.shape.slots == 0 || question.form != form) continue;
        together.asking.push_back({std::ssize(together.rows), question.asked, question.offset,
                                   question.offset.subspan(1), question.slot_row});
        together.of.push_back(&question);
        for (int64_t r = 0; r < question.shape.rows; ++r) together.rows.push_back(question.row(r));
      }
      if (!together.asking.empty()) compute(together, form);
    }
  }

  /// Whose rows are computed in one go: this rank's (no question), then those of others.
  struct Together {
    std::vector<Asking> asking;
    std::vector<const Question*> of;
    std::vector<const std::byte*> rows;
  };

  void compute(Together& together, ActivationForm form) {
    const int64_t experts = call_.plan.experts(), most = kSlotsAtOnce * owner_.context_.pool.threads();
    for (int64_t first = 0, last = 0, slots = 0; first < experts; first = last, slots = 0) {
      std::vector<size_t> next;
      for (const Asking& one : together.asking) next.push_back(one.next);
      for (; last < experts && slots < most; ++last)
        for (size_t i = 0; i < next.size(); ++i) {
          const Asking& one = together.asking[i];
          if (next[i] < one.asked.size() && one.asked[next[i]] == last)
            slots += one.end[next[i]] - one.begin[next[i]], ++next[i];
        }
      if (slots > 0) compute_group(together, form, last);
    }
  }

  // Experts up to `last` that are still to come: slots by expert, and within it in the order of who asks.
  void compute_group(Together& together, ActivationForm form, int64_t last) {
    const int64_t width = call_.x.cols;
    ops::RoutingPlan plan;
    plan.tokens = std::ssize(together.rows);
    plan.expert_offset.assign(1, 0);
    std::vector<int32_t> ids;
    std::vector<std::pair<size_t, int64_t>> goes_to;  // who asks, and the slot of its plan, or its row of this answer
    std::vector<int64_t> counts(together.asking.size());
    for (int64_t e = 0; e < call_.plan.experts(); ++e) {
      for (size_t i = 0; e < last && i < together.asking.size(); ++i) {
        Asking& one = together.asking[i];
        if (one.next == one.asked.size() || one.asked[one.next] != e) continue;
        for (int32_t s = one.begin[one.next]; s < one.end[one.next]; ++s) {
          plan.slot_token.push_back(static_cast<int32_t>(one.first_row) + one.slot_row[static_cast<size_t>(s)]);
          goes_to.emplace_back(i, together.of[i] ? counts[i] : s);
          ++counts[i];
        }
        ++one.next;
      }
      if (std::ssize(plan.slot_token) > plan.expert_offset.back()) ids.push_back(static_cast<int32_t>(e));
      plan.expert_offset.push_back(static_cast<int32_t>(plan.slot_token.size()));
    }
    ops::Context& context = owner_.context_;
    const tensor::Matrix made = context.arena.matrix(plan.slots(), width);  // own rows stay there
    owner_.compute_(call_.layer, {form, together.rows, width}, plan, ids, made);

    std::vector<std::optional<comm::Writer>> replies(together.asking.size());
    std::vector<float*> room(together.asking.size(), nullptr);
    for (size_t i = 0; i < replies.size(); ++i) {
      if (!together.of[i] || counts[i] == 0) continue;
      replies[i].emplace(Kind::outputs, awaited_.step, awaited_.layer,
                         static_cast<size_t>(outputs_payload(counts[i], width)));
      room[i] = replies[i]->room<float>(static_cast<size_t>(counts[i] * width));
    }
    ops::for_rows(context, made.rows, width, [&](int64_t from, int64_t to) {
      for (int64_t s = from; s < to; ++s) {
        const auto [who, row] = goes_to[static_cast<size_t>(s)];
        if (together.of[who])
          std::copy_n(made.row(s), width, room[who] + row * width);
        else
          rows_[static_cast<size_t>(row)] = made.row(s);
      }
    });
    for (size_t i = 0; i < replies.size(); ++i)
      if (replies[i]) owner_.ranks_.send(together.of[i]->from, std::move(*replies[i]));
    owner_.inbox_.poll();
  }

  void send_rows(int to) {
    const ops::RoutingPlan& plan = call_.plan;
    const std::vector<int32_t>& experts = asked_[static_cast<size_t>(to)];
    const int64_t slots = slots_of(to), count = std::ssize(experts), width = call_.x.cols;
    // Each token once, in order.
    std::vector<int32_t> row_of(static_cast<size_t>(plan.tokens), -1);
    for (const int32_t e : experts)
      for (const int32_t t : plan.tokens_of(e)) row_of[static_cast<size_t>(t)] = 0;
    int32_t rows = 0;
    for (int32_t& row : row_of)
      if (row == 0) row = rows++;

    const ActivationForm form = form_of(experts);
    comm::Writer message(Kind::rows, awaited_.step, awaited_.layer,
                         static_cast<size_t>(rows_payload(rows, width, slots, count, form)));
    message.value(QuestionShape{rows, width, slots, count, static_cast<int64_t>(form)});
    message.array(std::span<const int32_t>(experts));
    auto* offset = message.room<int32_t>(static_cast<size_t>(count) + 1);
    int32_t at = 0;
    for (const int32_t e : experts) *offset++ = at, at += static_cast<int32_t>(begin_of(e + 1) - begin_of(e));
    *offset = at;
    auto* slot_row = message.room<int32_t>(static_cast<size_t>(slots));
    for (const int32_t e : experts)
      for (const int32_t t : plan.tokens_of(e)) *slot_row++ = row_of[static_cast<size_t>(t)];
    message.align();
    const auto bytes = static_cast<size_t>(ops::row_bytes(form, width));
    auto* values = message.room<std::byte>(static_cast<size_t>(rows) * bytes);
    if (rows > 0) {
      const ops::FormedRows& formed = rows_in(form);
      for (size_t t = 0; t < row_of.size(); ++t)
        if (row_of[t] >= 0) values = std::copy_n(formed.rows[t], bytes, values);
    }
    owner_.ranks_.send(to, std::move(message));
  }

  /// How far an owner has answered.
  struct Answered {
    size_t expert = 0;  // of those it was asked for
    int64_t slot = 0;   // of that expert
  };

  ExpertRanks& owner_;
  const layers::ExpertCall call_;
  Awaited awaited_;
  std::vector<char> answers_, questions_;    // [R] that are still to come
  std::vector<std::vector<int32_t>> asked_;  // [R]: experts with tokens that each of them computes
  std::vector<Answered> answered_;           // [R]
  std::array<std::optional<ops::FormedRows>, kernels::kActivationForms> formed_;
  std::vector<const float*> rows_;      // [slots]
  std::vector<comm::Message> arrived_;  // where some of them lie
  bool handed_out_ = false;
};

ExpertRanks::ExpertRanks(comm::Ranks& ranks, comm::Inbox& inbox, const ExpertPlacement& placement, bool divided,
                         ops::Context& context, ComputeExperts compute)
    : ranks_(ranks),
      inbox_(inbox),
      placement_(placement),
      divided_(divided),
      context_(context),
      compute_(std::move(compute)) {}

std::unique_ptr<layers::ExpertLease> ExpertRanks::lease(const layers::ExpertCall& call) {
  return std::make_unique<Lease>(*this, call);
}

void answer(comm::Ranks& ranks, comm::Message& message, const ComputeExperts& compute, int64_t experts) {
  const Question question = read_question(message, experts);
  const QuestionShape& shape = question.shape;
  ops::RoutingPlan plan;
  plan.tokens = shape.rows;
  plan.expert_offset.assign(static_cast<size_t>(experts) + 1, 0);
  const std::vector<int32_t> ids(question.asked.begin(), question.asked.end());
  for (size_t e = 0, next = 0; e < static_cast<size_t>(experts); ++e) {
    if (next < ids.size() && static_cast<size_t>(ids[next]) == e) ++next;
    plan.expert_offset[e + 1] = question.offset[next];
  }
  plan.slot_token.assign(question.slot_row.begin(), question.slot_row.end());

  if (shape.slots == 0) return;
  std::vector<const std::byte*> rows;
  for (int64_t r = 0; r < shape.rows; ++r) rows.push_back(question.row(r));
  const comm::Header& header = message.header();
  comm::Writer outputs(Kind::outputs, header.step, header.layer,
                       static_cast<size_t>(outputs_payload(shape.slots, shape.width)));
  auto* out = outputs.room<float>(static_cast<size_t>(shape.slots * shape.width));
  compute(header.layer, {question.form, rows, shape.width}, plan, ids, {out, shape.slots, shape.width});
  ranks.send(message.from(), std::move(outputs));
}

}  // namespace coterie::runtime
