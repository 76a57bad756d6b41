#include <fmt/format.h>

#include <memory>

#include "base/error.h"
#include "base/nearest.h"
#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/conversion.h"

namespace coterie::cli {

namespace {

struct QuantizeCommand {
  ConversionOptions conversion;
  std::string to;
  std::vector<std::string> importance;
};

const surgery::Preset& chosen_preset(const std::string& word) {
  if (const surgery::Preset* preset = surgery::preset_by_name(word)) return *preset;
  std::vector<std::string> names;
  std::string known;
  for (const surgery::Preset& preset : surgery::presets()) {
    names.emplace_back(preset.name);
    known += (known.empty() ? "" : ", ") + names.back();
  }
  const std::string near = base::nearest(word, names);
  throw base::Error(base::ErrorKind::bad_input, "--to", fmt::format("\"{}\" is not a preset", word),
                    (near.empty() ? "" : "did you mean \"" + near + "\"? ") + "Known are " + known +
                        "; convert --to takes one format for all matrices");
}

int quantize_command(const QuantizeCommand& command) {
  surgery::ConvertOptions options = command.conversion.options();
  options.preset = &chosen_preset(command.to);
  if (!command.conversion.out.ends_with(".gguf"))
    base::fail(base::ErrorKind::bad_input, command.conversion.out, "a GGUF file's name ends in .gguf");
  surgery::Importance importance;
  for (const std::string& file : command.importance) importance.add(surgery::read_importance(file));
  if (!command.importance.empty()) options.importance = &importance;
  return write_model(command.conversion, std::move(options));
}

std::string rules() {
  std::string text;
  for (const surgery::Preset& preset : surgery::presets())
    if (!preset.rule.empty())
      text += fmt::format("  {:<7} {}; {}\n", preset.name, tensor::name(preset.base), preset.rule);
  return text;
}

}  // namespace

void add_quantize(CLI::App& app, Action& action) {
  auto options = std::make_shared<QuantizeCommand>();
  CLI::App* command = app.add_subcommand("quantize", "Write a model as a smaller GGUF file (q4_k_m and its kin)");
  options->conversion.add(*command, "The file to write");
  command->add_option("--to", options->to, "The preset: q4_k_m, q5_k_m, q6_k, q8_0, q4_0, iq4_nl, mxfp4, bf16, …")
      ->type_name("MIX")
      ->required();
  command
      ->add_option("--importance", options->importance,
                   "What coterie importance (or llama-imatrix) counted; several files add up")
      ->type_name("FILE")
      ->check(reads());
  command->footer(
      "Each preset has one format for most matrices, and more bits for some, by the rules of llama-quantize:\n" +
      rules() +
      "In all of them routers, norms and biases stay in f32, the output matrix (or tied embedding) has q6_k or more, "
      "and\n"
      "in models of 8 experts attention's keys and values are q8_0. Rows whose length is not a multiple of 256 get "
      "formats of 32.\nThe error that is printed is the root of the mean squared error relative to that of the "
      "values.\n"
      "Examples:\n"
      "  coterie quantize ./OLMoE-1B-7B -o olmoe.gguf --to q4_k_m\n"
      "  coterie quantize olmoe-f16.gguf -o olmoe.gguf --to iq4_xs --importance olmoe.imatrix.gguf\n"
      "  coterie quantize ./OLMoE-1B-7B -o olmoe.gguf --to q4_k_s --at mixer=q8_0");
  command->callback([=, &action] { action = [options] { return quantize_command(*options); }; });
}

}  // namespace coterie::cli
