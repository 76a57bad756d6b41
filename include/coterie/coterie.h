#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// The one header that is promised: Mixture-of-Experts and dense language models on CPUs, as a library.
// Everything else in the source tree may change from version to version.
//
//   coterie::Model model = coterie::Model::load("model.gguf");
//   model.generate("Once upon a time", {}, [](std::string_view text) { std::cout << text << std::flush; });
namespace coterie {

/// "0.1.0"
std::string_view version();

/// What every function here throws when data, an argument or the machine is at fault. what() holds all of it.
class Error : public std::runtime_error {
 public:
  enum class Kind { bad_input, unsupported, not_found, out_of_memory, io, interrupted, internal };
  Error(Kind kind, std::string where, std::string message, std::string hint, const std::string& what)
      : std::runtime_error(what),
        kind_(kind),
        where_(std::move(where)),
        message_(std::move(message)),
        hint_(std::move(hint)) {}

  Kind kind() const { return kind_; }
  const std::string& where() const { return where_; }  // a file, a tensor, an option
  const std::string& message() const { return message_; }
  const std::string& hint() const { return hint_; }  // what to do about it; may be empty

 private:
  Kind kind_;
  std::string where_, message_, hint_;
};

struct LoadOptions {
  int threads = 0;                           // 0 = one for each physical core
  int64_t context = 0;                       // positions; 0 = as many as the model was made for
  bool exact = false;                        // decode weights and sum in f32, cache in f32: slower, for comparisons
  std::optional<int64_t> experts_per_token;  // route to so many instead of the checkpoint's number
  std::optional<float> router_temperature;   // draw experts in proportion to softmax(logits / T) instead of the best
};

struct GenerateOptions {
  int64_t max_tokens = 256;  // -1 = until the model ends its text or the context is full
  double temperature = 0.8;  // 0 = always the most probable token
  int64_t top_k = 40;        // 0 = off
  double top_p = 0.95;       // 1 = off
  double min_p = 0.05;       // 0 = off
  double typical = 1;        // 1 = off
  double repeat_penalty = 1;
  int64_t repeat_last_n = 64;  // -1 = all tokens
  double presence_penalty = 0, frequency_penalty = 0;
  // The rest is off unless set; docs/guides/sampling.md has the formulas.
  double dry_multiplier = 0, dry_base = 1.75;  // DRY: against repetitions of dry_allowed_length tokens and more
  int64_t dry_allowed_length = 2, dry_penalty_last_n = 64;
  std::vector<std::string> dry_sequence_breakers = {"\n", ":", "\"", "*"};
  double xtc_probability = 0, xtc_threshold = 0.1;  // XTC: excludes top choices
  double top_n_sigma = -1;                          // only logits so many standard deviations below the best
  double dynatemp_range = 0, dynatemp_exp = 1;      // the temperature by the entropy, within +- range
  int64_t mirostat = 0;                             // 2: holds the surprise; wants top_k = 0, top_p = 1, min_p = 0
  double mirostat_lr = 0.1, mirostat_ent = 5;
  std::vector<std::pair<int32_t, float>> logit_bias;
  uint64_t seed = 0;
  std::vector<std::string> stop;                 // the text ends before any of these
  const std::atomic<bool>* interrupt = nullptr;  // set it from anywhere to end the text early
};

struct Message {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

struct Generated {
  std::string text;
  std::vector<int32_t> tokens;
  std::string finish;  // "end token", "stop string", "token limit", "context full", "interrupted"
  int64_t prompt_tokens = 0, reused_tokens = 0;
  double prompt_seconds = 0, decode_seconds = 0;
};

/// A model ready to run: its files are mapped, nothing is converted. One thread at a time; load several for more.
class Model {
 public:
  /// A folder with config.json and safetensors, or a .gguf file.
  static Model load(const std::filesystem::path& path, const LoadOptions& options = {});
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  using OnText = std::function<void(std::string_view text)>;  // whole UTF-8, as soon as it is certain

  /// Continues a text.
  Generated generate(std::string_view prompt, const GenerateOptions& options = {}, const OnText& on_text = {});
  /// Continues ids, for callers that tokenize themselves.
  Generated generate(std::span<const int32_t> prompt, const GenerateOptions& options = {}, const OnText& on_text = {});
  /// Answers the last of the messages, by the model's chat template. What earlier calls have evaluated is reused.
  Generated chat(std::span<const Message> messages, const GenerateOptions& options = {}, const OnText& on_text = {});

  bool has_chat_template() const;
  std::string apply_chat_template(std::span<const Message> messages, bool add_generation_prompt = true) const;
  /// `add_special`: with the BOS a model wants at the beginning of a text.
  std::vector<int32_t> tokenize(std::string_view text, bool add_special = true) const;
  std::string detokenize(std::span<const int32_t> ids) const;
  int64_t count_tokens(std::string_view text) const;

  const std::string& name() const;
  int64_t context_size() const;
  int64_t vocabulary_size() const;
  int64_t parameters() const;         // held
  int64_t active_parameters() const;  // per token
  /// What opening it had to say, such as config keys that nothing knows.
  const std::vector<std::string>& warnings() const;

 private:
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace coterie
