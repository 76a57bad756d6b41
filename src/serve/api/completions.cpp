#include <fmt/format.h>

#include <map>

#include "serve/api/answer.h"
#include "serve/api/chat_prompt.h"
#include "serve/api/expert_fields.h"
#include "serve/api/prompts.h"
#include "serve/api/reply.h"
#include "serve/api/sampling_fields.h"

namespace coterie::serve {

namespace {

constexpr int64_t kUnsaid = 16;  // OpenAI's default of max_tokens here

int64_t letters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

/// /v1/completions
class CompletionAnswer final : public Answer {
 public:
  CompletionAnswer(const base::Json& body, const std::string& text, const ServedModel& served) : Answer(served) {
    id = fresh_id("cmpl-");
    Fields fields(body);
    stream = fields.boolean("stream").value_or(false);
    show_progress = fields.boolean("return_progress").value_or(false);
    if (const base::Json* options = fields.object("stream_options")) {
      if (!stream) throw ApiError(400, "stream_options: is for streams: set stream to true", "stream_options");
      Fields inner(*options, "stream_options.");
      include_usage_ = inner.boolean("include_usage").value_or(false);
      inner.accept({"include_obfuscation", "continuous_usage_stats"});
      inner.refuse_unknown(model.lenient);
    }
    Request request = default_request(model);
    request.max_tokens = std::min(model.max_tokens, kUnsaid);
    if (const auto most = read_max_tokens(fields, {"max_tokens", "max_completion_tokens", "n_predict"});
        most && *most >= 0)
      request.max_tokens = *most;
    read_sampling(fields, model, request);
    echo_ = fields.boolean("echo").value_or(false);
    if (const auto top = fields.integer("logprobs", 0, kMostAlternatives)) request.logprobs = *top;
    if (echo_) request.prompt_logprobs = request.logprobs;
    if (const auto top = fields.integer("prompt_logprobs", 0, kMostAlternatives)) {
      if (echo_ && request.logprobs >= 0 && request.logprobs != *top)
        throw ApiError(400, "prompt_logprobs: with echo it is the same as logprobs", "prompt_logprobs");
      request.prompt_logprobs = *top;
      show_scored_ = true;
    }
    return_ids_ = fields.boolean("return_token_ids").value_or(false);
    read_expert_fields(fields, model, request);
    n_ = fields.integer("n", 1, kMostChoices).value_or(1);
    if (const auto best = fields.integer("best_of", 1, kMostChoices); best && *best != n_)
      throw ApiError(400, "best_of: this server does not rank answers: expected the value of n", "best_of",
                     "unsupported_parameter");
    fields.refuse("suffix", "this server does not write text that goes before a suffix", "");
    const bool special = fields.boolean("add_special_tokens").value_or(true);
    prompts_ = read_prompts(fields, "prompt", special, model);
    const text::ResponseFormat format = read_response_format(fields, OrderedJson::parse(text));
    accept_inert(fields);
    fields.accept({"timings_per_token"});
    warnings = fields.refuse_unknown(model.lenient);
    if (static_cast<int64_t>(prompts_.size()) * n_ > 4 * kMostChoices)
      throw ApiError(400,
                     fmt::format("prompt: {} prompts of {} choices are more than {} at once", prompts_.size(), n_,
                                 4 * kMostChoices),
                     "prompt");
    for (const Prompt& prompt : prompts_) {
      request.prompt = prompt.ids;
      for (Request& copy : copies(request, n_)) {
        constrain(format, model, copy);
        requests.push_back(std::move(copy));
      }
    }
    offsets_.resize(requests.size());
  }

  std::string begin() override {
    if (!echo_ || requests[0].prompt_logprobs >= 0) return {};
    std::string bytes;
    for (size_t i = 0; i < choices.size(); ++i) bytes += server_event(piece(i, echoed(i)));
    return bytes;
  }

