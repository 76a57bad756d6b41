#include <fmt/format.h>

#include <memory>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/commands.h"
#include "cli/number_words.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "surgery/convert.h"

namespace coterie::cli {

namespace {

struct ConvertCommand {
  ModelOptions model;
  std::string out, to;
  std::vector<std::string> at;
  bool no_tokenizer = false, json = false;
};

layers::Place place_by_name(const std::string& word) {
  std::string known;
  for (int i = 0; i < layers::kPlaces; ++i) {
    const auto place = static_cast<layers::Place>(i);
    if (layers::name(place) == word) return place;
    if (place != layers::Place::norms) known += (known.empty() ? "" : ", ") + std::string(layers::name(place));
  }
  base::fail(base::ErrorKind::bad_input, "--at", "\"{}\" is no place of matrices; places are {}", word, known);
}

surgery::ConvertOptions options_of(const ConvertCommand& command) {
  surgery::ConvertOptions options;
  if (!command.to.empty()) options.to = tensor::dtype_by_name(command.to);
  for (const std::string& pair : command.at) {
    const size_t equals = pair.find('=');
    if (equals == std::string::npos)
      base::fail(base::ErrorKind::bad_input, "--at", "\"{}\": expected PLACE=TYPE, such as experts=q4_k", pair);
    const layers::Place place = place_by_name(pair.substr(0, equals));
    if (place == layers::Place::norms)
      base::fail(base::ErrorKind::unsupported, "--at", "norms are vectors, kept as f32");
    if (!options.places.try_emplace(place, tensor::dtype_by_name(pair.substr(equals + 1))).second)
      base::fail(base::ErrorKind::bad_input, "--at", "{} is given twice", pair.substr(0, equals));
  }
  options.tokenizer = !command.no_tokenizer;
  options.threads = command.model.threads;
  return options;
}

int convert_command(const ConvertCommand& command) {
  surgery::ConvertOptions options = options_of(command);
  const models::Model model = models::open_model(command.model.model, command.model.open_options());
  warn_about(model);
  Progress progress;
  options.on_progress = [&](std::string_view name, int64_t done, int64_t all) {
    progress.show(fmt::format("{}: {}", percent(static_cast<double>(done) / static_cast<double>(all)), name));
  };
  const surgery::Converted converted = surgery::convert(model, command.out, options);
  progress.clear();
  for (const std::string& note : converted.notes) print_warning(note);
  if (command.json) {
    base::Json values = base::Json::object();
    for (const auto& [dtype, count] : converted.values) values[std::string(tensor::name(dtype))] = count;
    print(base::Json{{"file", command.out},
                     {"bytes", converted.file_bytes},
                     {"tensors", converted.tensors},
                     {"values", values},
                     {"notes", converted.notes}}
              .dump(2) +
          "\n");
    return 0;
  }
  std::string formats;
  for (const auto& [dtype, count] : converted.values)
    formats += fmt::format("{}{} in {}", formats.empty() ? "" : ", ", abbreviated(count), tensor::name(dtype));
  print_note(fmt::format("{}: {}, {} tensors; parameters {}", command.out, base::human_bytes(converted.file_bytes),
                         converted.tensors, formats));
  return 0;
}

}  // namespace

void add_convert(CLI::App& app, Action& action) {
  auto options = std::make_shared<ConvertCommand>();
  CLI::App* command = app.add_subcommand("convert", "Write a Hugging Face folder as a GGUF file");
  command->add_option("MODEL", options->model.model, "A folder with config.json and safetensors")->required();
  command->add_option("-o,--output", options->out, "The file to write")->type_name("FILE.gguf")->required();
  command
      ->add_option("--to", options->to,
                   "Format of the matrices: f32, f16, bf16, q8_0, q6_k, q5_k, q4_k, q4_0, … (default: as they are)")
      ->type_name("T");
  command
      ->add_option(
          "--at", options->at,
          "Another format for one place: input_embeddings, mixer, router, experts, shared_experts, dense_ffn or "
          "output_embeddings")
      ->type_name("PLACE=T");
  command->add_flag("--no-tokenizer", options->no_tokenizer, "Leave the tokenizer out");
  command->add_option("--threads,-t", options->model.threads, "Threads (default: one for each physical core)")
      ->check(at_least(1));
  command->add_flag("--strict", options->model.strict, "Refuse config keys that are not known");
  command->add_flag("--json", options->json, "Say what was written as JSON");
  command->footer(
      "Norms, biases and routers stay in f32; an output matrix gets q6_k where the format has fewer than 8 bits.\n"
      "Examples:\n"
      "  coterie convert ./OLMoE-1B-7B -o olmoe.gguf --to q4_k\n"
      "  coterie convert runs/mine/checkpoint -o mine.gguf --to q8_0 --at experts=q4_k");
  command->callback([=, &action] { action = [options] { return convert_command(*options); }; });
}

}  // namespace coterie::cli
