#include <fmt/format.h>

#include <charconv>
#include <memory>

#include "base/error.h"
#include "base/json.h"
#include "base/plural.h"
#include "base/yaml.h"
#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/print_numbers.h"
#include "cli/print_surgery.h"
#include "cli/terminal.h"
#include "cli/text_input.h"
#include "families/family.h"
#include "kernels/table.h"
#include "surgery/upcycle/upcycle.h"

namespace coterie::cli {

namespace {

using base::ErrorKind;
using base::fail;
using surgery::UpcycleOptions;

struct UpcycleCommand {
  ModelOptions model;
  std::string out, scaling = "exact", layers, router, shared, model_type, dtype, text;
  UpcycleOptions options;
  double shard_gb = 5;
  bool no_check = false, json = false;
};

int64_t number(std::string_view text, std::string_view all) {
  int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0)
    fail(ErrorKind::bad_input, "--layers", "\"{}\"{} is not the number of a layer", text,
         text == all ? "" : fmt::format(" in \"{}\"", all));
  return value;
}

/// "0-3,8,10-" or "every:2"
std::vector<bool> read_layers(const std::string& text, size_t count) {
  std::vector<bool> layers(count);
  constexpr std::string_view kEvery = "every:";
  if (text.starts_with(kEvery)) {
    const auto step = static_cast<size_t>(number(std::string_view(text).substr(kEvery.size()), text));
    if (step == 0) fail(ErrorKind::bad_input, "--layers", "every:0 names no layer");
    for (size_t i = step; i <= count; i += step) layers[i - 1] = true;
    return layers;
  }
  size_t begin = 0;
  while (begin <= text.size()) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view range = std::string_view(text).substr(begin, end - begin);
    const size_t dash = range.find('-');
    const int64_t first = number(range.substr(0, dash), text);
    const int64_t last = dash == std::string_view::npos ? first
                         : dash + 1 == range.size()     ? static_cast<int64_t>(count) - 1
                                                        : number(range.substr(dash + 1), text);
    if (last < first || last >= static_cast<int64_t>(count))
      fail(ErrorKind::bad_input, "--layers", "\"{}\": the model has layers 0 to {}", range, count - 1);
    for (int64_t i = first; i <= last; ++i) layers[static_cast<size_t>(i)] = true;
    begin = end + 1;
  }
  return layers;
}

/// KEY=VALUE by commas, the keys of a router in a config of model_type coterie.
base::Json read_router_keys(const std::string& text) {
  base::Json keys = base::Json::object();
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string pair = text.substr(begin, end - begin);
    const size_t equals = pair.find('=');
    if (equals == std::string::npos || equals == 0)
      fail(ErrorKind::bad_input, "--router", "\"{}\": expected KEY=VALUE, such as renormalise=false", pair);
    keys[pair.substr(0, equals)] = base::parse_yaml(pair.substr(equals + 1), "--router");
    begin = end + 1;
  }
  return keys;
}

void read_shared(const std::string& text, UpcycleOptions& options) {
  using Shared = UpcycleOptions::Shared;
  constexpr std::string_view kIdle = "idle:";
  if (text.empty()) return;
  if (text == "none") {
    options.shared = Shared::none;
  } else if (text == "copy") {
    options.shared = Shared::copy;
  } else if (text == "idle") {
    options.shared = Shared::idle;
  } else if (text.starts_with(kIdle)) {
    options.shared = Shared::idle;
    const std::string_view width = std::string_view(text).substr(kIdle.size());
    const auto [end, error] = std::from_chars(width.data(), width.data() + width.size(), options.shared_hidden);
    if (error != std::errc() || end != width.data() + width.size() || options.shared_hidden < 1)
      fail(ErrorKind::bad_input, "--shared", "\"{}\": expected idle:F with the width F", text);
  } else {
    fail(ErrorKind::bad_input, "--shared", "\"{}\": expected none, copy, idle or idle:F", text);
  }
}

