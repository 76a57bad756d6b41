#include "cli/prompt_source.h"

#include "base/error.h"
#include "cli/command_files.h"
#include "cli/help.h"
#include "cli/terminal.h"
#include "cli/text_input.h"

namespace coterie::cli {

CLI::Option* PromptSource::add(CLI::App& app, const std::string& what) {
  const Heading heading(app, kInput);
  given_ = app.add_option("-p,--prompt", prompt,
                          what +
                              "; @FILE reads it from a file, @@ begins a text that begins with @ "
                              "(default: what comes through a pipe)")
               ->type_name("TEXT")
               ->check(reads(Reads::text))
               ->check(may_be_empty());
  app.add_option("-f,--file", file, "Read the text from a file; - is standard input")
      ->type_name("FILE")
      ->check(reads())
      ->excludes(given_);
  app.add_flag("-e,--escape", escape, "\\n, \\r, \\t and \\\\ in --prompt are what they stand for")->needs(given_);
  return given_;
}

std::string PromptSource::read() const {
  if (!file.empty()) return prompt_from(file);
  if (given_->count() > 0) {
    const std::string text = text_or_file(prompt, "--prompt");
    return escape ? unescaped(text) : text;
  }
  std::string text = stdin_is_terminal() ? "" : prompt_from("-");
  if (!text.empty()) return text;
  throw base::Error(base::ErrorKind::bad_input, "",
                    "there is no text: no option gives one, and nothing comes through a pipe",
                    "give --prompt TEXT or --file FILE");
}

}  // namespace coterie::cli
