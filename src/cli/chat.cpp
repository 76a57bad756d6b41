#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "base/error.h"
#include "cli/chat_commands.h"
#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/experts_used.h"
#include "cli/help.h"
#include "cli/message_reader.h"
#include "cli/option_names.h"
#include "cli/options.h"
#include "cli/print_ensemble.h"
#include "cli/source_rule.h"
#include "cli/speculate_options.h"
#include "cli/terminal.h"
#include "cli/text_input.h"
#include "runtime/conversation.h"

namespace coterie::cli {

namespace {

struct ChatOptions {
  ModelOptions model;
  SamplingOptions sampling;
  SpeculateOptions speculate;
  std::string system, chat_template, load, experts;
  bool quiet = false, no_history = false;
  std::function<void(const std::filesystem::path&)> refuse_source;
};

// "~/notes.txt", which a shell would have replaced.
std::filesystem::path path_of(const std::string& file) {
  const char* home = std::getenv("HOME");
  return file.starts_with("~/") && home ? std::filesystem::path(home) / file.substr(2) : std::filesystem::path(file);
}

std::string count(int64_t number, std::string_view what) {
  return fmt::format("{} {}{}", number, what, number == 1 ? "" : "s");
}

// One chat at a terminal or through a pipe: reads, answers, obeys commands.
class Chat {
 public:
  Chat(runtime::Engines& engines, runtime::Conversation& conversation, const ChatOptions& options)
      : engines_(engines),
        conversation_(conversation),
        options_(options),
        reader_(options.no_history ? std::filesystem::path() : ChatHistory::default_path()),
        speculation_(options.speculate.open(engines.front(), options.model)),
        speculator_(speculation_ ? speculation_->speculator() : nullptr) {}

  int talk();

 private:
  enum class Next { go_on, leave };
  Next take(std::string message);
  Next obey(const ChatOrder& order);
  void save(const std::string& file, bool replace) const;
  void read(const std::string& file);
  void edit(const std::string& text);
  void show_tokens(const std::string& text);
  void show_experts() const;
  void answer(const std::string& message, bool instead = false);
  std::string contexts() const;

