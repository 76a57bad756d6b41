#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/gate_words.h"
#include "cli/line_reader.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "cli/text_input.h"
#include "runtime/conversation.h"

namespace coterie::cli {

namespace {

struct ChatOptions {
  ModelOptions model;
  SamplingOptions sampling;
  std::string system, chat_template, load;
  bool quiet = false;
};

constexpr std::string_view kHelp =
    "/help        this list\n"
    "/reset       forget the conversation, keep the system message\n"
    "/save FILE   write the conversation as JSON\n"
    "/load FILE   go on with a saved conversation\n"
    "/quit        leave (also Ctrl-D)\n"
    "Ctrl-C stops an answer. A line that ends with \\ goes on in the next one.\n";

// One chat at a terminal or through a pipe: reads, answers, obeys commands.
class Chat {
 public:
  Chat(runtime::Engines& engines, runtime::Conversation& conversation, const ChatOptions& options)
      : engines_(engines), conversation_(conversation), options_(options) {}

  int talk();

 private:
  enum class Next { go_on, leave };
  LineReader::Outcome read_message(std::string& message);
  Next obey(const std::string& line);
  void answer(const std::string& message);
  std::string contexts() const;

  runtime::Engines& engines_;
  runtime::Conversation& conversation_;
  ChatOptions options_;
  InterruptFlag interrupt_;
  LineReader lines_;
  const bool interactive_ = stdin_is_terminal();
  uint64_t turn_ = 0;
};

LineReader::Outcome Chat::read_message(std::string& message) {
  message.clear();
  for (;;) {
    if (interactive_ && stdout_is_terminal()) print(styled(message.empty() ? "> " : "… ", Style::green));
    std::string line;
    const LineReader::Outcome outcome = lines_.next(line);
    if (outcome != LineReader::Outcome::line)
      return outcome == LineReader::Outcome::end && !message.empty() ? LineReader::Outcome::line : outcome;
    message += line;
    if (!message.ends_with("\\")) return outcome;
    message.back() = '\n';
  }
}

Chat::Next Chat::obey(const std::string& line) {
  const size_t space = line.find(' ');
  const std::string command = line.substr(0, space);
  const size_t start = space == std::string::npos ? std::string::npos : line.find_first_not_of(' ', space);
  const std::string file = start == std::string::npos ? "" : line.substr(start);
  const bool takes_file = command == "/save" || command == "/load";
  if (takes_file && file.empty()) base::fail(base::ErrorKind::bad_input, command, "needs the name of a file");
  if (!takes_file && !file.empty()) base::fail(base::ErrorKind::bad_input, command, "takes nothing after it");
  if (command == "/quit" || command == "/exit") return Next::leave;
  if (command == "/help") {
    print(kHelp);
  } else if (command == "/reset") {
    conversation_.reset();
    print_note("the conversation starts anew");
  } else if (command == "/save") {
    conversation_.save(file);
    print_note(fmt::format("{} messages saved to {}", conversation_.messages().size(), file));
  } else if (command == "/load") {
    conversation_.load(file);
    print_note(fmt::format("{} messages loaded from {}", conversation_.messages().size(), file));
  } else {
    throw base::Error(base::ErrorKind::bad_input, command, "is not a command", "/help lists them");
  }
  return Next::go_on;
}

void Chat::answer(const std::string& message) {
  runtime::GenerationOptions options = options_.sampling.generation_options();
  options.sampler.seed += turn_++;  // the same draws in every turn would make turns alike
  Progress progress;
  if (message.size() > 2000) progress.show("reading");
  options.on_text = [&](std::string_view text) { progress.clear(), print(text); };
  options.interrupt = &interrupt_.flag();
  runtime::Engine& engine = engines_.choose(std::string_view(message));
  conversation_.answer_with(engine, chosen_template(engines_, engine, options_.chat_template));
  const auto on_dropped = [&](int64_t dropped) {
    progress.clear();
    const std::string full = fmt::format("the context of {} tokens is full: ", engine.context_size());
    print_note(full + (engines_.all().size() > 1
                           ? fmt::format("{} reads the oldest {} messages no more", engine.model().name, dropped)
                           : fmt::format("the oldest {} messages were dropped", dropped)));
  };
  const runtime::Reply reply = conversation_.reply(message, std::move(options), on_dropped);
  progress.clear();
  print("\n");
  if (reply.finish == runtime::Finish::context_full)
    print_note(fmt::format("the context of {} tokens is full: the answer stops here, the next message drops the oldest",
                           engine.context_size()));
  if (options_.quiet) return;
  if (const std::string gate = describe_last(engines_.report()); !gate.empty()) print_note(gate);
  print_note(describe(reply.statistics, reply.finish, std::nullopt));
}

std::string Chat::contexts() const {
  const int64_t least = engines_.context_size();
  int64_t most = least;
  for (const auto& engine : engines_.all()) most = std::max(most, engine->context_size());
  return least == most ? std::to_string(least) : fmt::format("{} to {}", least, most);
}

int Chat::talk() {
  if (interactive_)
    print_note(fmt::format("{} · context {} tokens · /help lists the commands", engines_.name(), contexts()));
  int code = 0;
  std::string message;
  for (;;) {
    interrupt_.lower();
    const LineReader::Outcome outcome = read_message(message);
    if (outcome == LineReader::Outcome::end) break;
    if (outcome == LineReader::Outcome::interrupted) {
      print_note(interactive_ ? "\n/quit or Ctrl-D leaves" : "");
      if (!interactive_) return base::exit_code(base::ErrorKind::interrupted);
      continue;
    }
    if (message.find_first_not_of(" \t\n") == std::string::npos) continue;
    try {
      if (message.front() != '/')
        answer(message);
      else if (obey(message) == Next::leave)
        break;
    } catch (const base::Error& error) {
      if (error.kind() == base::ErrorKind::internal) throw;
      print_error((error.where().empty() ? "" : error.where() + ": ") + error.message(), error.hint());
      // A script learns that a line failed; the lines after it are still answered.
      if (!interactive_) code = base::exit_code(error.kind());
    }
  }
  return code;
}

int chat_command(ChatOptions& options) {
  (void)options.sampling.generation_options();  // refuses before the model is opened; draws the seed
  runtime::Engines engines = open_engines(options.model);
  (void)engines.front().tokenizer();
  runtime::Conversation conversation(engines.front(), chosen_template(engines, engines.front(), options.chat_template),
                                     text_or_file(options.system, "--system"));
  if (!options.load.empty()) conversation.load(options.load);
  return Chat(engines, conversation, options).talk();
}

}  // namespace

void add_chat(CLI::App& app, Action& action) {
  auto options = std::make_shared<ChatOptions>();
  CLI::App* command = app.add_subcommand("chat", "Talk with a model; the cache is kept between turns");
  options->model.add_model_or_gate(*command);
  command->add_option("--system", options->system, "The system message; @FILE reads it from a file")->type_name("TEXT");
  command->add_option("--chat-template", options->chat_template, "A Jinja file instead of the model's own template")
      ->type_name("FILE");
  command->add_option("--load", options->load, "Go on with a conversation that /save wrote")->type_name("FILE");
  command->add_flag("-q,--quiet", options->quiet, "No line of statistics after an answer");
  options->sampling.add(*command);
  options->model.add_routing(*command);
  options->model.add_adapter(*command);
  options->model.add_engine(*command, true);
  command->footer(
      "Examples:\n"
      "  coterie chat model.gguf\n"
      "  coterie chat ./Qwen3-30B-A3B --system \"Answer in one sentence.\" --temperature 0.6\n"
      "  echo \"What is a mixture of experts?\" | coterie chat model.gguf --greedy -n 100\n"
      "In the chat:\n" +
      std::string(kHelp));
  command->callback([=, &action] { action = [options] { return chat_command(*options); }; });
}

}  // namespace coterie::cli
