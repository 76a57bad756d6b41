#include "cli/eval_choices.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <sstream>

#include "base/error.h"
#include "base/json.h"
#include "base/plural.h"
#include "base/utf8.h"
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
  question.where = where;
  question.prompt = reader.string(reader.has("question") ? "question" : "prompt");
  question.choices = reader.strings("choices");
  if (question.choices.size() < 2)
    base::fail(ErrorKind::bad_input, where, "has {}, expected two or more",
               base::plural(std::ssize(question.choices), "choice"));
  for (size_t i = 0; i < question.choices.size(); ++i) {
    const std::string& choice = question.choices[i];
    if (choice.empty()) base::fail(ErrorKind::bad_input, where, "choice {} is empty", i);
    for (size_t j = 0; j < i; ++j)
      if (question.choices[j] == choice)
        base::fail(ErrorKind::bad_input, where, "choices {} and {} are the same: \"{}\"", j, i, choice);
  }
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
    const std::string where = fmt::format("{}: line {}", file == "-" ? "standard input" : file, number);
    base::require_utf8(line, where, "the line");
    questions.push_back(question_of(base::parse_json(line, where, base::DuplicateKeys::refuse), where));
  }
  if (questions.empty()) base::fail(ErrorKind::bad_input, file, "holds no question");
  return questions;
}

namespace {

struct Tokens {
  std::vector<std::vector<int32_t>> wholes;  // the prompt and each choice
  int64_t context = 0;                       // tokens of the prompt
  size_t shared = 0;                         // that all wholes begin with, the last of the prompt not among them
};

Tokens tokens_of(const text::Tokenizer& tokenizer, const Question& question) {
  // White space at the end of the prompt belongs to the choice's first token.
  std::string prompt = question.prompt, between;
  while (!prompt.empty() && space(prompt.back())) between.insert(between.begin(), prompt.back()), prompt.pop_back();
  const std::vector<int32_t> context = tokenizer.encode(prompt, true);
  if (context.empty())
    base::fail(ErrorKind::bad_input, question.where,
               "the prompt is empty, and the model has no token that begins a text: nothing predicts a choice's first");
  Tokens tokens{{}, std::ssize(context), context.size() - 1};  // the last of the prompt predicts
  for (const std::string& choice : question.choices) {
    const std::string joint = between.empty() && !space(choice.front()) ? " " : between;
    std::vector<int32_t>& whole = tokens.wholes.emplace_back(tokenizer.encode(prompt + joint + choice, true));
    // An end that the tokenizer puts behind every text is not part of the choice.
    const std::vector<text::TokenId>& ends = tokenizer.end_tokens();
    while (whole.size() > context.size() && std::find(ends.begin(), ends.end(), whole.back()) != ends.end() &&
           std::find(ends.begin(), ends.end(), context.back()) != ends.end())
      whole.pop_back();
    if (whole.size() <= context.size())
      base::fail(ErrorKind::unsupported, question.where, "the choice \"{}\" adds no token to its prompt", choice);
    const std::vector<int32_t>& first = tokens.wholes[0];
    const auto differ = std::mismatch(first.begin(), first.end(), whole.begin(), whole.end());
    tokens.shared = std::min(tokens.shared, static_cast<size_t>(differ.first - first.begin()));
  }
  return tokens;
}

int64_t longest(const Tokens& tokens) {
  int64_t most = 0;
  for (const std::vector<int32_t>& whole : tokens.wholes) most = std::max(most, std::ssize(whole));
  return most;
}

}  // namespace

bool check_question(const text::Tokenizer& tokenizer, int64_t context, const Question& question, bool truncate) {
  const Tokens tokens = tokens_of(tokenizer, question);
  const int64_t most = longest(tokens), over = most - context;
  if (over <= 0) return false;
  if (truncate && over < tokens.context) return true;
  throw base::Error(ErrorKind::bad_input, question.where,
                    fmt::format("the prompt and its longest choice have {} tokens, the context has {}", most, context),
                    truncate ? "the choice alone does not fit into the context: remove the question"
                             : "--truncate leaves out the beginning of such prompts, as lm-evaluation-harness does");
}

std::vector<double> score_choices(runtime::Engine& engine, const Question& question, bool truncate) {
  Tokens tokens = tokens_of(engine.tokenizer(), question);
  if (const int64_t over = longest(tokens) - engine.context_size(); truncate && over > 0) {
    for (std::vector<int32_t>& whole : tokens.wholes) whole.erase(whole.begin(), whole.begin() + over);
    tokens.context -= over;
    tokens.shared -= std::min(tokens.shared, static_cast<size_t>(over));
  }
  runtime::KvCache cache = engine.make_cache();
  std::vector<double> scores;
  for (const std::vector<int32_t>& whole : tokens.wholes) {
    if (cache.length() > static_cast<int64_t>(tokens.shared)) cache.truncate(static_cast<int64_t>(tokens.shared));
    models::CrossEntropy cross_entropy;
    score(engine, cache, whole, tokens.context, cross_entropy);
    scores.push_back(-cross_entropy.mean() * static_cast<double>(cross_entropy.predictions()));
  }
  return scores;
}

std::optional<double> ChoiceScores::error(int64_t count) const {
  if (questions < 2) return {};
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
