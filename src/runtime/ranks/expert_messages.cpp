#include "runtime/ranks/expert_messages.h"

#include <algorithm>

#include "base/error.h"
#include "ops/moe/formed_rows.h"
#include "runtime/ranks/expert_ranks.h"

namespace coterie::runtime {

Question read_question(comm::Message& message, int64_t experts) {
  Question question;
  question.from = message.from();
  const QuestionShape& shape = question.shape = message.value<QuestionShape>();
  base::require(shape.rows >= 0 && shape.width > 0 && shape.slots >= 0 && shape.experts >= 0 &&
                    shape.experts <= experts && shape.form >= 0 && shape.form < kernels::kActivationForms,
                "ranks", "rank {} asks for {} experts of {}, by {} rows in form {}", message.from(), shape.experts,
                experts, shape.rows, shape.form);
  question.form = static_cast<kernels::ActivationForm>(shape.form);
  question.row_bytes = ops::row_bytes(question.form, shape.width);
  question.asked = message.array<int32_t>(static_cast<size_t>(shape.experts));
  question.offset = message.array<int32_t>(static_cast<size_t>(shape.experts) + 1);
  question.slot_row = message.array<int32_t>(static_cast<size_t>(shape.slots));
  message.align();
  question.values = message.array<std::byte>(static_cast<size_t>(shape.rows * question.row_bytes)).data();
  const std::span<const int32_t> offset = question.offset, asked = question.asked;
  base::require(offset.front() == 0 && offset.back() == shape.slots && std::is_sorted(offset.begin(), offset.end()),
                "ranks", "rank {} sent a plan of {} slots that is none", message.from(), shape.slots);
  for (size_t i = 0; i < asked.size(); ++i)
    base::require(asked[i] >= 0 && asked[i] < experts && (i == 0 || asked[i] > asked[i - 1]), "ranks",
                  "rank {} asks for expert {} of {}", message.from(), asked[i], experts);
  for (const int32_t row : question.slot_row)
    base::require(row >= 0 && row < shape.rows, "ranks", "rank {} sent a slot of row {} of {}", message.from(), row,
                  shape.rows);
  return question;
}

int64_t rows_payload(int64_t rows, int64_t width, int64_t slots, int64_t experts, kernels::ActivationForm form) {
  constexpr auto kId = static_cast<int64_t>(sizeof(int32_t)), kHeader = static_cast<int64_t>(sizeof(comm::Header));
  const auto padded = [](int64_t bytes) { return (bytes + 7) / 8 * 8; };
  const int64_t before = kHeader + static_cast<int64_t>(sizeof(QuestionShape)) + padded(experts * kId) +
                         padded((experts + 1) * kId) + padded(slots * kId);
  return static_cast<int64_t>(comm::on_a_line(static_cast<size_t>(before))) - kHeader +
         padded(rows * ops::row_bytes(form, width));
}

int64_t outputs_payload(int64_t slots, int64_t width) { return (slots * width * 4 + 7) / 8 * 8; }

}  // namespace coterie::runtime
