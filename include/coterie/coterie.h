#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// The one C++ header that is promised (coterie_c.h is the same in C): Mixture-of-Experts and dense language models on
// CPUs, as a library. Everything else in the source tree may change from version to version.
//
//   coterie::Model model = coterie::Model::load("model.gguf");
//   model.generate("Once upon a time", {}, [](std::string_view text) { std::cout << text << std::flush; });
//
// Letters of shapes: T tokens of a sequence, V vocabulary, D model width, E experts, K experts per token. Arrays are
// row by row. Every function may throw coterie::Error and nothing else, except what a callback of the caller's throws,
// which leaves as it is. After an error objects are as they were before the call, unless the function says otherwise.
#define COTERIE_VERSION_MAJOR 0
#define COTERIE_VERSION_MINOR 2
#define COTERIE_VERSION_PATCH 0

#if defined(__GNUC__)
#define COTERIE_API __attribute__((visibility("default")))
#else
#define COTERIE_API
#endif

namespace coterie {

/// "0.2.0", of the library that is linked; the macros above are those of the header.
[[nodiscard]] COTERIE_API std::string_view version() noexcept;

/// What every function here throws when data, an argument or the machine is at fault. what() holds all of it.
class COTERIE_API Error : public std::runtime_error {
 public:
  enum class Kind {
    bad_input,      // a file, an option or a request that is wrong
    unsupported,    // well formed, but nothing here computes it
    not_found,      // a file, a tensor, a key
    out_of_memory,  // would not fit
    io,             // the system refused to read or write
    interrupted,
    internal,  // a bug of the library's
  };

  [[nodiscard]] Kind kind() const noexcept;
  [[nodiscard]] const std::string& where() const noexcept;    // a file, a tensor, an option
  [[nodiscard]] const std::string& message() const noexcept;  // what was expected and what was found
  [[nodiscard]] const std::string& hint() const noexcept;     // what to do about it; may be empty

 private:
  struct Parts;
  friend struct ErrorMaker;
  explicit Error(std::shared_ptr<const Parts> parts);
  std::shared_ptr<const Parts> parts_;
};

/// What keys and values of past tokens are kept in.
enum class CacheType { automatic, f32, f16, bf16, q8_0 };  // automatic: f16, or f32 for exact models

struct LoadOptions {
  int threads = 0;            // 0 = one for each physical core
  int64_t context = 0;        // positions of a session; 0 = as many as the model was made for
  int64_t step_tokens = 512;  // tokens that one step evaluates at most, all sessions together
  bool exact = false;         // decode weights and sum in f32: slower, for comparisons
  CacheType cache_type = CacheType::automatic;
  int64_t cache_bytes = 0;  // that the caches of all sessions may take; 0 = what the machine has
  int64_t memory = 0;   // that the process may take; 0 = what there is. Experts beyond it are read as they are needed
  bool strict = false;  // refuse config keys that nothing knows, instead of a warning
  std::optional<int64_t> experts_per_token = {};  // route to so many instead of the checkpoint's number
  std::optional<float> router_temperature = {};   // draw experts in proportion to softmax(logits / T)
  std::filesystem::path adapter = {};  // a folder of low-rank matrices (peft's LoRA) added to the weights; empty: none
  double adapter_factor = 1;           // what the adapter adds is multiplied by it
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
  std::vector<std::pair<int32_t, float>> logit_bias = {};
  uint64_t seed = 0;
  std::vector<std::string> stop = {};  // the text ends before any of these
  bool ignore_end = false;             // go on past the model's end tokens
  // What the text has to be, at most one of them (docs/guides/structured-output.md); empty: anything.
  std::string json_schema = {};                  // JSON that fits this schema
  std::string grammar = {};                      // a text of this Lark grammar, from its rule `start`
  std::string regex = {};                        // as a whole a match of this regular expression
  const std::atomic<bool>* interrupt = nullptr;  // set it from anywhere to end the text early; see Session::cancel
};

struct Message {
  std::string role;  // "system", "user", "assistant", "tool"
  std::string content;
};

/// Why a text ended.
enum class Finish {
  not_yet,       // it has not
  end_token,     // the model ended it
  stop_string,   // GenerateOptions::stop
  max_tokens,    // GenerateOptions::max_tokens
  context_full,  // LoadOptions::context
  interrupted,   // GenerateOptions::interrupt or Session::cancel
  failed,        // Session::error says by what
};
/// "end token", "stop string", "token limit" …
[[nodiscard]] COTERIE_API std::string_view name(Finish finish) noexcept;

struct Generated {
  std::string text;             // whole UTF-8, without special tokens
  std::vector<int32_t> tokens;  // an end token included
  Finish finish = Finish::not_yet;
  int64_t prompt_tokens = 0, reused_tokens = 0;   // reused: of the prompt, evaluated by an earlier call
  double prompt_seconds = 0, decode_seconds = 0;  // until the first token was chosen; from then on
};

/// What a router decided for T tokens of one session. Lives as long as the callback that it is given to runs.
struct Routing {
  int64_t layer = 0;           // of the model, from 0; of an ensemble, its models' layers one after another
  int64_t first_position = 0;  // of the first of the tokens in the session
  int64_t tokens = 0, experts = 0, experts_per_token = 0;  // T, E, K
  std::span<const int32_t> chosen = {};                    // [T, K]: experts, best first; -1 where a capacity left none
  std::span<const float> weights = {};  // [T, K]: what each expert's output is multiplied by; 0 beside a -1
  std::span<const float> logits = {};   // [T, E]: the router's, before noise
};

using OnText = std::function<void(std::string_view text)>;      // whole UTF-8, as soon as it is certain
using OnRouting = std::function<void(const Routing& routing)>;  // once for each layer with a router and each step

enum class Pooling { mean, last };

class Session;

/// A model, or an ensemble of models that `coterie gate` wrote, ready to run: its files are mapped, nothing is
/// converted. A handle: copies share one model, which is gone with the last handle and the last session. It may be used
/// from several threads at once; what computes then takes turns, step by step. To use the processor for several
/// sequences, step() their sessions together.
class COTERIE_API Model {
 public:
  /// `path`: a folder with config.json and safetensors, a .gguf file, or the folder of an ensemble. Throws not_found,
  /// bad_input or unsupported naming the file and what in it is at fault, out_of_memory for what cannot fit, and
  /// bad_input for an option outside its range.
  [[nodiscard]] static Model load(const std::filesystem::path& path, const LoadOptions& options = {});

