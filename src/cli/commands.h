#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace coterie::cli {

/// What the chosen subcommand does, after parsing; returns the exit code.
using Action = std::function<int()>;

/// All of them, in the order in which --help lists them.
void add_commands(CLI::App& app, Action& action);

// One file a subcommand. Each adds its options to the app and sets `action` when it is the one that was named.
void add_run(CLI::App& app, Action& action);
void add_chat(CLI::App& app, Action& action);
void add_inspect(CLI::App& app, Action& action);
void add_logits(CLI::App& app, Action& action);
void add_eval(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);
void add_info(CLI::App& app, Action& action);
void add_serve(CLI::App& app, Action& action);
void add_tokenize(CLI::App& app, Action& action);
void add_detokenize(CLI::App& app, Action& action);
void add_embed(CLI::App& app, Action& action);
void add_completions(CLI::App& app, Action& action);
void add_man(CLI::App& app, Action& action);
void add_tokenizer(CLI::App& app, Action& action);
void add_convert(CLI::App& app, Action& action);
void add_quantize(CLI::App& app, Action& action);
void add_importance(CLI::App& app, Action& action);
void add_prune(CLI::App& app, Action& action);
void add_report(CLI::App& app, Action& action);
void add_trace(CLI::App& app, Action& action);
void add_lens(CLI::App& app, Action& action);
void add_simulate(CLI::App& app, Action& action);
void add_train(CLI::App& app, Action& action);
void add_upcycle(CLI::App& app, Action& action);
void add_gate(CLI::App& app, Action& action);
void add_merge(CLI::App& app, Action& action);
void add_tune(CLI::App& app, Action& action);
void add_merge_adapter(CLI::App& app, Action& action);

}  // namespace coterie::cli
