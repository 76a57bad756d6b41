#include "cli/run_lines.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <list>
#include <map>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/fnv.h"
#include "base/json.h"
#include "cli/appended_file.h"
#include "cli/line_file.h"
#include "cli/option_names.h"
#include "cli/terminal.h"
#include "cli/text_input.h"
#include "runtime/generation.h"

namespace coterie::cli {

namespace {

using base::ErrorKind;
using base::Json;

/// A prompt of the file.
struct Line {
  std::string prompt;
  Json messages;    // a list in its place; null otherwise
  Json id;          // null when there is none
  std::string key;  // of prompt and options: what the answer depends on besides the model and the seed
};

std::string key_of(const std::string& text) {
  uint64_t hash = base::kFnvBegin;
  for (const char c : text) hash = base::fnv_step(hash, static_cast<unsigned char>(c));
  return fmt::format("{:016x}", hash);
}

// The options that change an answer; threads, batch and the cache's place do not.
std::string options_text(const LinesOptions& o) {
  const SamplingOptions& s = o.sampling;
  Json options({o.system,
                o.chat_template,
                o.chat,
                o.raw,
                s.tokens,
                s.greedy,
                s.temperature,
                s.top_k,
                s.top_p,
                s.min_p,
                s.typical,
                s.repeat_penalty,
                s.repeat_last_n,
                s.presence_penalty,
                s.frequency_penalty,
                s.logit_bias,
                s.stop,
                s.ignore_end,
                o.model.precision,
                o.model.cache_type,
                o.model.router,
                o.model.adapter,
                o.model.experts_per_token.value_or(-1),
                o.model.context});
  // Files that were written without one go on as before.
  if (o.constraint.given()) options.push_back(o.constraint.text());
  return options.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::vector<Line> read_lines(const LinesOptions& options) {
  const std::string settings = options_text(options);
  std::vector<Line> lines;
  LineFile file(options.in);
  for (std::string line; file.next(line);) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = fmt::format("{}, line {}", name_of_input(options.in), file.number());
    const Json json = base::parse_json(line, where, base::DuplicateKeys::refuse);
    if (!json.is_object())
      throw base::Error(ErrorKind::bad_input, where, fmt::format("is {}, expected an object", json.type_name()),
                        "a line is {\"prompt\": \"…\"} or {\"messages\": […]}, with an \"id\" if you like");
    base::JsonReader reader(json, where);
    reader.expect({"prompt", "messages", "id"});
    Line read;
    if (const Json* id = reader.value("id")) read.id = *id;
    if (reader.has("prompt") == reader.has("messages"))
      base::fail(ErrorKind::bad_input, where, "expected one of \"prompt\" and \"messages\"");
    if (const Json* messages = reader.value("messages")) {
      if (!messages->is_array()) base::fail(ErrorKind::bad_input, where, "\"messages\" is not a list");
      read.messages = *messages;
    } else {
      read.prompt = reader.string("prompt");
    }
    read.key = key_of(settings + read.prompt + (read.messages.is_null() ? "" : read.messages.dump()));
    lines.push_back(std::move(read));
  }
  if (lines.empty()) base::fail(ErrorKind::bad_input, name_of_input(options.in), "holds no prompt");
  return lines;
}

/// The answers, in order: a file that is appended to, or standard output.
class Answers {
 public:
  Answers(const LinesOptions& options, const std::vector<Line>& lines, std::optional<uint64_t>& seed) {
    if (options.out.empty()) return;
    file_.emplace(options.out, [&](std::string_view line, int64_t number) {
      check(line, fmt::format("{}, line {}", options.out, number), lines, seed);
      ++done_;
    });
  }

  int64_t done() const { return done_; }
  void add(const Json& answer) {
    const std::string line = answer.dump(-1, ' ', false, Json::error_handler_t::replace);
    if (file_) return file_->add(line);
    print(line + "\n");
  }