  std::string progress(size_t choice) override {
    if (!show_progress && !has_routes(choice)) return {};
    base::Json chunk = piece(choice, "");
    if (show_progress) chunk["prompt_progress"] = progress_json(*choices[choice].progress);
    show_routes(choice, chunk["choices"][0]);
    return server_event(chunk);
  }

  std::string scored(size_t choice) override {
    if (!stream || !echo_) return {};
    Shown shown = shown_prompt(choice);
    base::Json chunk = piece(choice, echoed(choice));
    chunk["choices"][0]["logprobs"] = std::move(shown.json);
    return server_event(chunk);
  }

  std::string token(size_t choice, const TokenChosen& token) override {
    const bool wanted = requests[choice].logprobs >= 0;
    keep(choice, token, !stream && (wanted || return_ids_));
    if (!stream) return {};
    const bool shown = wanted && !model.ends(token.id);
    if (token.text.empty() && !shown && !return_ids_ && !has_routes(choice)) return {};
    base::Json chunk = piece(choice, token.text);
    base::Json& part = chunk["choices"][0];
    if (shown) {
      Shown list;
      list.add(token.id, token.logprob, token.top, requests[choice].logprobs, offsets_[choice], model);
      part["logprobs"] = std::move(list.json);
    }
    if (return_ids_) part["token_ids"] = base::Json::array({token.id});
    show_routes(choice, part);
    return server_event(chunk);
  }

  std::string ended(size_t choice) override {
    choices[choice].text += choices[choice].finished->text;
    if (!stream) return {};
    base::Json chunk = piece(choice, choices[choice].finished->text);
    chunk["choices"][0]["finish_reason"] = finish_reason(*choices[choice].finished);
    add_extras(choice, chunk["choices"][0]);
    show_routes(choice, chunk["choices"][0]);
    return server_event(chunk);
  }

  std::string end() override {
    std::string bytes;
    if (include_usage_) {
      base::Json chunk = head();
      chunk["choices"] = base::Json::array();
      chunk["usage"] = usage_json(usage());
      chunk["timings"] = timings_json(*choices[0].finished);
      bytes = server_event(chunk);
    }
    return bytes + "data: [DONE]\n\n";
  }

  base::Json whole() override {
    base::Json json = head();
    json["choices"] = base::Json::array();
    for (size_t i = 0; i < choices.size(); ++i) json["choices"].push_back(whole_choice(i));
    json["usage"] = usage_json(usage());
    json["timings"] = timings_json(*choices[0].finished);
    return json;
  }

 private:
  /// The "logprobs" of this API: four lists side by side.
  struct Shown {
    base::Json json = {{"tokens", base::Json::array()},
                       {"token_logprobs", base::Json::array()},
                       {"top_logprobs", base::Json::array()},
                       {"text_offset", base::Json::array()}};

    void add(TokenId id, std::optional<float> logprob, const std::vector<TokenLogprob>& top, int64_t wanted,
             int64_t& offset, const ServedModel& model) {
      const std::string text = model.token_text(id);
      json["tokens"].push_back(text);
      json["token_logprobs"].push_back(logprob ? base::Json(finite_logprob(*logprob)) : base::Json());
      if (!logprob) {
        json["top_logprobs"].push_back(nullptr);
      } else {
        base::Json named = base::Json::object();
        for (const TokenLogprob& each : top) {
          const std::string name = model.token_text(each.id);
          if (!named.contains(name)) named[name] = finite_logprob(each.logprob);  // of equal texts the likelier
        }
        if (wanted >= 0 && !named.contains(text)) named[text] = finite_logprob(*logprob);
        json["top_logprobs"].push_back(std::move(named));
      }
      json["text_offset"].push_back(offset);
      offset += letters(text);
    }
  };

  const Prompt& prompt_of(size_t choice) const { return prompts_[choice / static_cast<size_t>(n_)]; }
  std::string echoed(size_t choice) const { return prompt_of(choice).text; }

