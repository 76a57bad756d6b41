#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "base/json.h"
#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/help.h"
#include "cli/options.h"
#include "cli/prompt_source.h"
#include "cli/terminal.h"
#include "cli/text_input.h"
#include "text/tokenizer.h"

namespace coterie::cli {

namespace {

using base::ErrorKind;

struct TokenizeOptions {
  std::string model;
  PromptSource source;
  bool raw = false, json = false, pieces = false, count = false;
};

struct DetokenizeOptions {
  std::string model, file;
  std::vector<std::string> ids;
  bool skip_special = false, json = false;
};

// A folder needs no weights for this, and a tokenizer.json no folder.
text::Tokenizer tokenizer_of(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code absent;
  if (fs::is_directory(path, absent) && fs::exists(fs::path(path) / "tokenizer.json", absent))
    return text::Tokenizer::load(path);
  if (path.ends_with(".json") && fs::path(path).filename() != "config.json" && fs::exists(path, absent))
    return text::Tokenizer::load(path);
  families::Model model = families::open_model(path);
  if (model.tokenizer) return *model.tokenizer;
  throw base::Error(ErrorKind::unsupported, model.no_tokenizer.empty() ? path : "",
                    model.no_tokenizer.empty() ? "has no tokenizer" : model.no_tokenizer, "");
}

int tokenize(const TokenizeOptions& options) {
  const std::string text = options.source.read();
  const text::Tokenizer tokenizer = tokenizer_of(options.model);
  const std::vector<text::TokenId> ids = tokenizer.encode(text, !options.raw);
  const auto piece = [&](text::TokenId id) { return tokenizer.token(id).value_or(""); };
  if (options.json) {
    std::vector<std::string> pieces;
    for (const text::TokenId id : ids) pieces.push_back(piece(id));
    const base::Json json = {{"tokens", ids}, {"pieces", pieces}, {"count", ids.size()}};
    print(json.dump(2, ' ', false, base::Json::error_handler_t::replace) + "\n");
  } else if (options.count) {
    print(fmt::format("{}\n", ids.size()));
  } else if (options.pieces) {
    std::string out;
    for (const text::TokenId id : ids) out += fmt::format("{}\t{}\n", id, piece(id));
    print(out);
  } else {
    print(fmt::format("{}\n", fmt::join(ids, " ")));
  }
  return 0;
}

// "1 2 3", "1,2,3" or "[1, 2, 3]".
void read_ids(std::string_view text, std::string_view where, int64_t vocabulary, std::vector<text::TokenId>& ids) {
  constexpr std::string_view kBetween = " \t\r\n,[]";
  for (size_t at = text.find_first_not_of(kBetween); at != std::string_view::npos;
       at = text.find_first_not_of(kBetween, at)) {
    const size_t end = std::min(text.find_first_of(kBetween, at), text.size());
    const std::string_view word = text.substr(at, end - at);
    text::TokenId id = 0;
    const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || stop != word.data() + word.size())
      base::fail(ErrorKind::bad_input, where, "\"{}\" is not a token id: expected whole numbers", word);
    if (id < 0 || id >= vocabulary)
      base::fail(ErrorKind::bad_input, where, "id {} is outside of the vocabulary of {}", id, vocabulary);
    ids.push_back(id);
    at = end;
    if (at == text.size()) break;
  }
}

int detokenize(const DetokenizeOptions& options) {
  const text::Tokenizer tokenizer = tokenizer_of(options.model);
  const int64_t vocabulary = tokenizer.vocabulary_size();
  std::vector<text::TokenId> ids;
  for (const std::string& word : options.ids) read_ids(word, "ID", vocabulary, ids);
  if (options.ids.empty()) {
    if (options.file.empty() && stdin_is_terminal())
      throw base::Error(ErrorKind::bad_input, "", "there are no ids: none were given, and nothing comes through a pipe",
                        "give ids after MODEL, or --file FILE");
    const std::string file = options.file.empty() ? "-" : options.file;
    read_ids(file_contents(file), name_of_input(file), vocabulary, ids);
  }
  const std::string text = tokenizer.decode(ids, options.skip_special);
  if (options.json) {
    print(base::Json{{"text", text}}.dump(2, ' ', false, base::Json::error_handler_t::replace) + "\n");
  } else {
    // The text as it is, so that it can go into a file; a terminal gets its line end.
    print(text + (stdout_is_terminal() ? "\n" : ""));
  }
  return 0;
}

void add_tokenizer_of(CLI::App& command, std::string& model) {
  const Heading heading(command, kInput);
  command
      .add_option("MODEL,-m,--model", model,
                  "A folder with tokenizer.json, that file itself, or a .gguf file (its weights are not read)")
      ->type_name("MODEL")
      ->check(reads())
      ->required();
}

}  // namespace

void add_tokenize(CLI::App& app, Action& action) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command = app.add_subcommand("tokenize", "Print the tokens of a text, as ids");
  add_tokenizer_of(*command, options->model);
  options->source.add(*command, "The text");
  {
    const Heading heading(*command, kInput);
    command->add_flag("--raw", options->raw, "Add no special tokens (such as a BOS) to the text");
  }
  {
    const Heading heading(*command, kOutput);
    CLI::Option* json = command->add_flag("--json", options->json, "Print JSON: tokens, pieces, count");
    CLI::Option* pieces =
        command->add_flag("--pieces", options->pieces, "Print a token a line: its id and its piece of the vocabulary")
            ->excludes(json);
    command->add_flag("--count", options->count, "Print only how many tokens there are")
        ->excludes(json)
        ->excludes(pieces);
  }
  command->footer(
      "A file or a pipe loses one line break at its end, as in coterie run.\n"
      "Examples:\n"
      "  coterie tokenize model.gguf -p \"The capital of France is\"\n"
      "  coterie tokenize ./Mixtral-8x7B -f book.txt --count\n"
      "  coterie tokenize model.gguf -p hello | coterie detokenize model.gguf");
  command->callback([=, &action] { action = [options] { return tokenize(*options); }; });
}

void add_detokenize(CLI::App& app, Action& action) {
  auto options = std::make_shared<DetokenizeOptions>();
  CLI::App* command = app.add_subcommand("detokenize", "Print the text of token ids");
  add_tokenizer_of(*command, options->model);
  {
    const Heading heading(*command, kInput);
    CLI::Option* ids =
        command->add_option("ID", options->ids, "Token ids, separated by spaces or commas (default: from a pipe)");
    command->add_option("-f,--file", options->file, "Read the ids from a file; - is standard input")
        ->type_name("FILE")
        ->check(reads())
        ->excludes(ids);
  }
  {
    const Heading heading(*command, kOutput);
    command->add_flag("--skip-special", options->skip_special, "Leave special tokens out of the text");
    command->add_flag("--json", options->json, "Print JSON: text");
  }
  command->footer(
      "The text is printed as it is, without a line break at its end except at a terminal.\n"
      "Examples:\n"
      "  coterie detokenize model.gguf 504 3575 282\n"
      "  coterie detokenize model.gguf --file ids.txt > text.txt");
  command->callback([=, &action] { action = [options] { return detokenize(*options); }; });
}

}  // namespace coterie::cli
