#include <fmt/format.h>

#include <memory>

#include "base/error.h"
#include "base/nearest.h"
#include "cli/commands.h"
#include "cli/conversion.h"

namespace coterie::cli {

namespace {

struct QuantizeCommand {
  ConversionOptions conversion;
  std::string to;
  std::vector<std::string> importance;
};

const surgery::Mix& chosen_mix(const std::string& word) {
  if (const surgery::Mix* mix = surgery::mix_by_name(word)) return *mix;
  std::vector<std::string> names;
  std::string known;
  for (const surgery::Mix& mix : surgery::mixes()) {
    names.emplace_back(mix.name);
    known += (known.empty() ? "" : ", ") + names.back();
  }
  const std::string near = base::nearest(word, names);
  throw base::Error(base::ErrorKind::bad_input, "--to", fmt::format("\"{}\" is not a mixture of formats", word),
                    (near.empty() ? "" : "did you mean \"" + near + "\"? ") + "Known are " + known +
                        "; convert --to takes one format for all matrices");
}

int quantize_command(const QuantizeCommand& command) {
  surgery::ConvertOptions options = command.conversion.options();
  options.mix = &chosen_mix(command.to);
  if (!command.conversion.out.ends_with(".gguf"))
    base::fail(base::ErrorKind::bad_input, command.conversion.out, "a GGUF file's name ends in .gguf");
  surgery::Importance importance;
  for (const std::string& file : command.importance) importance.add(surgery::read_importance(file));
  if (!command.importance.empty()) options.importance = &importance;
  return write_model(command.conversion, std::move(options));
}

std::string rules() {
  std::string text;
  for (const surgery::Mix& mix : surgery::mixes())
    if (!mix.rule.empty()) text += fmt::format("  {:<7} {}; {}\n", mix.name, tensor::name(mix.base), mix.rule);
  return text;
}

}  // namespace

void add_quantize(CLI::App& app, Action& action) {
  auto options = std::make_shared<QuantizeCommand>();
  CLI::App* command = app.add_subcommand("quantize", "Write a model as a smaller GGUF file (q4_k_m and its kin)");
  options->conversion.add(*command, "The file to write");
  command->add_option("--to", options->to, "The mixture: q4_k_m, q5_k_m, q6_k, q8_0, q4_0, iq4_nl, mxfp4, bf16, …")
      ->type_name("MIX")
      ->required();
  command
      ->add_option("--importance", options->importance,
                   "What coterie importance (or llama-imatrix) counted; several files add up")
      ->type_name("FILE");
  command->footer(
      "Each mixture has one format for most matrices, and more bits for some, by the rules of llama-quantize:\n" +
      rules() +
      "In all of them routers, norms and biases stay in f32, the output matrix (or tied embedding) has q6_k or more, "
      "and\n"
      "in models of 8 experts attention's keys and values are q8_0. Rows that are no multiple of 256 get formats of "
      "32.\n"
      "The error that is said is the root of the mean squared error relative to that of the values.\n"
      "Examples:\n"
      "  coterie quantize ./OLMoE-1B-7B -o olmoe.gguf --to q4_k_m\n"
      "  coterie quantize olmoe-f16.gguf -o olmoe.gguf --to iq4_xs --importance olmoe.imatrix.gguf\n"
      "  coterie quantize ./OLMoE-1B-7B -o olmoe.gguf --to q4_k_s --at mixer=q8_0");
  command->callback([=, &action] { action = [options] { return quantize_command(*options); }; });
}

}  // namespace coterie::cli
