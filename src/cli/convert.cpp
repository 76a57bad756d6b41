#include <memory>

#include "cli/commands.h"
#include "cli/conversion.h"
#include "cli/print_formats.h"

namespace coterie::cli {

namespace {

struct ConvertCommand {
  ConversionOptions conversion;
  std::string to;
};

int convert_command(const ConvertCommand& command) {
  surgery::ConvertOptions options = command.conversion.options();
  if (!command.to.empty()) options.to = weight_format("--to", command.to, Formats::written);
  return write_model(command.conversion, std::move(options));
}

}  // namespace

void add_convert(CLI::App& app, Action& action) {
  auto options = std::make_shared<ConvertCommand>();
  CLI::App* command =
      app.add_subcommand("convert", "Write a model as a GGUF file or as a Hugging Face folder, in another format");
  options->conversion.add(*command, "A file that ends in .gguf, or else a new or empty folder");
  command
      ->add_option("--to", options->to,
                   "Format of the matrices: f32, f16, bf16, q8_0, q6_k, q5_k, q4_k, q4_0, … (default: as they are)")
      ->type_name("T");
  command->footer(
      "In a GGUF norms, biases and routers stay in f32, and an output matrix gets q6_k where the format has fewer "
      "than\n"
      "8 bits; presets such as q4_k_m are made by coterie quantize. A folder has bf16, f16 or f32.\n"
      "Examples:\n"
      "  coterie convert ./OLMoE-1B-7B -o olmoe.gguf --to q4_k\n"
      "  coterie convert olmoe.gguf -o ./olmoe --to bf16\n"
      "  coterie convert runs/mine/checkpoint -o mine.gguf --to q8_0 --at experts=q4_k");
  command->callback([=, &action] { action = [options] { return convert_command(*options); }; });
}

}  // namespace coterie::cli
