#include "cli/conversion.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/plural.h"
#include "cli/command_files.h"
#include "cli/print_formats.h"
#include "cli/print_numbers.h"
#include "cli/terminal.h"

namespace coterie::cli {

namespace {

layers::Place place_by_name(const std::string& word) {
  std::string known;
  for (int i = 0; i < layers::kPlaces; ++i) {
    const auto place = static_cast<layers::Place>(i);
    if (layers::name(place) == word) return place;
    if (place != layers::Place::norms) known += (known.empty() ? "" : ", ") + std::string(layers::name(place));
  }
  base::fail(base::ErrorKind::bad_input, "--at", "\"{}\" is not a place of matrices; the places are {}", word, known);
}

base::Json as_json(const std::string& out, const surgery::Converted& converted) {
  base::Json values = base::Json::object(), errors = base::Json::object();
  for (const auto& [dtype, count] : converted.values) values[std::string(tensor::name(dtype))] = count;
  for (const auto& [dtype, loss] : converted.losses) errors[std::string(tensor::name(dtype))] = loss.relative();
  return {{"file", out},      {"bytes", converted.file_bytes}, {"tensors", converted.tensors},
          {"values", values}, {"relative_errors", errors},     {"notes", converted.notes}};
}

}  // namespace

void ConversionOptions::add(CLI::App& command, const std::string& output) {
  command.add_option("MODEL", model.model, "A folder with config.json and safetensors, or a .gguf file")
      ->check(reads())
      ->required();
  command.add_option("-o,--output", out, output)->type_name("OUT")->check(writes())->required();
  command
      .add_option(
          "--at", at,
          "Another format for one place: input_embeddings, mixer, router, experts, shared_experts, dense_ffn or "
          "output_embeddings")
      ->type_name("PLACE=T");
  command.add_flag("--requantize", requantise,
                   "Round weights that are in block formats to another one; the errors of both roundings add up");
  command.add_flag("--no-tokenizer", no_tokenizer, "Leave the tokenizer out");
  add_threads(command, model.threads);
  add_force(command, force);
  command.add_flag("--strict", model.strict, "Refuse config keys that are not known");
  command.add_flag("--json", json, "Print what was written as JSON");
}

surgery::ConvertOptions ConversionOptions::options() const {
  surgery::ConvertOptions options;
  for (const std::string& pair : at) {
    const size_t equals = pair.find('=');
    if (equals == std::string::npos)
      base::fail(base::ErrorKind::bad_input, "--at", "\"{}\": expected PLACE=TYPE, such as experts=q4_k", pair);
    const layers::Place place = place_by_name(pair.substr(0, equals));
    if (place == layers::Place::norms)
      base::fail(base::ErrorKind::unsupported, "--at", "norms are vectors, kept as f32");
    if (!options.places.try_emplace(place, weight_format("--at", pair.substr(equals + 1), Formats::written)).second)
      base::fail(base::ErrorKind::bad_input, "--at", "{} is given twice", pair.substr(0, equals));
  }
  options.requantise = requantise;
  options.tokenizer = !no_tokenizer;
  options.threads = model.threads;
  return options;
}

int write_model(const ConversionOptions& conversion, surgery::ConvertOptions options) {
  refuse_existing_output(conversion.out, conversion.force);
  const families::Model model = families::open_model(conversion.model.model, conversion.model.open_options());
  warn_about(model);
  Progress progress;
  const InterruptFlag interrupt;
  options.on_progress = [&](std::string_view name, int64_t done, int64_t all) {
    if (interrupt.raised())
      throw base::Error(base::ErrorKind::interrupted, conversion.out, "interrupted: nothing was written");
    progress.show(fmt::format("{}: {}", percent(static_cast<double>(done) / static_cast<double>(all)), name));
  };
  const surgery::Converted converted = surgery::convert(model, conversion.out, options);
  progress.clear();
  for (const std::string& note : converted.notes) print_warning(note);
  if (conversion.json) {
    print(as_json(conversion.out, converted).dump(2) + "\n");
    return 0;
  }
  std::string formats;
  for (const auto& [dtype, count] : converted.values) {
    formats += fmt::format("{}{} in {}", formats.empty() ? "" : ", ", abbreviated(count), tensor::name(dtype));
    const auto loss = converted.losses.find(dtype);
    if (loss != converted.losses.end() && loss->second.squared_error > 0)
      formats += fmt::format(" (error {:.2g} %)", 100 * loss->second.relative());
  }
  print_note(fmt::format("{}: {}, {}; parameters {}", conversion.out, base::human_bytes(converted.file_bytes),
                         base::plural(converted.tensors, "tensor"), formats));
  return 0;
}

}  // namespace coterie::cli
