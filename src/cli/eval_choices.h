#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/engine.h"

namespace coterie::cli {

struct Question {
  std::string where;  // "file.jsonl: line 3"
  std::string prompt;
  std::vector<std::string> choices;
  int64_t answer = 0;  // of them
};

/// A JSON object a line: "prompt" or "question", "choices" (two or more), "answer": the number of a choice from 0, its
/// letter, or its text. Other keys are data of whoever made the file. Throws bad_input with the line, also for a choice
/// that is there twice.
std::vector<Question> read_questions(const std::string& file);

/// The log of each choice's probability after the prompt, in nats. The prompt is read once. A choice follows it
/// after a space, unless either has white space there; its tokens are those that the whole has beyond the prompt's
/// own, as in the Language Model Evaluation Harness. With `truncate` the beginning of what is longer than the context
/// is left out, as there.
std::vector<double> score_choices(runtime::Engine& engine, const Question& question, bool truncate);

/// Whether a question can be scored, from its tokens alone: throws bad_input, with its line, for a prompt without a
/// token, a choice that adds none, and what is longer than `context` tokens unless it is truncated. All questions are
/// looked at before the first is scored, so that the last costs no hours. Returns whether it must be truncated.
bool check_question(const text::Tokenizer& tokenizer, int64_t context, const Question& question, bool truncate);

struct ChoiceScores {
  int64_t questions = 0, right = 0, right_by_length = 0;
  double chance = 0;  // Σ 1 / choices

  double accuracy() const { return share(right); }
  double accuracy_by_length() const { return share(right_by_length); }
  double by_chance() const { return questions ? chance / static_cast<double>(questions) : 0; }
  /// The standard error of the mean of `count` ones and zeros: sqrt(p (1 - p) / (n - 1)); nothing for fewer than two
  /// questions.
  std::optional<double> error(int64_t count) const;

 private:
  double share(int64_t count) const {
    return questions ? static_cast<double>(count) / static_cast<double>(questions) : 0;
  }
};
/// The highest log probability, and the highest a character of the choice, the first of equals.
void add_scores(const Question& question, const std::vector<double>& log_probabilities, ChoiceScores& scores);

}  // namespace coterie::cli
