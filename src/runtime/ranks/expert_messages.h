#pragma once

#include <cstdint>
#include <span>

#include "comm/message.h"
#include "kernels/matmul.h"

// What ranks ask each other for experts with: how a message of kind `rows` is laid out.
namespace coterie::runtime {

/// The first values of such a message.
struct QuestionShape {
  int64_t rows, width, slots;
  int64_t experts;  // that are asked: those with slots
  int64_t form;     // of the rows: a kernels::ActivationForm
};

/// A message of rows, checked. It lives as long as the message.
struct Question {
  QuestionShape shape;
  kernels::ActivationForm form;
  std::span<const int32_t> asked, offset, slot_row;  // experts, their slots, and which row each slot reads
  const std::byte* values;                           // rows of row_bytes each
  int64_t row_bytes;
  int from;

  const std::byte* row(int64_t r) const { return values + r * row_bytes; }
};
/// Throws internal for what is not a question to a layer of so many experts.
Question read_question(comm::Message& message, int64_t experts);

}  // namespace coterie::runtime