  /// A new sequence, with no tokens.
  [[nodiscard]] Session session() const;

  /// session().generate and session().chat, for a text that nothing follows: no cache is kept.
  Generated generate(std::string_view prompt, const GenerateOptions& options = {}, const OnText& on_text = {}) const;
  Generated generate(std::span<const int32_t> prompt, const GenerateOptions& options = {},
                     const OnText& on_text = {}) const;
  Generated chat(std::span<const Message> messages, const GenerateOptions& options = {},
                 const OnText& on_text = {}) const;
  Generated chat(std::initializer_list<Message> messages, const GenerateOptions& options = {},
                 const OnText& on_text = {}) const;

  /// Text to ids. `add_special`: with the BOS a model wants at the beginning of a text. Special tokens written out in
  /// the text are recognised. Throws unsupported for a model without a tokenizer; so do all functions that take or give
  /// text.
  [[nodiscard]] std::vector<int32_t> tokenize(std::string_view text, bool add_special = true) const;
  /// Ids to text, without special tokens. Throws bad_input for an id outside of the vocabulary.
  [[nodiscard]] std::string detokenize(std::span<const int32_t> ids) const;
  [[nodiscard]] int64_t count_tokens(std::string_view text) const;

  [[nodiscard]] bool has_chat_template() const;
  /// The prompt that the model's chat template makes of the messages. Throws unsupported for a model without one, and
  /// bad_input with the template's own words when it refuses the messages.
  [[nodiscard]] std::string apply_chat_template(std::span<const Message> messages,
                                                bool add_generation_prompt = true) const;
  [[nodiscard]] std::string apply_chat_template(std::initializer_list<Message> messages,
                                                bool add_generation_prompt = true) const;

  [[nodiscard]] const std::string& name() const;
  [[nodiscard]] int64_t context_size() const;     // positions that a session may have
  [[nodiscard]] int64_t vocabulary_size() const;  // V
  [[nodiscard]] int64_t width() const;            // D
  [[nodiscard]] int64_t layers() const;
  [[nodiscard]] int64_t parameters() const;         // held
  [[nodiscard]] int64_t active_parameters() const;  // used for a token
  [[nodiscard]] const std::vector<int32_t>& end_tokens() const;
  /// Names of the models of an ensemble; of a model alone its own.
  [[nodiscard]] const std::vector<std::string>& models() const;
  /// What opening it had to say, such as config keys that nothing knows.
  [[nodiscard]] const std::vector<std::string>& warnings() const;

  struct Impl;  // the library's own