 private:
  /// That a line is the next answer.
  void check(std::string_view line, const std::string& where, const std::vector<Line>& lines,
             std::optional<uint64_t>& seed) const {
    const auto other = [&](const std::string& what) {
      throw base::Error(ErrorKind::bad_input, where, what,
                        "choose another file for -o, or remove this one to answer all prompts anew");
    };
    const Json answer = Json::parse(line, nullptr, false);
    if (!answer.is_object() || !answer.contains("key")) other("is not an answer that coterie run --jsonl wrote");
    if (done_ >= std::ssize(lines)) other("answers a prompt more than there are");
    if (answer["key"] != lines[static_cast<size_t>(done_)].key) other("answers another prompt, or by other options");
    if (answer.contains("seed") && answer["seed"].is_number_unsigned()) {
      const auto base = answer["seed"].get<uint64_t>() - static_cast<uint64_t>(done_);
      if (!seed) seed = base;
      if (*seed != base) other(fmt::format("was drawn with --seed {}", base));
    }
  }

  std::optional<AppendedFile> file_;
  int64_t done_ = 0;
};

/// A prompt that is being answered.
struct Running {
  size_t index;
  std::unique_ptr<runtime::Speculator> speculator;
  runtime::Generation generation;
};

class Runner {
 public:
  Runner(const LinesOptions& options, const std::vector<Line>& lines, runtime::Engines& engines, Answers& answers)
      : options_(options), lines_(lines), engines_(engines), answers_(answers) {}

  int run() {
    size_t next = static_cast<size_t>(answers_.done());
    written_ = next;
    while (written_ < lines_.size()) {
      while (next < lines_.size() && std::ssize(running_) < options_.batch && !interrupt_.raised()) begin(next++);
      if (interrupt_.raised()) break;
      progress_.show(fmt::format("{} of {} prompts answered", written_, lines_.size()));
      step_all();
      collect();
    }
    progress_.clear();
    if (written_ == lines_.size()) return failed_ ? base::exit_code(ErrorKind::bad_input) : 0;
    print_note(fmt::format("stopped: {} of {} prompts are answered{}", written_, lines_.size(),
                           options_.out.empty() ? "" : "; the same command goes on from there"));
    return interrupted_code();
  }

 private:
  /// `constraint` becomes what the answer has to be.
  std::vector<text::TokenId> prompt_ids(const Line& line, runtime::Engine& engine,
                                        std::optional<text::Constraint>& constraint) {
    const text::Tokenizer& tokenizer = engine.tokenizer();
    if (line.messages.is_null() && !options_.chat) {
      if (options_.constraint.given()) {
        // Compiled once a model; each answer has a copy.
        const auto [at, fresh] = constraints_.try_emplace(&engine);
        if (fresh) at->second = options_.constraint.make(tokenizer);
        constraint = at->second;
      }
      return tokenizer.encode(line.prompt, !options_.raw);
    }
    Json messages = line.messages;
    if (messages.is_null()) {
      messages = Json::array();
      if (!options_.system.empty()) messages.push_back({{"role", "system"}, {"content", options_.system}});
      messages.push_back({{"role", "user"}, {"content", line.prompt}});
    }
    const text::ChatTemplate chat_template = chosen_template(engines_, engine, options_.chat_template);
    const std::string prompt = chat_template.render(messages, true, Json::object());
    if (options_.constraint.given()) constraint = options_.constraint.make(tokenizer, chat_template, prompt);
    return tokenizer.encode(prompt, false);
  }

  // A line that cannot be answered is an answer that says why: the others are worth having.
  void begin(size_t index) {
    const Line& line = lines_[index];
    try {
      SamplingOptions sampling = options_.sampling;
      runtime::GenerationOptions generation = sampling.generation_options();
      generation.interrupt = &interrupt_.flag();
      const std::string text = line.messages.is_null() ? line.prompt : line.messages.dump();
      runtime::Engine& engine = engines_.choose(std::string_view(text), &generation.model_weights);
      sampling.adopt(engine.model());
      generation.sampler = sampling.generation_options().sampler;
      generation.sampler.seed += index;
      const std::vector<text::TokenId> ids = prompt_ids(line, engine, generation.constraint);
      std::unique_ptr<runtime::Speculator> speculator;
      if (options_.speculate.given()) {
        if (!speculation_) speculation_ = options_.speculate.open(engine, options_.model);
        speculator = speculation_->speculator();
        generation.speculator = speculator.get();
      }
      std::list<Running>& list = running_by_[&engine];
      list.push_back({index, std::move(speculator), runtime::Generation(engine, ids, std::move(generation))});
      running_.push_back(&list.back());
    } catch (const base::Error& error) {
      refuse(index, error);
    }
  }

