#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "serve/api/answer.h"
#include "serve/api/prompts.h"
#include "serve/api/reply.h"
#include "serve/api/sampling_fields.h"

namespace coterie::serve {

namespace {

constexpr int64_t kAlternatives = 100;

/// llama.cpp's own /completion.
class NativeAnswer final : public Answer {
 public:
  NativeAnswer(const base::Json& body, const std::string& text, const ServedModel& served) : Answer(served) {
    Fields fields(body);
    stream = fields.boolean("stream").value_or(false);
    show_progress = fields.boolean("return_progress").value_or(false);
    Request request = default_request(model);
    if (const auto most = read_max_tokens(fields, {"n_predict", "max_tokens"}); most && *most >= 0)
      request.max_tokens = *most;
    read_sampling(fields, model, request);
    if (const auto top = fields.integer("n_probs", 0, kAlternatives); top && *top > 0) request.logprobs = *top;
    return_tokens_ = fields.boolean("return_tokens").value_or(false);
    fields.accept({"timings_per_token", "backend_sampling"});
    request.sampled_logprobs = fields.boolean("post_sampling_probs").value_or(false);
    // Here, as in llama.cpp, end tokens are not only gone past but never chosen.
    if (request.ignore_end)
      for (const TokenId end : model.tokenizer.end_tokens())
        request.sampler.logit_bias.emplace_back(end, -std::numeric_limits<float>::infinity());
    fields.refuse("samplers", "the order of the samplers is fixed here");
    fields.refuse("lora", "the adapter is chosen when the server starts", base::Json::array());
    fields.refuse("t_max_predict_ms", "an answer may not depend on the time it takes", 0);
    fields.refuse("n_indent", "is not supported by this server", 0);
    fields.refuse("min_keep", "is not supported by this server", 0);
    fields.refuse("n_cmpl", "one answer for each prompt", 1);
    const text::ResponseFormat format = read_response_format(fields, OrderedJson::parse(text));
    for (const std::string& path : fields.strings("response_fields")) shown_.push_back(path);
    accept_inert(fields);
    fields.accept({"n_discard", "t_max_prompt_ms", "image_data", "speculative.n_max", "speculative.n_min"});
    const base::Json* const prompt = fields.value("prompt");
    if (!prompt) fields.wrong("prompt", "a text or token ids");
    // A list of lists or of several texts is several prompts; ids and texts mixed are one.
    list_ = prompt->is_array() && !prompt->empty() &&
            std::none_of(prompt->begin(), prompt->end(), [](const base::Json& each) { return each.is_number(); });
    if (list_)
      for (const base::Json& each : *prompt) prompts_.push_back(read_prompt(each, "prompt", true, model));
    else
      prompts_.push_back(read_prompt(*prompt, "prompt", true, model));
    warnings = fields.refuse_unknown(model.lenient);
    for (const Prompt& each : prompts_) {
      request.prompt = each.ids;
      requests.push_back(request);
      constrain(format, model, requests.back());
    }
    counts_.resize(requests.size());
  }

  std::string progress(size_t choice) override {
    if (!show_progress) return {};
    base::Json chunk = piece(choice, "");
    chunk["prompt_progress"] = progress_json(*choices[choice].progress);
    chunk["timings"] = timings_json(*choices[choice].progress);
    return server_event(chunk);
  }

  std::string token(size_t choice, const TokenChosen& token) override {
    keep(choice, token, !stream && (return_tokens_ || requests[choice].logprobs >= 0));
    ++counts_[choice];
    if (!stream) return {};
    base::Json chunk = piece(choice, token.text);
    chunk["tokens"] = base::Json::array({token.id});
    if (requests[choice].logprobs >= 0)
      chunk["completion_probabilities"] = base::Json::array({chosen_json(choice, token)});
    return server_event(chunk);
  }

  std::string ended(size_t choice) override {
    choices[choice].text += choices[choice].finished->text;
    if (!stream) return {};
    std::string bytes;
    if (!choices[choice].finished->text.empty()) bytes = server_event(piece(choice, choices[choice].finished->text));
    return bytes + server_event(one(choice));
  }

  std::string end() override { return {}; }

  base::Json whole() override {
    base::Json all = base::Json::array();
    for (size_t i = 0; i < choices.size(); ++i) all.push_back(shown_.empty() ? one(i) : chosen(one(i)));
    return list_ ? all : all[0];
  }