  Shown shown_prompt(size_t choice) {
    Shown shown;
    const std::vector<TokenId>& ids = prompt_of(choice).ids;
    const std::optional<PromptScored>& scored = choices[choice].scored;
    for (size_t t = 0; t < ids.size(); ++t) {
      const bool has = t > 0 && scored && t - 1 < scored->tokens.size();
      static const std::vector<TokenLogprob> none;
      shown.add(ids[t], has ? std::optional<float>(scored->tokens[t - 1].logprob) : std::nullopt,
                has && t - 1 < scored->top.size() ? scored->top[t - 1] : none, requests[choice].prompt_logprobs,
                offsets_[choice], model);
    }
    return shown;
  }

  base::Json head() const {
    return {{"id", id},
            {"object", "text_completion"},
            {"created", created},
            {"model", model.name},
            {"system_fingerprint", model.fingerprint}};
  }

  base::Json piece(size_t choice, std::string text) const {
    base::Json chunk = head();
    chunk["choices"] = base::Json::array(
        {{{"index", choice}, {"text", std::move(text)}, {"logprobs", nullptr}, {"finish_reason", nullptr}}});
    if (include_usage_) chunk["usage"] = nullptr;
    return chunk;
  }

  void add_extras(size_t choice, base::Json& json) const {
    const Finished& finished = *choices[choice].finished;
    if (requests[choice].routed_experts) json["routed_experts"] = routed_experts_base64(finished.routed_experts, model);
    if (finished.stop_index >= 0) json["stop_reason"] = requests[choice].stop[static_cast<size_t>(finished.stop_index)];
    if (return_ids_) json["prompt_token_ids"] = requests[choice].prompt;
    if (!show_scored_ || !choices[choice].scored) return;
    base::Json list = base::Json::array({nullptr});
    const PromptScored& scored = *choices[choice].scored;
    for (size_t t = 0; t < scored.tokens.size(); ++t) {
      base::Json named = base::Json::object();
      const auto add = [&](const TokenLogprob& each, int64_t rank) {
        base::Json& slot = named[std::to_string(each.id)];
        if (!slot.is_null()) return;
        slot = {{"logprob", finite_logprob(each.logprob)}, {"decoded_token", model.token_text(each.id)}};
        if (rank > 0) slot["rank"] = rank;
      };
      for (size_t rank = 0; rank < scored.top[t].size(); ++rank)
        add(scored.top[t][rank], static_cast<int64_t>(rank) + 1);
      add(scored.tokens[t], 0);
      list.push_back(std::move(named));
    }
    json["prompt_logprobs"] = std::move(list);
  }

  base::Json whole_choice(size_t i) {
    base::Json choice = {{"index", i},
                         {"text", (echo_ ? echoed(i) : "") + choices[i].text},
                         {"logprobs", nullptr},
                         {"finish_reason", finish_reason(*choices[i].finished)}};
    if (requests[i].logprobs >= 0) {
      Shown shown = echo_ ? shown_prompt(i) : Shown{};
      for (const TokenChosen& token : choices[i].tokens)
        if (!model.ends(token.id))
          shown.add(token.id, token.logprob, token.top, requests[i].logprobs, offsets_[i], model);
      choice["logprobs"] = std::move(shown.json);
    }
    if (return_ids_) {
      choice["token_ids"] = base::Json::array();
      for (const TokenChosen& token : choices[i].tokens) choice["token_ids"].push_back(token.id);
    }
    add_extras(i, choice);
    show_routes(i, choice);
    return choice;
  }

  bool include_usage_ = false, echo_ = false, return_ids_ = false, show_scored_ = false;
  int64_t n_ = 1;
  std::vector<Prompt> prompts_;
  std::vector<int64_t> offsets_;  // letters of the text so far, for text_offset
};

}  // namespace

std::unique_ptr<Answer> completion_answer(const base::Json& body, const std::string& text, const ServedModel& model) {
  return std::make_unique<CompletionAnswer>(body, text, model);
}

}  // namespace coterie::serve
