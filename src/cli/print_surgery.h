#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cli/terminal.h"
#include "surgery/write/model_folder.h"
#include "surgery/write/written.h"
#include "tensor/dtype.h"

// What commands that write a model folder share.
namespace coterie::cli {

/// --dtype and --shard-size
void add_output_options(CLI::App& app, std::string& dtype, double& shard_gb);
/// Nothing for "": as the sources are. Refuses all but f32, f16 and bf16.
std::optional<tensor::DType> output_dtype(const std::string& word);
/// Gigabytes as bytes; refuses what is not above zero.
int64_t shard_bytes(double gigabytes);

/// --text, --tokens and --no-check: how what was written is compared with what it was made of.
void add_check_options(CLI::App& app, std::string& text, int64_t& tokens, bool& no_check);

/// The text in the file of --text. Throws bad_input, naming it, for what is not UTF-8.
std::string text_to_compare(const std::string& file);

/// "step 0 on 128 tokens: logits differ by …"
std::string describe(const surgery::Comparison& comparison, std::string_view what, std::string_view from);

/// Warns of the notes and says what is in the folder `out`: its receipt as JSON, or in words, of which the comparison
/// says `what` differs `from` what.
void print_written(const surgery::Written& done, const std::string& out, bool json, std::string_view what,
                   std::string_view from);

/// The line that is overwritten; Ctrl-C ends the writing, which then leaves nothing.
class WritingProgress {
 public:
  surgery::OnProgress listener();
  void clear() { progress_.clear(); }

 private:
  InterruptFlag interrupt_;
  Progress progress_;
};

}  // namespace coterie::cli