 private:
  base::Json piece(size_t choice, const std::string& text) const {
    return {{"index", choice},
            {"content", text},
            {"tokens", base::Json::array()},
            {"stop", false},
            {"id_slot", -1},
            {"tokens_predicted", counts_[choice]},
            {"tokens_evaluated", requests[choice].prompt.size()}};
  }

  base::Json chosen_json(size_t choice, const TokenChosen& token) const {
    return requests[choice].sampled_logprobs ? probability_json(token, model) : logprob_json(token, model);
  }

  base::Json settings(size_t choice) const {
    const Request& request = requests[choice];
    const runtime::SamplerOptions& sampler = request.sampler;
    base::Json biases = base::Json::array();
    for (const auto& [biased, bias] : sampler.logit_bias)
      biases.push_back({{"token", biased}, {"bias", std::isfinite(bias) ? base::Json(bias) : base::Json()}});
    return {{"seed", sampler.seed},
            {"temperature", sampler.temperature},
            {"top_k", sampler.top_k},
            {"top_p", sampler.top_p},
            {"min_p", sampler.min_p},
            {"typical_p", sampler.typical},
            {"repeat_penalty", sampler.repeat_penalty},
            {"repeat_last_n", sampler.repeat_last_n},
            {"presence_penalty", sampler.presence_penalty},
            {"frequency_penalty", sampler.frequency_penalty},
            {"logit_bias", std::move(biases)},
            {"n_predict", request.max_tokens},
            {"max_tokens", request.max_tokens},
            {"stop", request.stop},
            {"ignore_eos", request.ignore_end},
            {"stream", stream},
            {"n_probs", std::max<int64_t>(request.logprobs, 0)},
            {"n_ctx", model.context}};
  }

  base::Json one(size_t choice) const {
    const Choice& state = choices[choice];
    const Finished& finished = *state.finished;
    base::Json json = piece(choice, stream ? std::string() : state.text);
    json["stop"] = true;
    json["model"] = model.name;
    json["tokens_predicted"] = finished.usage.completion_tokens;
    json["tokens_evaluated"] = finished.usage.prompt_tokens;
    json["tokens_cached"] = finished.usage.prompt_tokens + std::max<int64_t>(finished.usage.completion_tokens - 1, 0);
    json["generation_settings"] = settings(choice);
    json["prompt"] = prompts_[choice].text;
    json["has_new_line"] = state.text.find('\n') != std::string::npos;
    json["truncated"] = finished.reason == FinishReason::context_full;
    json["stop_type"] = finished.reason == FinishReason::end_token     ? "eos"
                        : finished.reason == FinishReason::stop_string ? "word"
                                                                       : "limit";
    json["stopping_word"] =
        finished.stop_index >= 0 ? requests[choice].stop[static_cast<size_t>(finished.stop_index)] : "";
    json["timings"] = timings_json(finished);
    if (stream) return json;
    if (return_tokens_)
      for (const TokenChosen& token : state.tokens) json["tokens"].push_back(token.id);
    if (requests[choice].logprobs >= 0) {
      json["completion_probabilities"] = base::Json::array();
      for (const TokenChosen& token : state.tokens)
        json["completion_probabilities"].push_back(chosen_json(choice, token));
    }
    return json;
  }

  /// The fields that response_fields names, by their paths: "generation_settings/n_predict".
  base::Json chosen(const base::Json& all) const {
    base::Json json = base::Json::object();
    for (const std::string& path : shown_) {
      const base::Json* at = &all;
      size_t begin = 0;
      while (at && begin <= path.size()) {
        const size_t end = std::min(path.find('/', begin), path.size());
        const std::string key = path.substr(begin, end - begin);
        const auto found = at->is_object() ? at->find(key) : at->end();
        at = at->is_object() && found != at->end() ? &*found : nullptr;
        begin = end + 1;
      }
      if (at) json[path] = *at;
    }
    return json;
  }

  bool return_tokens_ = false, list_ = false;
  std::vector<std::string> shown_;
  std::vector<Prompt> prompts_;
  std::vector<int64_t> counts_;
};

}  // namespace

std::unique_ptr<Answer> native_answer(const base::Json& body, const std::string& text, const ServedModel& model) {
  return std::make_unique<NativeAnswer>(body, text, model);
}

}  // namespace coterie::serve