  runtime::Engines& engines_;
  runtime::Conversation& conversation_;
  ChatOptions options_;
  InterruptFlag interrupt_;
  MessageReader reader_;
  std::string given_;     // what the next line begins with
  std::string read_;      // of files, in front of the next message
  bool editing_ = false;  // the next message takes the place of the last one
  std::optional<lens::RouterLoads> loads_;
  const runtime::Engine* answered_ = nullptr;
  uint64_t turn_ = 0;
  std::unique_ptr<runtime::Speculation> speculation_;
  std::unique_ptr<runtime::Speculator> speculator_;  // of the whole conversation
};

void Chat::save(const std::string& file, bool replace) const {
  const std::filesystem::path path = path_of(file);
  std::error_code code;
  if (!replace && std::filesystem::exists(path, code) && !std::filesystem::is_directory(path, code))
    throw base::Error(base::ErrorKind::bad_input, file, "already exists", fmt::format("/save! {} replaces it", file));
  options_.refuse_source(path);
  conversation_.save(path);
  print_note(fmt::format("{} saved to {}", count(std::ssize(conversation_.messages()), "message"), file));
}

void Chat::read(const std::string& file) {
  const std::string text = prompt_from(path_of(file).string());
  if (text.empty()) base::fail(base::ErrorKind::bad_input, file, "is empty");
  read_ += text + "\n\n";
  print_note(fmt::format("{} of {}: in front of your next message{}", count(std::ssize(text), "byte"), file,
                         reader_.interactive() ? "; Enter alone sends it as it is" : ""));
}

void Chat::edit(const std::string& text) {
  const std::optional<std::string> last = conversation_.last_user_message();
  if (!last) base::fail(base::ErrorKind::bad_input, "/edit", "there is no message to change yet");
  if (!text.empty()) return answer(text, true);
  if (!reader_.edits())
    throw base::Error(base::ErrorKind::bad_input, "/edit", "the last message can only be edited at a terminal",
                      "/edit TEXT puts TEXT in its place");
  given_ = *last, editing_ = true;
}

void Chat::show_tokens(const std::string& text) {
  if (!text.empty()) {
    const text::Tokenizer& tokenizer = engines_.front().tokenizer();
    const std::vector<text::TokenId> ids = tokenizer.encode(text, false);
    std::string list;
    for (const text::TokenId id : ids)
      list += fmt::format("{}{} {}", list.empty() ? "" : " · ", id, tokenizer.token(id).value_or("?"));
    return print_note(fmt::format("{}: {}", count(std::ssize(ids), "token"), list));
  }
  print_note(fmt::format("{}, {} of a context of {}", count(std::ssize(conversation_.messages()), "message"),
                         count(conversation_.tokens(), "token"), contexts()));
}

void Chat::show_experts() const {
  if (!answered_) base::fail(base::ErrorKind::bad_input, "/experts", "there is no answer yet");
  if (speculator_)
    throw base::Error(base::ErrorKind::bad_input, "/experts", "would count drafts that were wrong, too",
                      "start the chat without --speculate");
  if (!loads_) base::fail(base::ErrorKind::bad_input, "/experts", "{} has no routers", answered_->model().name);
  print(describe_experts(*loads_, engines_.parts(*answered_)));
}

Chat::Next Chat::obey(const ChatOrder& order) {
  if (order.name == "/quit" || order.name == "/exit") return Next::leave;
  if (order.name == "/help") {
    print(chat_help());
  } else if (order.name == "/reset") {
    conversation_.reset();
    read_.clear();
    print_note("the conversation starts anew");
  } else if (order.name == "/save" || order.name == "/save!") {
    save(order.argument, order.name == "/save!");
  } else if (order.name == "/load") {
    conversation_.load(path_of(order.argument));
    print_note(
        fmt::format("{} loaded from {}", count(std::ssize(conversation_.messages()), "message"), order.argument));
  } else if (order.name == "/read") {
    read(order.argument);
  } else if (order.name == "/system") {
    if (!order.argument.empty()) conversation_.set_system(text_or_file(order.argument, "/system"));
    const std::string system = conversation_.system();
    print_note(system.empty() ? "there is no system message" : "system message: " + system);
  } else if (order.name == "/regenerate") {
    const std::optional<std::string> last = conversation_.last_user_message();
    if (!last) base::fail(base::ErrorKind::bad_input, "/regenerate", "there is no message to answer yet");
    answer(*last, true);
  } else if (order.name == "/edit") {
    edit(order.argument);
  } else if (order.name == "/tokens") {
    show_tokens(order.argument);
  } else if (order.name == "/experts") {
    show_experts();
  }
  return Next::go_on;
}

void Chat::answer(const std::string& message, bool instead) {
  runtime::Engine& engine = engines_.choose(std::string_view(message));
  SamplingOptions sampling = options_.sampling;
  sampling.adopt(engine.model());
  runtime::GenerationOptions options = sampling.generation_options();
  options.sampler.seed += turn_++;  // the same draws in every turn would make turns alike
  Progress progress;
  if (message.size() > 2000) progress.show("reading");
  bool answering = false;
  std::optional<LiveExperts> live;
  options.on_text = [&](std::string_view text) {
    if (!answering) progress.clear(), interrupt_.announce(false);
    answering = true;
    if (!live) print(text);
  };
  interrupt_.announce(true);
  options.interrupt = &interrupt_.flag();
  conversation_.answer_with(engine, chosen_template(engines_, engine, options_.chat_template));
  options.speculator = speculator_.get();
  if (speculator_) speculator_->begin_answer();
  loads_ = has_routers(engine) && !speculator_ ? std::optional(experts_listener(engine)) : std::nullopt;
  const auto on_dropped = [&](int64_t dropped) {
    progress.clear();
    const std::string full = fmt::format("the context of {} tokens is full: ", engine.context_size());
    print_note(full + (engines_.all().size() > 1
                           ? fmt::format("{} no longer reads the oldest {} messages", engine.model().name, dropped)
                           : fmt::format("the oldest {} messages were dropped", dropped)));
  };
  live = live_experts(has_routers(engine) || is_gated(engine) ? options_.experts : "", engine);
  if (live) options.on_token = [&](int32_t id) { progress.clear(), print(live->next(id)); };
  layers::Observers observers{loads_ ? &*loads_ : nullptr, live ? &*live : nullptr};
  layers::Observer* const observer = observers.get();
  const runtime::Reply reply = instead ? conversation_.reply_instead(message, std::move(options), on_dropped, observer)
                                       : conversation_.reply(message, std::move(options), on_dropped, observer);
  answered_ = &engine;
  interrupt_.announce(false);
  progress.clear();
  print(live ? live->last() + reply.text + "\n" : "\n");
  if (reply.finish == runtime::Finish::context_full)
    print_note(fmt::format("the context of {} tokens is full: the answer stops here, the next message drops the oldest",
                           engine.context_size()));
  if (loads_ && !options_.experts.empty()) print(describe_experts(*loads_, engines_.parts(engine)));
  if (options_.quiet) return;
  if (const std::string gate = describe_last(engines_.report()); !gate.empty()) print_note(gate);
  if (speculator_) print_note(describe(*speculator_));
  print_note(describe(reply.statistics, reply.finish, std::nullopt));
  print_reads(engine);
}

std::string Chat::contexts() const {
  const int64_t least = engines_.context_size();
  int64_t most = least;
  for (const auto& engine : engines_.all()) most = std::max(most, engine->context_size());
  return least == most ? std::to_string(least) : fmt::format("{} to {}", least, most);
}

Chat::Next Chat::take(std::string message) {
  const bool blank = message.find_first_not_of(" \t\n") == std::string::npos;
  if (blank && read_.empty()) {
    editing_ = false;
    return Next::go_on;
  }
  if (message.starts_with("/") && !message.starts_with("//")) {
    editing_ = false;
    return obey(read_order(message));
  }
  if (message.starts_with("//")) message.erase(0, 1);
  // What was read belongs to the message that failed, too: it stays for the next one.
  std::string whole = read_ + (blank ? "" : message);
  while (blank && whole.ends_with("\n")) whole.pop_back();
  answer(whole, std::exchange(editing_, false));
  read_.clear();
  return Next::go_on;
}

int Chat::talk() {
  const bool interactive = reader_.interactive();
  if (interactive)
    print_note(fmt::format("{} · context {} tokens · /help lists the commands", engines_.name(), contexts()));
  int code = 0;
  for (bool more = true; more;) {
    interrupt_.lower();
    try {
      std::string message;
      const LineReader::Outcome outcome = reader_.next(message, std::exchange(given_, {}));
      if (const std::string problem = reader_.problem(); !problem.empty())
        print_warning("the history cannot be kept for the next chat: " + problem);
      if (outcome == LineReader::Outcome::interrupted) {
        if (!interactive) return interrupted_code();
        editing_ = false;
        print_note(reader_.edits() ? "/quit or Ctrl-D leaves" : "\n/quit or Ctrl-D leaves");
        continue;
      }
      if (outcome == LineReader::Outcome::end) {
        more = false;
        if (interactive || read_.empty()) break;  // a script that ends with /read means what it read to be answered
      }
      if (take(std::move(message)) == Next::leave) break;
    } catch (const base::Error& error) {
      interrupt_.announce(false);
      if (error.kind() == base::ErrorKind::internal) throw;
      print_error(text_of(error), with_options(error.hint()));
      // A script learns that a line failed; the lines after it are still answered.
      if (!interactive) code = base::exit_code(error.kind());
    }
  }
  return code;
}

int chat_command(ChatOptions& options) {
  (void)options.sampling.generation_options();  // refuses before the model is opened; draws the seed
  options.speculate.check(options.model, !options.experts.empty());
  runtime::Engines engines = open_engines(options.model);
  (void)engines.front().tokenizer();
  runtime::Conversation conversation(engines.front(), chosen_template(engines, engines.front(), options.chat_template),
                                     text_or_file(options.system, "--system"));
  if (!options.load.empty()) conversation.load(options.load);
  if (const std::string taken = SamplingOptions(options.sampling).adopt(engines.front().model());
      !taken.empty() && !options.quiet)
    print_note("as this model recommends: " + taken);
  // SIGTERM ends a chat, where Ctrl-C ends an answer; a line editor puts the terminal back first.
  std::signal(SIGTERM, SIG_DFL);
  return Chat(engines, conversation, options).talk();
}

}  // namespace

void add_chat(CLI::App& app, Action& action) {
  auto options = std::make_shared<ChatOptions>();
  CLI::App* command = app.add_subcommand("chat", "Talk with a model; the cache is kept between turns");
  options->model.add_model_or_gate(*command);
  {
    const Heading heading(*command, kInput);
    command
        ->add_option("--system,--system-prompt", options->system,
                     "The system message; @FILE reads it from a file, @@ begins a text that begins with @")
        ->type_name("TEXT")
        ->check(reads(Reads::text))
        ->check(may_be_empty());
    command->add_option("--chat-template", options->chat_template, "A Jinja file instead of the model's own template")
        ->type_name("FILE")
        ->check(reads());
    command->add_option("--load", options->load, "Go on with a conversation that /save wrote")
        ->type_name("FILE")
        ->check(writes());  // by /save, too
    command->add_flag("--no-history", options->no_history, "Do not keep a history of what is typed for later chats");
  }
  options->model.add_adapter(*command);
  {
    const Heading heading(*command, kOutput);
    command->add_flag("-q,--quiet", options->quiet, "Print no line of statistics after an answer");
    add_experts(*command, options->experts);
  }
  options->sampling.add(*command);
  options->model.add_routing(*command);
  options->model.add_engine(*command, true);
  options->speculate.add(*command);
  command->footer(
      "Examples:\n"
      "  coterie chat model.gguf\n"
      "  coterie chat ./Qwen3-30B-A3B --system \"Answer in one sentence.\" --temperature 0.6\n"
      "  echo \"What is a mixture of experts?\" | coterie chat model.gguf --greedy -n 100\n"
      "In the chat:\n" +
      chat_help() +
      "What is typed is kept in coterie/chat_history.jsonl in $XDG_STATE_HOME (~/.local/state), or in the file that\n"
      "COTERIE_HISTORY names.");
  options->refuse_source = [command](const std::filesystem::path& file) {
    refuse_source(*command, file, "choose another name for the conversation");
  };
  command->callback([=, &action] { action = [options] { return chat_command(*options); }; });
}

}  // namespace coterie::cli
