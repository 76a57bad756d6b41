#include "cli/eval_choices.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <sstream>

#include "base/error.h"
#include "base/json.h"
#include "cli/options.h"
#include "cli/text_input.h"
#include "cli/text_windows.h"

namespace coterie::cli {

namespace {

using base::ErrorKind;
using base::Json;

int64_t answer_of(const Json& value, const std::vector<std::string>& choices, const std::string& where) {
  const auto count = std::ssize(choices);
  if (value.is_number_integer()) {
    const auto number = value.get<int64_t>();
    if (number < 0 || number >= count)
      base::fail(ErrorKind::bad_input, where, "answer is {}: expected 0 to {}", number, count - 1);
    return number;
  }
  if (!value.is_string())
    base::fail(ErrorKind::bad_input, where, "answer is of another type than a number or a string");
  const auto text = value.get<std::string>();
  const auto same = std::find(choices.begin(), choices.end(), text);
  if (same != choices.end()) return same - choices.begin();
  const int64_t letter = text.size() == 1 ? std::toupper(static_cast<unsigned char>(text[0])) - 'A' : -1;
  if (letter < 0 || letter >= count)
    base::fail(ErrorKind::bad_input, where, "answer is \"{}\", which is neither a choice nor its letter", text);
  return letter;
}

Question question_of(const Json& line, const std::string& where) {
  base::JsonReader reader(line, where);
  if (reader.has("prompt") && reader.has("question"))
    base::fail(ErrorKind::bad_input, where, "has both a prompt and a question: put what is to be read into prompt");
  Question question;
  question.prompt = reader.string(reader.has("question") ? "question" : "prompt");
  question.choices = reader.strings("choices");
  if (question.choices.size() < 2)
    base::fail(ErrorKind::bad_input, where, "choices are {}: expected two or more", question.choices.size());
  for (const std::string& choice : question.choices)
    if (choice.empty()) base::fail(ErrorKind::bad_input, where, "a choice is empty");
  const Json* answer = reader.value("answer");
  if (!answer) base::fail(ErrorKind::not_found, where, "\"answer\" is missing");
  question.answer = answer_of(*answer, question.choices, where);
  return question;
}

bool space(char c) { return std::isspace(static_cast<unsigned char>(c)); }

int64_t characters(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

}  // namespace

std::vector<Question> read_questions(const std::string& file) {
  std::istringstream lines(file_contents(file));
  std::vector<Question> questions;
  std::string line;
  for (int64_t number = 1; std::getline(lines, line); ++number) {
    if (std::all_of(line.begin(), line.end(), space)) continue;
    const std::string where = fmt::format("{}, line {}", file, number);
    questions.push_back(question_of(base::parse_json(line, where, base::DuplicateKeys::refuse), where));
  }
  if (questions.empty()) base::fail(ErrorKind::bad_input, file, "holds no question");
  return questions;
}

std::vector<double> score_choices(runtime::Engine& engine, const Question& question) {
  const text::Tokenizer& tokenizer = engine.tokenizer();
  // White space at the end of the prompt belongs to the choice's first token.
  std::string prompt = question.prompt, between;
  while (!prompt.empty() && space(prompt.back())) between.insert(between.begin(), prompt.back()), prompt.pop_back();
  const std::vector<int32_t> context = tokenizer.encode(prompt, true);
  if (context.empty())
    base::fail(ErrorKind::bad_input, "prompt", "has no token, so that nothing predicts a choice's first");
  std::vector<std::vector<int32_t>> wholes;
  size_t shared = context.size() - 1;  // the last of the prompt predicts
  for (const std::string& choice : question.choices) {
    const std::string joint = between.empty() && !space(choice.front()) ? " " : between;
    wholes.push_back(tokenizer.encode(prompt + joint + choice, true));
    // An end that the tokenizer puts behind every text is no part of the choice.
    const std::vector<text::TokenId>& ends = tokenizer.end_tokens();
    while (!context.empty() && wholes.back().size() > context.size() &&
           std::find(ends.begin(), ends.end(), wholes.back().back()) != ends.end() &&
           std::find(ends.begin(), ends.end(), context.back()) != ends.end())
      wholes.back().pop_back();
    if (wholes.back().size() <= context.size())
      base::fail(ErrorKind::unsupported, "choices", "\"{}\" adds no token to its prompt", choice);
    const auto first = std::mismatch(wholes[0].begin(), wholes[0].end(), wholes.back().begin(), wholes.back().end());
    shared = std::min(shared, static_cast<size_t>(first.first - wholes[0].begin()));
  }
  runtime::KvCache cache = engine.make_cache();
  std::vector<double> scores;
  for (const std::vector<int32_t>& whole : wholes) {
    if (cache.length() > static_cast<int64_t>(shared)) cache.truncate(static_cast<int64_t>(shared));
    models::CrossEntropy cross_entropy;
    score(engine, cache, whole, std::ssize(context), cross_entropy);
    scores.push_back(-cross_entropy.mean() * static_cast<double>(cross_entropy.predictions()));
  }
  return scores;
}

double ChoiceScores::error(int64_t count) const {
  if (questions < 2) return 0;
  const double p = share(count);
  return std::sqrt(p * (1 - p) / static_cast<double>(questions - 1));
}

void add_scores(const Question& question, const std::vector<double>& log_probabilities, ChoiceScores& scores) {
  std::vector<double> by_length;
  for (size_t i = 0; i < log_probabilities.size(); ++i)
    by_length.push_back(log_probabilities[i] / static_cast<double>(characters(question.choices[i])));
  const auto best = [](const std::vector<double>& of) { return std::max_element(of.begin(), of.end()) - of.begin(); };
  ++scores.questions;
  scores.right += best(log_probabilities) == question.answer;
  scores.right_by_length += best(by_length) == question.answer;
  scores.chance += 1 / static_cast<double>(question.choices.size());
}

}  // namespace coterie::cli
