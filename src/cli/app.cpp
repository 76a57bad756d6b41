#include "cli/app.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <new>

#include "base/error.h"
#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/help.h"
#include "cli/option_names.h"
#include "cli/ranks.h"
#include "cli/terminal.h"
#include "cli/usage.h"
#include "runtime/version.h"

namespace coterie::cli {

namespace {

constexpr int kUsage = 2;
constexpr std::string_view kLess = "use smaller sizes or fewer --threads; coterie inspect shows what a model needs";

int report(const base::Error& error) {
  // Who asked to stop made no error.
  if (error.kind() == base::ErrorKind::interrupted) {
    if (!error.message().empty()) print_note(text_of(error));
    return interrupted_code();
  }
  if (error.kind() == base::ErrorKind::out_of_memory && error.where() == "buffer") {
    print_error("out of memory: " + error.message(), std::string(kLess));
    return base::exit_code(error.kind());
  }
  print_error(text_of(error), with_options(error.hint()));
  return base::exit_code(error.kind());
}

// A page of a mapped file that is no longer there. Nothing but write and _exit is allowed here.
void report_shrunken_file(int) {
  constexpr char kMessage[] =
      "coterie: error: a file became shorter while it was read\n"
      "  hint: replace a model by renaming a new file onto it, not by writing into the old one\n";
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, kMessage, sizeof(kMessage) - 1);
  ::_exit(base::exit_code(base::ErrorKind::io));
}

// Help is a result like others: where it cannot be written, that is an error.
int print_and_end(const std::string& text) {
  try {
    print(text);
    return 0;
  } catch (const base::Error& error) {
    return report(error);
  }
}

}  // namespace

void add_commands(CLI::App& app, Action& action) {
  add_run(app, action);
  add_chat(app, action);
  add_inspect(app, action);
  add_logits(app, action);
  add_eval(app, action);
  add_trace(app, action);
  add_lens(app, action);
  add_simulate(app, action);
  add_serve(app, action);
  add_tokenize(app, action);
  add_detokenize(app, action);
  add_embed(app, action);
  add_bench(app, action);
  add_info(app, action);
  add_tokenizer(app, action);
  add_convert(app, action);
  add_quantize(app, action);
  add_importance(app, action);
  add_prune(app, action);
  add_report(app, action);
  add_train(app, action);
  add_upcycle(app, action);
  add_gate(app, action);
  add_merge(app, action);
  add_tune(app, action);
  add_merge_adapter(app, action);
  add_completions(app, action);
  add_man(app, action);
}

int run(int argc, char** argv) {
  // `coterie run … | head` ends quietly, also when the parent ignored the signal.
  std::signal(SIGPIPE, SIG_DFL);
  std::signal(SIGBUS, report_shrunken_file);

  const std::optional<comm::Launch> launch = comm::read_launch();
  if (launch) silence_unless_first(*launch);

  CLI::App app("Coterie runs Mixture-of-Experts and dense language models on CPUs.", "coterie");
  app.formatter(std::make_shared<HelpFormatter>());
  // The last of a repeated option with one value counts, as everywhere else: scripts build on it.
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.set_help_flag("-h,--help", "Print this help and exit");
  app.set_version_flag("--version", "coterie " + std::string(runtime::version()), "Print the version and exit");
  app.require_subcommand(1);
  app.footer(
      "A MODEL is a folder with config.json and safetensors, a .gguf file, or (for inspect) a config.json.\n"
      "coterie help COMMAND has its options and examples.\n"
      "Exit codes: 0 done; 1 the system refused to read or write (no permission, a full disk); 2 bad usage or input, "
      "a\n"
      "missing file included; 70 a bug; 130 interrupted (Ctrl-C), 143 by SIGTERM.");
  Action action;
  add_commands(app, action);

  if (argc == 1) {
    std::fputs(app.help().c_str(), stderr);
    return kUsage;
  }
  try {
    std::vector<std::string> words = command_line(app, argc, argv);
    std::reverse(words.begin(), words.end());  // as CLI11 wants them
    app.parse(words);
    check_files(command_of(app));
    const int code = launch ? run_on_ranks(*launch, app, action) : action();
    flush_output();
    return code;
  } catch (const CLI::CallForVersion& wanted) {
    return print_and_end(wanted.what() + std::string("\n"));
  } catch (const CLI::Success&) {  // --help
    return print_and_end(app.help());
  } catch (const CLI::ParseError& error) {
    const UsageFault fault = usage_fault(app, error);
    print_error(fault.message, fault.hint);
    return kUsage;
  } catch (const base::Error& error) {
    return report(error);
  } catch (const std::bad_alloc&) {
    return report({base::ErrorKind::out_of_memory, "", "out of memory", std::string(kLess)});
  } catch (const std::exception& error) {
    return report({base::ErrorKind::internal, "", error.what(), "this is a bug in coterie: please report it"});
  }
}

}  // namespace coterie::cli
