#include "serve/api/answer.h"
#include "serve/api/chat_prompt.h"
#include "serve/api/expert_fields.h"
#include "serve/api/reply.h"
#include "serve/api/sampling_fields.h"

namespace coterie::serve {

namespace {

/// /v1/chat/completions
class ChatAnswer final : public Answer {
 public:
  ChatAnswer(const base::Json& body, const std::string& text, const ServedModel& served) : Answer(served) {
    id = fresh_id("chatcmpl-");
    const OrderedJson ordered = OrderedJson::parse(text);
    Fields fields(body);
    read_stream(fields);
    ChatInput input;
    if (!fields.value("messages"))
      throw ApiError(400, "messages: expected an array of messages, found nothing", "messages");
    input.messages = chat_messages(ordered["messages"], model);
    read_template_fields(fields, ordered, input, model);
    ReplyForm form = read_reply_form(fields, ordered, input, model);
    Request request = default_request(model);
    if (const auto most = read_max_tokens(fields, {"max_completion_tokens", "max_tokens", "n_predict"});
        most && *most >= 0)
      request.max_tokens = *most;
    read_sampling(fields, model, request);
    read_logprobs(fields, request);
    return_ids_ = fields.boolean("return_token_ids").value_or(false);
    verbose_ = fields.boolean("verbose").value_or(false);
    read_expert_fields(fields, model, request);
    const int64_t n = fields.integer("n", 1, kMostChoices).value_or(1);
    accept_inert(fields);
    accept_chat(fields);
    warnings = fields.refuse_unknown(model.lenient);
    prompt_ = render_chat(input, model);
    request.prompt = prompt_ids(prompt_, false, model);
    request.boundaries = ends_of_turns(input, prompt_, request.prompt, model);
    constrain(form, prompt_, model);
    requests = copies(request, n);
    for (Request& each : requests) apply(form, model, each);
    for (int64_t i = 0; i < n; ++i) replies_.push_back(std::make_unique<Reply>(form));
    messages_.resize(static_cast<size_t>(n));
  }

  std::string begin() override {
    std::string bytes;
    for (size_t i = 0; i < choices.size(); ++i) {
      base::Json chunk = piece(i, {{"role", "assistant"}, {"content", nullptr}});
      if (return_ids_ && i == 0) chunk["prompt_token_ids"] = requests[0].prompt;
      bytes += server_event(chunk);
    }
    return bytes;
  }

  std::string progress(size_t choice) override {
    if (!show_progress && !has_routes(choice)) return {};
    base::Json chunk = piece(choice, base::Json::object());
    if (show_progress) {
      chunk["prompt_progress"] = progress_json(*choices[choice].progress);
      chunk["timings"] = timings_json(*choices[choice].progress);
    }
    show_routes(choice, chunk["choices"][0]);
    return server_event(chunk);
  }

  std::string token(size_t choice, const TokenChosen& token) override {
    keep(choice, token, !stream && (logprobs_ || return_ids_));
    ReplyDelta delta = replies_[choice]->push(token.text);
    if (!stream) return add(choice, std::move(delta)), std::string();
    remember_calls(choice, delta);
    const bool shown = logprobs_ && !model.ends(token.id);
    if (delta.empty() && !shown && !return_ids_ && !has_routes(choice)) return {};
    base::Json chunk = piece(choice, delta_json(delta));
    base::Json& part = chunk["choices"][0];
    if (shown) part["logprobs"] = {{"content", base::Json::array({logprob_json(token, model)})}, {"refusal", nullptr}};
    if (return_ids_) part["token_ids"] = base::Json::array({token.id});
    show_routes(choice, part);
    return server_event(chunk);
  }

  std::string ended(size_t choice) override {
    ReplyDelta delta = replies_[choice]->push(choices[choice].finished->text, false);
    delta.add(replies_[choice]->finish());
    if (!stream) return add(choice, std::move(delta)), std::string();
    remember_calls(choice, delta);
    std::string bytes;
    if (!delta.empty()) bytes = server_event(piece(choice, delta_json(delta)));
    base::Json chunk = piece(choice, base::Json::object());
    chunk["choices"][0]["finish_reason"] = reason(choice);
    show_routes(choice, chunk["choices"][0]);
    add_extras(choice, chunk["choices"][0]);
    if (verbose_) chunk["__verbose"] = verbose_json();
    if (choice + 1 == choices.size() || choices.size() == 1) chunk["timings"] = timings_json(*choices[choice].finished);
    return bytes + server_event(chunk);
  }

  std::string end() override {
    std::string bytes;
    if (include_usage_) {
      base::Json chunk = head("chat.completion.chunk");
      chunk["choices"] = base::Json::array();
      chunk["usage"] = usage_json(usage(), reasoning_tokens());
      chunk["timings"] = timings_json(*choices[0].finished);
      bytes = server_event(chunk);
    }
    return bytes + "data: [DONE]\n\n";
  }

  base::Json whole() override {
    base::Json json = head("chat.completion");
    json["choices"] = base::Json::array();
    for (size_t i = 0; i < choices.size(); ++i) json["choices"].push_back(whole_choice(i));
    json["usage"] = usage_json(usage(), reasoning_tokens());
    json["timings"] = timings_json(*choices[0].finished);
    if (return_ids_) json["prompt_token_ids"] = requests[0].prompt;
    if (verbose_) json["__verbose"] = verbose_json();
    return json;
  }

 private:
  struct Message {
    std::string content, reasoning;
    std::vector<ReplyDelta::Call> calls;
  };

