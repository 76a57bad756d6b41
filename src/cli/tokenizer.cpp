#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "base/clock.h"
#include "base/error.h"
#include "base/folders.h"
#include "base/plural.h"
#include "base/utf8.h"
#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "cli/text_input.h"
#include "text/tokenizer.h"
#include "text/tokenizer_training.h"

namespace coterie::cli {

namespace {

using base::ErrorKind;
using text::TokenizerRecipe;

struct TokenizerOptions {
  std::string kind = "bpe", out;
  int64_t vocabulary = 4096, min_frequency = 2;
  std::vector<std::string> special = {"<|endoftext|>"}, files;
  bool force = false;
};

TokenizerRecipe::Kind kind_of(const std::string& name) {
  if (name == "bytes") return TokenizerRecipe::Kind::bytes;
  if (name == "characters") return TokenizerRecipe::Kind::characters;
  return TokenizerRecipe::Kind::bpe;
}

int train(const TokenizerOptions& options) {
  const std::filesystem::path folder = options.out;
  // Made before the training, which takes minutes, and taken away again if that fails.
  base::FoldersAbove made(folder / "tokenizer.json");
  if (!std::filesystem::is_directory(folder))
    base::fail(ErrorKind::bad_input, options.out, "is not a folder, expected a folder for tokenizer.json");
  if (std::filesystem::exists(folder / "tokenizer.json") && !options.force)
    throw base::Error(ErrorKind::bad_input, (folder / "tokenizer.json").string(), "already exists",
                      "choose another folder, or --force to replace it");
  std::vector<std::string> texts;
  for (const std::string& file : options.files) {
    texts.push_back(file_contents(file));
    base::require_utf8(texts.back(), name_of_input(file), "the text");
  }
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  TokenizerRecipe recipe{kind_of(options.kind), options.vocabulary, options.min_frequency, {}};
  for (const std::string& token : options.special)
    if (!token.empty()) recipe.special.push_back(token);

  Progress progress;
  progress.show("training");
  const base::Stopwatch watch;
  const std::string json = text::train_tokenizer(recipe, views);
  const text::Tokenizer tokenizer = text::Tokenizer::from_json(json, options.out);
  int64_t bytes = 0, tokens = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::vector<text::TokenId> ids = tokenizer.encode(texts[i], false);
    if (tokenizer.decode(ids, false) != texts[i])
      base::fail(ErrorKind::internal, options.files[i], "does not come back from its tokens as it was");
    bytes += static_cast<int64_t>(texts[i].size()), tokens += static_cast<int64_t>(ids.size());
  }
  progress.clear();
  text::write_tokenizer(recipe, json, folder);
  made.keep();
  print_note(fmt::format(
      "{}: {}; {} of text became {}, {:.2f} bytes each, in {:.1f} s", options.out,
      base::plural(tokenizer.vocabulary_size(), "token"), base::plural(bytes, "byte"), base::plural(tokens, "token"),
      static_cast<double>(bytes) / static_cast<double>(std::max<int64_t>(tokens, 1)), watch.seconds()));
  return 0;
}

}  // namespace

void add_tokenizer(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("tokenizer", "Train a vocabulary on texts");
  command->require_subcommand(1);
  auto options = std::make_shared<TokenizerOptions>();
  CLI::App* sub = command->add_subcommand("train", "Make a tokenizer.json from texts");
  sub->add_option("FILE", options->files, "Texts in UTF-8; - is standard input")->check(reads())->required();
  sub->add_option("-o,--output", options->out, "The folder for tokenizer.json and tokenizer_config.json")
      ->type_name("FOLDER")
      ->check(writes(Writes::tokenizer))
      ->required();
  sub->add_option("--kind", options->kind, "bpe (byte-level, as GPT-2), characters, or bytes")
      ->type_name("KIND")
      ->check(CLI::IsMember({"bpe", "characters", "bytes"}))
      ->capture_default_str();
  sub->add_option("--vocabulary", options->vocabulary,
                  "bpe: how many tokens the vocabulary may have, the 256 bytes and special ones included")
      ->type_name("N")
      ->capture_default_str();
  sub->add_option("--min-frequency", options->min_frequency, "bpe: how often a pair must occur to be merged")
      ->type_name("N")
      ->capture_default_str();
  sub->add_option("--special", options->special,
                  "Special tokens, which never come from a text; the first one ends a document. \"\" for none")
      ->type_name("TOKEN")
      ->check(may_be_empty())
      ->capture_default_str();
  sub->add_flag("--force", options->force, "Replace a tokenizer.json that exists");
  command->footer(
      "Examples:\n"
      "  coterie tokenizer train shakespeare.txt -o tokens --vocabulary 4096\n"
      "  coterie tokenizer train shakespeare.txt -o characters --kind characters --special \"\"");
  sub->footer(command->get_footer());
  sub->callback([=, &action] { action = [options] { return train(*options); }; });
}

}  // namespace coterie::cli
