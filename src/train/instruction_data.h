#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/json.h"
#include "checkpoint/tensor_source.h"
#include "text/tokenizer.h"

namespace coterie::train {

/// How samples became tokens.
struct InstructionCounts {
  int64_t samples = 0;    // that are there
  int64_t truncated = 0;  // of those, cut at the sequence's length
  int64_t dropped = 0;    // taken out: cut so that nothing of an answer was left, or without an answer
  int64_t tokens = 0, scored = 0;
};

/// Samples of a conversation each, as tokens and which of them are scored: those of answers. On disk, mapped: a
/// safetensors file with `tokens` I32 [N], `scored` I32 [N] and `ends` I64 [S], where each sample ends.
class InstructionFile {
 public:
  /// Throws what open_safetensors throws, and bad_input for ids outside of the vocabulary and ends out of order.
  static InstructionFile open(const std::filesystem::path& path, int64_t vocabulary);

  int64_t size() const { return std::ssize(ends_); }
  int64_t tokens(int64_t sample) const { return ends_[static_cast<size_t>(sample)] - first(sample); }
  /// Appends the sample's inputs, its tokens but the last, and for each the token after it, -1 where that is not
  /// scored.
  void append(int64_t sample, std::vector<int32_t>& inputs, std::vector<int32_t>& targets) const;
  int64_t scored(int64_t sample) const;  // targets that are

 private:
  int64_t first(int64_t sample) const { return sample == 0 ? 0 : ends_[static_cast<size_t>(sample - 1)]; }

  std::shared_ptr<const checkpoint::TensorSource> source_;
  std::span<const int32_t> tokens_, scored_;
  std::vector<int64_t> ends_;
};

/// Writes the samples of JSONL files as an InstructionFile. A line is
///   {"messages": [{"role": …, "content": …}, …]}: rendered by the chat template; what the assistant says is scored,
///     with the token that ends its turn, but for answers of "weight": 0, as in OpenAI's form; "tools" go to the
///     template. Throws unsupported where the template does not write a conversation as the continuation of its
///     beginning;
///   {"prompt": …, "completion": …}: the completion is scored, with the token that ends a text;
///   {"text": …}: all of it is scored.
/// "id", "source" and "metadata" may stand beside; two of the forms in a line and other keys are refused.
/// Samples are cut at `length` + 1 tokens. Throws not_found and bad_input naming file and line.
InstructionCounts write_instruction_file(const std::filesystem::path& path,
                                         std::span<const std::filesystem::path> files, const text::Tokenizer& tokenizer,
                                         const text::ChatTemplate* chat_template, int64_t length,
                                         const std::function<void(const InstructionCounts&)>& progress = {});

/// Samples put together into rows of at most `length` inputs, one after the other as they fit. A row is what a step
/// reads a number of; its samples stay sequences of their own: none sees another.
class InstructionRows {
 public:
  /// Samples [begin, end) of the file; with `shuffled` in an order drawn from the seed.
  InstructionRows(std::shared_ptr<const InstructionFile> file, int64_t begin, int64_t end, int64_t length,
                  bool shuffled, uint64_t seed);

  int64_t size() const { return std::ssize(rows_); }
  std::span<const int64_t> samples(int64_t row) const;
  const InstructionFile& file() const { return *file_; }
  int64_t inputs(int64_t row) const;
  int64_t scored(int64_t row) const;

 private:
  std::shared_ptr<const InstructionFile> file_;
  std::vector<int64_t> order_;
  std::vector<std::pair<size_t, size_t>> rows_;  // of order_
};

}  // namespace coterie::train