  void refuse(size_t index, const base::Error& error) {
    if (error.kind() == ErrorKind::internal || error.kind() == ErrorKind::out_of_memory) throw error;
    failed_ = true;
    Json answer = head(index);
    answer["error"] = text_of(error);
    ready_.emplace(index, std::move(answer));
  }

  Json head(size_t index) const {
    Json answer = {{"index", index}, {"key", lines_[index].key}};
    if (!lines_[index].id.is_null()) answer["id"] = lines_[index].id;
    return answer;
  }

  Json answer_of(size_t index, const runtime::Generation& generation) const {
    Json answer = head(index);
    answer["text"] = generation.text(), answer["finish"] = name(generation.finish());
    answer["seed"] = *options_.sampling.seed + index;
    answer["prompt_tokens"] = generation.statistics().prompt_tokens;
    answer["generated_tokens"] = generation.statistics().generated_tokens;
    return answer;
  }

  void step_all() {
    for (auto& [engine, list] : running_by_) {
      std::vector<runtime::Generation*> generations;
      for (Running& running : list) generations.push_back(&running.generation);
      if (!generations.empty()) runtime::step(*engine, generations);
    }
  }

  void collect() {
    for (auto& [engine, list] : running_by_)
      for (auto at = list.begin(); at != list.end();) {
        const runtime::Generation& generation = at->generation;
        if (!generation.finished() || generation.finish() == runtime::Finish::interrupted) {
          ++at;
          continue;
        }
        if (generation.error()) {
          try {
            std::rethrow_exception(generation.error());
          } catch (const base::Error& error) {
            refuse(at->index, error);
          }
        } else {
          ready_.emplace(at->index, answer_of(at->index, generation));
        }
        std::erase(running_, &*at);
        at = list.erase(at);
      }
    for (auto at = ready_.find(written_); at != ready_.end(); at = ready_.find(++written_)) {
      answers_.add(at->second);
      ready_.erase(at);
    }
  }

  const LinesOptions& options_;
  const std::vector<Line>& lines_;
  runtime::Engines& engines_;
  Answers& answers_;
  InterruptFlag interrupt_;
  Progress progress_;
  std::map<runtime::Engine*, std::optional<text::Constraint>> constraints_;
  std::unique_ptr<runtime::Speculation> speculation_;
  std::map<runtime::Engine*, std::list<Running>> running_by_;
  std::vector<Running*> running_;
  std::map<size_t, Json> ready_;  // answered, and waiting for those before them
  size_t written_ = 0;
  bool failed_ = false;
};

}  // namespace

int run_lines(LinesOptions options) {
  const std::vector<Line> lines = read_lines(options);
  Answers answers(options, lines, options.sampling.seed);
  (void)options.sampling.generation_options();  // draws the seed where none was given
  if (answers.done() == std::ssize(lines)) {
    if (!options.quiet) print_note(fmt::format("{}: all {} prompts are answered already", options.out, lines.size()));
    return 0;
  }
  if (answers.done() > 0 && !options.quiet)
    print_note(fmt::format("{}: {} of {} prompts are answered already", options.out, answers.done(), lines.size()));
  runtime::Engines engines = open_engines(options.model);
  const int code = Runner(options, lines, engines, answers).run();
  if (!options.quiet)
    for (const auto& engine : engines.all()) print_reads(*engine);
  return code;
}

}  // namespace coterie::cli