int upcycle_command(UpcycleCommand command) {
  UpcycleOptions& options = command.options;
  options.scaling = command.scaling == "exact"      ? UpcycleOptions::Scaling::exact
                    : command.scaling == "megatron" ? UpcycleOptions::Scaling::megatron
                                                    : UpcycleOptions::Scaling::none;
  if (!command.router.empty()) options.router = read_router_keys(command.router);
  read_shared(command.shared, options);
  options.model_type = command.model_type;
  options.dtype = output_dtype(command.dtype);
  options.shard_bytes = shard_bytes(command.shard_gb);
  options.check = !command.no_check;
  if (!command.text.empty()) options.text = text_to_compare(command.text);
  const families::Model model = families::open_model(command.model.model, command.model.open_options());
  warn_about(model);
  if (!command.layers.empty()) options.layers = read_layers(command.layers, model.decoder->spec().blocks.size());

  threads::Pool pool(command.model.threads);
  tensor::Arena arena;
  ops::Context context{pool, kernels::select(), arena, ops::Precision::f32};
  WritingProgress progress;
  options.on_progress = progress.listener();
  const surgery::Upcycled done = surgery::upcycle(context, model, command.out, options);
  progress.clear();
  print_written(done, command.out, command.json, "step 0", "the parent");
  if (!command.json)
    print(fmt::format("the parent has {} {}\n", grouped(done.parent_parameters),
                      base::noun(done.parent_parameters, "parameter")));
  return 0;
}

}  // namespace

void add_upcycle(CLI::App& app, Action& action) {
  auto options = std::make_shared<UpcycleCommand>();
  UpcycleOptions& o = options->options;
  CLI::App* command = app.add_subcommand("upcycle", "Make a mixture of experts out of a dense model");
  command->add_option("DENSE", options->model.model, "A folder with config.json and safetensors")
      ->check(reads())
      ->required();
  command->add_option("-o,--output", options->out, "The folder to write; it must be new or empty")
      ->type_name("FOLDER")
      ->check(writes())
      ->required();
  command->add_option("--experts", o.experts, "Experts in each layer (E)")->type_name("E")->required();
  command->add_option("--top-k", o.experts_per_token, "Experts for each token (K)")->type_name("K")->required();
  command
      ->add_option("--granularity", o.granularity,
                   "Each expert is one of G equal parts of the FFN; K = G of them are a whole copy")
      ->type_name("G")
      ->capture_default_str();
  command
      ->add_option("--scaling", options->scaling,
                   "How outputs are scaled up where gates and parts make them smaller: exact, megatron or none")
      ->type_name("RULE")
      ->check(CLI::IsMember({"exact", "megatron", "none"}))
      ->capture_default_str();
  command->add_option("--noise", o.noise, "Noise added to the experts, as a share of each matrix's standard deviation")
      ->type_name("S");
  command
      ->add_option("--reinit", o.reinit, "The share of each expert's hidden units that are drawn anew (Drop-Upcycling)")
      ->type_name("R");
  command->add_option("--layers", options->layers, "Layers that get experts: 0-3,8,10- or every:N (default: all)")
      ->type_name("LIST");
  command
      ->add_option("--router", options->router,
                   "The router, KEY=VALUE by commas: renormalise=false, score=sigmoid, selection_bias=true, …")
      ->type_name("KEYS");
  command->add_option("--router-std", o.router_std, "Standard deviation of the router's weights")
      ->type_name("S")
      ->capture_default_str();
  command
      ->add_option("--shared", options->shared,
                   "A shared expert: copy (of the FFN, half of the sum), idle[:F] (starts without effect), none")
      ->type_name("WHAT");
  command->add_option("--as", options->model_type, "The model_type to write (default: the published mixture type)")
      ->type_name("TYPE");
  command->add_option("--seed", o.seed, "The seed of the router, of noise, and of units that are drawn anew")
      ->capture_default_str();
  add_output_options(*command, options->dtype, options->shard_gb);
  add_check_options(*command, options->text, o.tokens, options->no_check);
  add_threads(*command, options->model.threads);
  command->add_flag("--strict", options->model.strict, "Refuse config keys that are not known");
  command->add_flag("--json", options->json, "Print the receipt; it is also written beside the model");
  command->footer(
      families::describe_mixtures() +
      ", the\n"
      "engine's own model_type. Written and parent are run on the same text; receipt.json says how far they are "
      "apart.\n"
      "Examples:\n"
      "  coterie upcycle ./SmolLM2-135M -o ./SmolLM2-4x135M --experts 4 --top-k 2\n"
      "  coterie upcycle ./Qwen3-0.6B -o ./fine --experts 64 --top-k 8 --granularity 8\n"
      "  coterie upcycle ./SmolLM2-135M -o ./drop --experts 8 --top-k 2 --reinit 0.5 --noise 0.01");
  command->callback([=, &action] { action = [options] { return upcycle_command(*options); }; });
}

}  // namespace coterie::cli
