#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "serve/api/api_error.h"
#include "serve/api/model.h"
#include "serve/request.h"

namespace coterie::serve {

/// One of the texts that a request asked for, as far as it has come.
struct Choice {
  std::string text;
  std::vector<TokenChosen> tokens;  // their own text is in `text`; kept where the answer shows them
  std::optional<PromptProgress> progress;
  // That have not been shown yet:
  std::vector<RoutesKnown> routes;
  std::vector<std::vector<float>> model_weights;  // of each token of an ensemble's answer
  std::optional<PromptScored> scored;
  std::optional<Finished> finished;
};

/// How one API's answer to one request looks. It is made out of the request's body; then it is told of each event, in
/// order, and gives either the bytes of a stream or, at the end, one object. Used by one thread at a time.
class Answer {
 public:
  explicit Answer(const ServedModel& served);
  virtual ~Answer() = default;

  const ServedModel& model;
  std::vector<Request> requests;      // for the scheduler, one a choice
  std::vector<std::string> warnings;  // with --lenient: what was passed over
  bool stream = false;
  bool show_progress = false;  // llama.cpp's return_progress
  bool in_turn = false;        // its requests go to the scheduler as many at once as it runs at once, then one by one
  Dialect dialect = Dialect::openai;
  std::string id;
  int64_t created = 0;
  std::vector<Choice> choices;

  // Of streams: what is written at the beginning, for each event, and at the end of all.
  virtual std::string begin() { return {}; }
  virtual std::string progress(size_t choice) { return (void)choice, std::string(); }
  virtual std::string scored(size_t choice) { return (void)choice, std::string(); }
  virtual std::string token(size_t choice, const TokenChosen& token) = 0;
  virtual std::string ended(size_t choice) = 0;
  virtual std::string end() = 0;
  virtual std::string failed(const ApiError& error) const;
  /// The one object of an answer that is not a stream.
  virtual base::Json whole() = 0;

  Usage usage() const;  // of all choices; a prompt that several share counts once

 protected:
  /// Puts what is known of routes, and of an ensemble's models, and was not shown yet into a chunk's choice, or an
  /// answer's.
  void show_routes(size_t choice, base::Json& part);
  bool has_routes(size_t choice) const {
    return !choices[choice].routes.empty() || !choices[choice].model_weights.empty();
  }
  /// Adds the token to its choice.
  void keep(size_t choice, const TokenChosen& token, bool whole_token);
};

// Each throws ApiError for a body that it cannot answer.
std::unique_ptr<Answer> chat_answer(const base::Json& body, const std::string& text, const ServedModel& model);
std::unique_ptr<Answer> completion_answer(const base::Json& body, const std::string& text, const ServedModel& model);
std::unique_ptr<Answer> native_answer(const base::Json& body, const std::string& text, const ServedModel& model);
std::unique_ptr<Answer> responses_answer(const base::Json& body, const std::string& text, const ServedModel& model);
std::unique_ptr<Answer> embedding_answer(const base::Json& body, const std::string& text, const ServedModel& model);
std::unique_ptr<Answer> messages_answer(const base::Json& body, const std::string& text, const ServedModel& model);

/// "data: …" and an empty line; with `event`, its name before it.
std::string server_event(const base::Json& data, std::string_view event = {});
/// "chatcmpl-" and 24 letters and digits nobody can guess.
std::string fresh_id(std::string_view prefix);
/// "stop" or "length".
std::string finish_reason(const Finished& finished);
/// {"prompt_tokens": …, "completion_tokens": …, "total_tokens": …, "prompt_tokens_details": {"cached_tokens": …}}
/// `reasoning`: of the completion's, those of reasoning.
base::Json usage_json(const Usage& usage, int64_t reasoning = 0);
/// llama.cpp's object of counts and milliseconds, with what the cache had to say.
base::Json timings_json(const Finished& finished);
/// The same while the prompt is being read.
base::Json timings_json(const PromptProgress& progress);
/// llama.cpp's prompt_progress.
base::Json progress_json(const PromptProgress& progress);
/// vLLM's form: base64 of a .npy, [positions, layers of the model, K], zero in layers without a router; u1 where all
/// ids fit, else u2. Positions are those that were computed: all tokens but the last.
std::string routed_experts_base64(const RoutedExperts& experts, const ServedModel& model);
std::string base64(std::string_view bytes);

/// A token of chat's "logprobs": {"token": …, "logprob": …, "bytes": […], "top_logprobs": […]}.
base::Json logprob_json(const TokenChosen& token, const ServedModel& model);
/// llama.cpp's form of the same where probabilities were asked for after the samplers: "prob" and "top_probs".
base::Json probability_json(const TokenChosen& token, const ServedModel& model);
/// JSON has no -Infinity: no probability at all is written as this.
double finite_logprob(float logprob);

}  // namespace coterie::serve