  void read_stream(Fields& fields) {
    stream = fields.boolean("stream").value_or(false);
    show_progress = fields.boolean("return_progress").value_or(false);
    fields.accept({"timings_per_token"});
    const base::Json* const options = fields.object("stream_options");
    if (!options) return;
    if (!stream) throw ApiError(400, "stream_options: is for streams: set stream to true", "stream_options");
    Fields inner(*options, "stream_options.");
    include_usage_ = inner.boolean("include_usage").value_or(false);
    inner.accept({"include_obfuscation", "continuous_usage_stats"});
    inner.refuse_unknown(model.lenient);
  }

  void read_logprobs(Fields& fields, Request& request) {
    logprobs_ = fields.boolean("logprobs").value_or(false);
    const auto top = fields.integer("top_logprobs", 0, kMostAlternatives);
    if (top && *top > 0 && !logprobs_) throw ApiError(400, "top_logprobs: needs logprobs: true", "top_logprobs");
    if (logprobs_) request.logprobs = top.value_or(0);
  }

  static void accept_chat(Fields& fields) {
    fields.refuse("audio", "this model answers with text alone");
    fields.refuse("web_search_options", "this server does not search the web");
    fields.refuse("prediction", "has no effect in this server");
    if (const base::Json* modalities = fields.array("modalities"))
      if (*modalities != base::Json::array({"text"}))
        throw ApiError(400, "modalities: text alone", "modalities", "unsupported_parameter");
  }

  int64_t reasoning_tokens() const {
    int64_t sum = 0;
    for (const auto& reply : replies_) sum += reply->reasoning_tokens();
    return sum;
  }

  /// llama.cpp's name for it: what the template has made of the messages.
  base::Json verbose_json() const { return {{"prompt", prompt_}, {"tokens_evaluated", requests[0].prompt.size()}}; }

  base::Json head(std::string_view object) const {
    return {{"id", id},
            {"object", object},
            {"created", created},
            {"model", model.name},
            {"system_fingerprint", model.fingerprint}};
  }

  base::Json piece(size_t choice, base::Json delta) const {
    base::Json chunk = head("chat.completion.chunk");
    chunk["choices"] = base::Json::array(
        {{{"index", choice}, {"delta", std::move(delta)}, {"logprobs", nullptr}, {"finish_reason", nullptr}}});
    if (include_usage_) chunk["usage"] = nullptr;
    return chunk;
  }

  static base::Json delta_json(const ReplyDelta& delta) {
    base::Json json = base::Json::object();
    if (!delta.content.empty()) json["content"] = delta.content;
    if (!delta.reasoning.empty()) json["reasoning_content"] = json["reasoning"] = delta.reasoning;
    for (const ReplyDelta::Call& call : delta.calls) {
      base::Json part = {{"index", call.index}, {"function", {{"arguments", call.arguments}}}};
      if (!call.name.empty()) part["id"] = call.id, part["type"] = "function", part["function"]["name"] = call.name;
      json["tool_calls"].push_back(std::move(part));
    }
    return json;
  }

  void remember_calls(size_t choice, const ReplyDelta& delta) {
    if (!delta.calls.empty() && messages_[choice].calls.empty()) messages_[choice].calls.emplace_back();
  }

  void add(size_t choice, ReplyDelta delta) {
    Message& message = messages_[choice];
    message.content += delta.content;
    message.reasoning += delta.reasoning;
    for (ReplyDelta::Call& call : delta.calls) {
      if (message.calls.size() <= call.index) message.calls.resize(call.index + 1);
      ReplyDelta::Call& whole = message.calls[call.index];
      if (!call.name.empty()) whole.id = call.id, whole.name = call.name;
      whole.arguments += call.arguments;
    }
  }

  std::string reason(size_t choice) const {
    const std::string plain = finish_reason(*choices[choice].finished);
    return plain == "stop" && !messages_[choice].calls.empty() ? "tool_calls" : plain;
  }

  void add_extras(size_t choice, base::Json& json) const {
    const Finished& finished = *choices[choice].finished;
    if (requests[choice].routed_experts) json["routed_experts"] = routed_experts_base64(finished.routed_experts, model);
    if (finished.stop_index >= 0) json["stop_reason"] = requests[choice].stop[static_cast<size_t>(finished.stop_index)];
  }

  base::Json whole_choice(size_t i) {
    const Message& message = messages_[i];
    const bool only_calls = message.content.empty() && !message.calls.empty();
    base::Json json = {{"role", "assistant"},
                       {"content", only_calls ? base::Json() : base::Json(message.content)},
                       {"refusal", nullptr}};
    if (!message.reasoning.empty()) json["reasoning_content"] = json["reasoning"] = message.reasoning;
    for (const ReplyDelta::Call& call : message.calls)
      json["tool_calls"].push_back(
          {{"id", call.id}, {"type", "function"}, {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
    base::Json choice = {
        {"index", i}, {"message", std::move(json)}, {"logprobs", nullptr}, {"finish_reason", reason(i)}};
    if (logprobs_) {
      base::Json content = base::Json::array();
      for (const TokenChosen& token : choices[i].tokens)
        if (!model.ends(token.id)) content.push_back(logprob_json(token, model));
      choice["logprobs"] = {{"content", std::move(content)}, {"refusal", nullptr}};
    }
    if (return_ids_) {
      choice["token_ids"] = base::Json::array();
      for (const TokenChosen& token : choices[i].tokens) choice["token_ids"].push_back(token.id);
    }
    add_extras(i, choice);
    show_routes(i, choice);
    return choice;
  }

  bool include_usage_ = false, logprobs_ = false, return_ids_ = false, verbose_ = false;
  std::string prompt_;
  std::vector<std::unique_ptr<Reply>> replies_;
  std::vector<Message> messages_;
};

}  // namespace

std::unique_ptr<Answer> chat_answer(const base::Json& body, const std::string& text, const ServedModel& model) {
  return std::make_unique<ChatAnswer>(body, text, model);
}

}  // namespace coterie::serve
