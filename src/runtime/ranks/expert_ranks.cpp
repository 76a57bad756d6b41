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

/// A message of rows, checked. It lives as long as the message.
struct Question {
  Shape shape;
  std::span<const int32_t> asked, offset, slot_row;  // experts, their slots, and which row each slot reads
  std::span<const float> values;                     // [rows, width]
};
Question read_question(comm::Message& message, int64_t experts) {
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
  return {shape, asked, offset, slot_row, values};
}

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
    // Of a divided step they are computed with those that others ask for.
    return owner_.divided_ || std::exchange(handed_out_, true) ? std::span<const int32_t>()
                                                               : asked_[static_cast<size_t>(owner_.ranks_.rank())];
  }
  std::span<const ops::ExpertInput> inputs() const override { return call_.inputs; }
  std::span<const ops::ExpertOutput> outputs() const override { return call_.outputs; }

  void add_outputs(tensor::Matrix out) override {
    if (owner_.divided_) {
      std::vector<comm::Message> questions;
      while (std::count(questions_.begin(), questions_.end(), 0) < std::ssize(questions_)) {
        questions.push_back(take(Kind::rows, questions_));
        questions_[static_cast<size_t>(questions.back().from())] = 0;
      }
      compute_together(questions, out);
    }
    while (std::count(answers_.begin(), answers_.end(), 0) < std::ssize(answers_)) {
      comm::Message message = take(Kind::outputs, answers_);
      const auto from = static_cast<size_t>(message.from());
      const float* values = message.array<float>(static_cast<size_t>(slots_of(message.from()) * out.cols)).data();
      for (const int32_t e : asked_[from])
        for (int64_t s = begin_of(e); s < begin_of(e + 1); ++s, values += out.cols)
          std::copy_n(values, out.cols, out.row(s));
      answers_[from] = 0;
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

  comm::Message take(Kind kind, std::span<const char> from) {
    return owner_.inbox_.take(from, {kind, awaited_.step, awaited_.layer}, [&](const comm::Message& m) {
      return m.header().layer == call_.layer && m.header().kind == kind && from[static_cast<size_t>(m.from())];
    });
  }

  // This rank's experts for the rows of all: each expert's weights are read once, and more rows at a time are faster
  // (512 rows on two ranks, AVX-512 and AMX, December 2026: docs/log.md).
  void compute_together(std::vector<comm::Message>& messages, tensor::Matrix out) {
    const ops::RoutingPlan& own = call_.plan;
    const int64_t experts = own.experts(), width = call_.x.cols;
    std::vector<Question> questions;
    std::vector<comm::Writer> replies;
    std::vector<float*> reply_rows;
    ops::RoutingPlan plan;
    plan.tokens = call_.x.rows;
    for (comm::Message& message : messages) {
      const Question& question = questions.emplace_back(read_question(message, experts));
      base::require(question.shape.width == width, "ranks", "rank {} sent rows of {}, expected {}", message.from(),
                    question.shape.width, width);
      plan.tokens += question.shape.rows;
      replies.emplace_back(Kind::outputs, awaited_.step, awaited_.layer,
                           static_cast<size_t>(outputs_payload(question.shape.slots, width)));
      reply_rows.push_back(replies.back().room<float>(static_cast<size_t>(question.shape.slots * width)));
    }
    std::vector<float> x(static_cast<size_t>(plan.tokens * width));
    float* at = x.data();
    for (int64_t t = 0; t < call_.x.rows; ++t) at = std::copy_n(call_.x.row(t), width, at);
    for (const Question& question : questions) at = std::copy(question.values.begin(), question.values.end(), at);

    // Slots by expert, and within it by row: this rank's first, then those of the others.
    const std::vector<int32_t>& mine = asked_[static_cast<size_t>(owner_.ranks_.rank())];
    std::vector<size_t> next(questions.size());
    std::vector<int32_t> ids;
    std::vector<float*> goes_to;
    plan.expert_offset.assign(1, 0);
    auto my_next = mine.begin();
    for (int64_t e = 0; e < experts; ++e) {
      if (my_next != mine.end() && *my_next == e) {
        ++my_next;
        for (int64_t s = begin_of(e); s < begin_of(e + 1); ++s) {
          plan.slot_token.push_back(own.slot_token[static_cast<size_t>(s)]);
          goes_to.push_back(out.row(s));
        }
      }
      for (int64_t q = 0, first_row = call_.x.rows; q < std::ssize(questions);
           first_row += questions[static_cast<size_t>(q++)].shape.rows) {
        const Question& question = questions[static_cast<size_t>(q)];
        size_t& i = next[static_cast<size_t>(q)];
        if (i == question.asked.size() || question.asked[i] != e) continue;
        for (int32_t s = question.offset[i]; s < question.offset[i + 1]; ++s) {
          plan.slot_token.push_back(static_cast<int32_t>(first_row) + question.slot_row[static_cast<size_t>(s)]);
          goes_to.push_back(reply_rows[static_cast<size_t>(q)] + s * width);
        }
        ++i;
      }
      if (std::ssize(plan.slot_token) > plan.expert_offset.back()) ids.push_back(static_cast<int32_t>(e));
      plan.expert_offset.push_back(static_cast<int32_t>(plan.slot_token.size()));
    }
    std::vector<float> made(goes_to.size() * static_cast<size_t>(width));
    if (!goes_to.empty())
      owner_.compute_(call_.layer, {x.data(), plan.tokens, width}, plan, ids, {made.data(), plan.slots(), width});
    for (size_t s = 0; s < goes_to.size(); ++s)
      std::copy_n(made.data() + s * static_cast<size_t>(width), width, goes_to[s]);
    for (size_t q = 0; q < questions.size(); ++q)
      if (questions[q].shape.slots > 0) owner_.ranks_.send(messages[q].from(), std::move(replies[q]));
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
  const Question question = read_question(message, experts);
  const Shape& shape = question.shape;
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
  const comm::Header& header = message.header();
  comm::Writer outputs(Kind::outputs, header.step, header.layer,
                       static_cast<size_t>(outputs_payload(shape.slots, shape.width)));
  auto* out = outputs.room<float>(static_cast<size_t>(shape.slots * shape.width));
  compute(header.layer, {question.values.data(), shape.rows, shape.width}, plan, ids, {out, shape.slots, shape.width});
  ranks.send(message.from(), std::move(outputs));
}

}  // namespace coterie::runtime