 private:
  friend class Session;
  friend COTERIE_API void step(std::span<Session* const> sessions);
  explicit Model(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

/// One sequence of a model: tokens, and the cache of what has been computed of them. Calls take whole sequences of
/// tokens and compute what is new: the longest beginning that they have in common with the tokens held is reused, the
/// rest is forgotten. So a chat goes on with all its messages, and costs the new ones.
///
/// Used by one thread at a time, cancel() aside; several sessions of a model may be used by several threads.
class COTERIE_API Session {
 public:
  explicit Session(const Model& model);
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;
  ~Session();

  [[nodiscard]] const Model& model() const noexcept;

  // Writing text.

  /// Continues a text, or ids, to its end. Throws bad_input for an empty prompt, one that leaves no room in the
  /// context, ids outside of the vocabulary and options outside their ranges; out_of_memory when the cache of prompt
  /// and max_tokens cannot fit. When on_text throws, what was evaluated until then is kept.
  Generated generate(std::string_view prompt, const GenerateOptions& options = {}, const OnText& on_text = {});
  Generated generate(std::span<const int32_t> prompt, const GenerateOptions& options = {}, const OnText& on_text = {});
  /// Answers the last of the messages, by the model's chat template (Model::apply_chat_template).
  Generated chat(std::span<const Message> messages, const GenerateOptions& options = {}, const OnText& on_text = {});
  Generated chat(std::initializer_list<Message> messages, const GenerateOptions& options = {},
                 const OnText& on_text = {});

  /// Begins what generate() does, to be moved on by step(), alone or with other sessions. Throws as generate() does. A
  /// text that is being written is given up.
  void start(std::span<const int32_t> prompt, const GenerateOptions& options = {}, OnText on_text = {});
  void start(std::string_view prompt, const GenerateOptions& options = {}, OnText on_text = {});
  /// Whether there is nothing for step() to do: no text was started, or it has ended.
  [[nodiscard]] bool finished() const noexcept;
  /// Why the text ended; not_yet while it is written, and before the first start().
  [[nodiscard]] Finish finish() const noexcept;
  /// The text since the last start(), so far.
  [[nodiscard]] Generated generated() const;
  /// What ended the text, when its finish is failed: a coterie::Error, or what its callback threw. Else null.
  [[nodiscard]] std::exception_ptr error() const noexcept;
  /// Ends the text that is being written, from any thread, within a layer's time. Does nothing when there is none.
  void cancel() noexcept;

  // Reading.

  /// Logits after the last of the ids: [V]. Throws bad_input for no ids, ids outside of the vocabulary and more than
  /// the context holds; out_of_memory when their cache cannot fit. So do the functions below.
  [[nodiscard]] std::vector<float> logits(std::span<const int32_t> ids);
  /// Logits after each of the ids from `first` on: [T - first, V]. What is held beyond `first` is computed again.
  [[nodiscard]] std::vector<float> logits(std::span<const int32_t> ids, int64_t first);
  /// Natural logarithms of the probabilities of the ids from `first` on, each after those before it: [T - first].
  /// `first` is at least 1: nothing says how probable a first token is.
  [[nodiscard]] std::vector<double> score(std::span<const int32_t> ids, int64_t first = 1);
  /// What the model makes of each token: [T, D]. After block `layer`, the residual stream as the next one gets it; with
  /// -1 after the final norm, which is what logits are made of. Evaluates all of the ids. Throws bad_input for another
  /// layer, and unsupported for ensembles.
  [[nodiscard]] std::vector<float> hidden_states(std::span<const int32_t> ids, int64_t layer = -1);
  /// One vector for a text: the mean over the tokens of hidden_states(), or the last: [D], not normalised.
  [[nodiscard]] std::vector<float> embedding(std::span<const int32_t> ids, Pooling pooling = Pooling::mean);

  /// Is called with every router's decisions for this session's tokens from now on; none: no longer. What it throws
  /// ends the call, and in step() the session's text alone.
  void on_routing(OnRouting callback);

  // What it holds.

  /// The tokens whose cache is held: what the next call can reuse. T of them.
  [[nodiscard]] std::vector<int32_t> tokens() const;
  [[nodiscard]] int64_t length() const noexcept;
  /// Bytes of cache that this session holds and shares with no other.
  [[nodiscard]] int64_t own_bytes() const;
  /// Another session with the same tokens, whose cache it shares: what either adds, the other does not see, and memory
  /// is taken for what is added. A text that is being written stays with this session. Throws out_of_memory.
  [[nodiscard]] Session fork() const;
  /// Forgets the tokens from `length` on; models with recurrent states may forget more, back to the last copy of them.
  /// Returns the length that is left. Gives up a text that is being written. Throws bad_input for a length that is not
  /// within 0 … length().
  int64_t truncate(int64_t length);

  struct Impl;  // the library's own

 private:
  friend COTERIE_API void step(std::span<Session* const> sessions);
  explicit Session(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Moves all sessions that are not finished on by one step, together: each weight is read once for all of them. Each
/// that writes gets its next token; those that still read their prompts share the rest of LoadOptions::step_tokens.
/// None of them depends on the others, to the bit. What concerns one session (its callbacks, room for its cache) ends
/// its text with Finish::failed and no other's; what concerns all of them is thrown. Throws bad_input for sessions of
/// different models, a session given twice, and a null.
///
///   a.start("One"), b.start("Two");
///   while (!a.finished() || !b.finished()) coterie::step({&a, &b});
COTERIE_API void step(std::span<Session* const> sessions);
COTERIE_API void step(std::initializer_list<Session*> sessions);

}  // namespace coterie
