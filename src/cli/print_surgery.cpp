#include "cli/print_surgery.h"

#include "cli/command_files.h"
#include "cli/text_input.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/plural.h"
#include "base/utf8.h"
#include "cli/options.h"
#include "cli/print_formats.h"
#include "cli/print_numbers.h"
#include "cli/text_input.h"

namespace coterie::cli {

using base::ErrorKind;

void add_output_options(CLI::App& app, std::string& dtype, double& shard_gb) {
  app.add_option("--dtype", dtype, "Write all weights as f32, f16 or bf16 (default: as they are)")->type_name("T");
  app.add_option("--shard-size", shard_gb, "The approximate size of each file of weights, in GB")
      ->type_name("GB")
      ->capture_default_str();
}

std::optional<tensor::DType> output_dtype(const std::string& word) {
  if (word.empty()) return {};
  const tensor::DType dtype = weight_format("--dtype", word, Formats::written);
  if (dtype != tensor::DType::f32 && dtype != tensor::DType::f16 && dtype != tensor::DType::bf16)
    base::fail(ErrorKind::unsupported, "--dtype", "\"{}\": expected f32, f16 or bf16", word);
  return dtype;
}

int64_t shard_bytes(double gigabytes) {
  if (!(gigabytes > 0 && gigabytes < 1e9))
    base::fail(ErrorKind::bad_input, "--shard-size", "is {}, expected more than 0", gigabytes);
  return static_cast<int64_t>(gigabytes * 1e9);
}

void add_check_options(CLI::App& app, std::string& text, int64_t& tokens, bool& no_check) {
  auto* file = app.add_option("--text", text, "The text to compare on (default: a few sentences)")
                   ->type_name("FILE")
                   ->check(reads());
  app.add_option("--tokens", tokens, "Tokens to compare on")->type_name("N")->check(at_least(1))->capture_default_str();
  app.add_flag("--no-check", no_check, "Do not run what was written")->excludes(file);
}

std::string text_to_compare(const std::string& file) {
  std::string text = file_contents(file);
  if (text.empty()) base::fail(ErrorKind::bad_input, name_of_input(file), "is empty, expected a text to compare on");
  base::require_utf8(text, name_of_input(file), "the text");
  return text;
}

std::string describe(const surgery::Comparison& c, std::string_view what, std::string_view from) {
  return fmt::format(
      "{} on {}: logits differ from {} by {:.3g} at most, {:.2g} of their spread; KL {:.3g} nats; the same best token "
      "in "
      "{}; cross-entropy {:.4f}, of {}: {:.4f}\n",
      what, base::plural(c.tokens, "token"), from, c.largest, c.relative(), std::max(c.divergence, 0.0),
      percent(c.same_best), c.second_loss, from, c.first_loss);
}

void print_written(const surgery::Written& done, const std::string& out, bool json, std::string_view what,
                   std::string_view from) {
  for (const std::string& note : done.notes) print_warning(note);
  if (json) return print(base::read_text(std::filesystem::path(out) / surgery::kReceipt));
  print(fmt::format("{}: {}, {} in {}\n", out, done.model_type, base::human_bytes(done.bytes),
                    base::plural(done.tensors, "tensor")));
  print(fmt::format("parameters {}, {} of them active for a token\n", grouped(done.parameters),
                    grouped(done.active_parameters)));
  if (done.comparison) print(describe(*done.comparison, what, from));
}

surgery::OnProgress WritingProgress::listener() {
  return [this](std::string_view name, int64_t done, int64_t all) {
    if (interrupt_.raised()) throw base::Error(ErrorKind::interrupted, "", "interrupted: nothing was written");
    progress_.show(fmt::format("{}: {}", percent(static_cast<double>(done) / static_cast<double>(all)), name));
  };
}

}  // namespace coterie::cli
