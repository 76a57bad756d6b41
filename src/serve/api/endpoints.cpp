#include "serve/api/endpoints.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"
#include "runtime/version.h"
#include "serve/api/chat_prompt.h"
#include "serve/api/fields.h"
#include "serve/api/prompts.h"
#include "serve/api/reply.h"
#include "serve/api/sampling_fields.h"

namespace coterie::serve {

namespace {

// A step that takes so many times as long as it should, and at least so many seconds, is one that hangs.
constexpr double kHangs = 20, kHangsSeconds = 30;

std::string special(const ServedModel& model, std::optional<text::TokenId> id) {
  return id ? model.tokenizer.token(*id).value_or("") : "";
}

}  // namespace

base::Json model_json(const ShelvedModel& shelved, int64_t created) {
  std::vector<std::string> names = {shelved.name};
  names.insert(names.end(), shelved.aliases.begin(), shelved.aliases.end());
  base::Json json = {{"id", shelved.name},    {"object", "model"}, {"created", created},
                     {"owned_by", "coterie"}, {"aliases", names},  {"status", {{"value", name(shelved.state)}}}};
  if (!shelved.ready) return json;
  const ServedModel& model = *shelved.ready->served;
  json["max_model_len"] = model.context;
  json["meta"] = {{"n_vocab", model.vocabulary}, {"n_ctx", model.context},       {"n_ctx_train", model.context},
                  {"n_embd", model.width},       {"n_params", model.parameters}, {"n_layer", model.layers},
                  {"n_expert", model.experts},   {"size", model.file_bytes}};
  return json;
}

base::Json models_json(const std::vector<ShelvedModel>& models, int64_t created) {
  base::Json data = base::Json::array();
  for (const ShelvedModel& model : models) data.push_back(model_json(model, created));
  return {{"object", "list"}, {"data", std::move(data)}};
}

base::Json props_json(const ServedModel& model, const SchedulerOptions& options) {
  const runtime::SamplerOptions& sampler = model.sampler;
  const auto ends = model.tokenizer.end_tokens();
  return {{"default_generation_settings",
           {{"n_ctx", model.context},
            {"params",
             {{"seed", model.seed ? base::Json(*model.seed) : base::Json(-1)},
              {"temperature", sampler.temperature},
              {"top_k", sampler.top_k},
              {"top_p", sampler.top_p},
              {"min_p", sampler.min_p},
              {"repeat_penalty", sampler.repeat_penalty},
              {"presence_penalty", sampler.presence_penalty},
              {"frequency_penalty", sampler.frequency_penalty},
              {"max_tokens", model.max_tokens},
              {"n_predict", model.max_tokens}}}}},
          {"total_slots", options.parallel},
          {"model_alias", model.name},
          {"model_path", model.path},
          {"chat_template", model.chat_template ? model.chat_template->source() : ""},
          {"bos_token", special(model, model.tokenizer.bos())},
          {"eos_token", ends.empty() ? "" : special(model, ends.front())},
          {"modalities", {{"vision", false}, {"audio", false}}},
          {"build_info", "coterie " + std::string(runtime::version())},
          {"is_sleeping", false}};
}

base::Json slots_json(const Snapshot& snapshot, const ServedModel& model, const SchedulerOptions& options) {
  base::Json slots = base::Json::array();
  for (const RequestSnapshot& each : snapshot.requests) {
    slots.push_back({{"id", slots.size()},
                     {"id_task", each.id},
                     {"n_ctx", model.context},
                     {"is_processing", each.state != RequestState::queued},
                     {"state", name(each.state)},
                     {"n_prompt_tokens", each.prompt_tokens},
                     {"n_prompt_tokens_cache", each.cached_tokens},
                     {"n_prompt_tokens_processed", each.evaluated_tokens},
                     {"n_decoded", each.generated_tokens},
                     {"n_remain", each.max_tokens < 0 ? -1 : each.max_tokens - each.generated_tokens},
                     {"priority", each.priority},
                     {"seconds", each.seconds}});
  }
  for (int64_t free = std::ssize(slots); free < options.parallel; ++free)
    slots.push_back({{"id", free}, {"n_ctx", model.context}, {"is_processing", false}, {"state", "free"}});
  return slots;
}

Health health_of(const Snapshot& snapshot) {
  if (snapshot.failed) return {503, {{"status", "failed"}, {"message", "the engine was ended by an error"}}};
  if (snapshot.stopping) return {503, {{"status", "stopping"}}};
  const double most = std::max(kHangsSeconds, kHangs * snapshot.step_expected_seconds);
  if (snapshot.step_running_seconds > most)
    return {503,
            {{"status", "stalled"},
             {"message", fmt::format("a step runs for {:.0f} s, expected {:.1f} s", snapshot.step_running_seconds,
                                     snapshot.step_expected_seconds)}}};
  return {200, {{"status", "ok"}, {"running", snapshot.running}, {"waiting", snapshot.waiting}}};
}

base::Json tokenize_json(const base::Json& body, const ServedModel& model) {
  Fields fields(body);
  const bool add_special = fields.boolean("add_special").value_or(fields.boolean("add_special_tokens").value_or(false));
  const bool pieces =
      fields.boolean("with_pieces").value_or(false) | fields.boolean("return_token_strs").value_or(false);
  fields.accept({"model", "parse_special"});
  const base::Json* content = fields.value("content");
  if (const base::Json* prompt = fields.value("prompt"); prompt && !content) content = prompt;
  std::vector<text::TokenId> ids;
  if (content && !(content->is_string() && content->get_ref<const std::string&>().empty())) {
    if (!content->is_string() && !content->is_array()) fields.wrong("content", "a text");
    if (content->is_string())
      ids = model.tokenizer.encode(content->get<std::string>(), add_special);
    else if (!content->empty())
      ids = read_prompt(*content, "content", add_special, model).ids;
  }
  fields.refuse_unknown(model.lenient);
  base::Json tokens = base::Json::array();
  for (const text::TokenId id : ids) {
    if (!pieces) {
      tokens.push_back(id);
      continue;
    }
    const std::string bytes = model.bytes.of(id);
    base::Json piece = bytes;
    if (base::valid_utf8_bytes(bytes) != bytes.size()) {
      piece = base::Json::array();
      for (const char c : bytes) piece.push_back(static_cast<int>(static_cast<unsigned char>(c)));
    }
    tokens.push_back({{"id", id}, {"piece", std::move(piece)}});
  }
  return {{"tokens", std::move(tokens)}, {"count", ids.size()}, {"max_model_len", model.context}};
}

base::Json detokenize_json(const base::Json& body, const ServedModel& model) {
  Fields fields(body);
  fields.accept({"model"});
  const base::Json* const tokens = fields.array("tokens");
  fields.refuse_unknown(model.lenient);
  std::vector<text::TokenId> ids;
  if (!tokens) fields.wrong("tokens", "a list of token ids");
  for (const base::Json& each : *tokens) {
    if (!each.is_number_integer() || each.get<int64_t>() < 0 || each.get<int64_t>() >= model.vocabulary)
      fields.wrong("tokens", fmt::format("ids of this vocabulary of {}", model.vocabulary));
    ids.push_back(each.get<text::TokenId>());
  }
  const std::string text = model.tokenizer.decode(ids, false);
  return {{"content", text}, {"prompt", text}};
}

base::Json apply_template_json(const base::Json& body, const std::string& text, const ServedModel& model) {
  const OrderedJson ordered = OrderedJson::parse(text);
  Fields fields(body);
  ChatInput input;
  if (!fields.value("messages")) fields.wrong("messages", "an array of messages");
  input.messages = chat_messages(ordered["messages"], model);
  read_template_fields(fields, ordered, input, model);
  read_reply_form(fields, ordered, input, model);
  accept_inert(fields);
  fields.refuse_unknown(model.lenient);
  // As llama.cpp's endpoint of this name: an answer that has begun is gone on with.
  if (!fields.has("add_generation_prompt") && input.messages.back()["role"] == "assistant" &&
      !input.messages.back().contains("tool_calls"))
    input.continue_final = true;
  return {{"prompt", render_chat(input, model)}};
}

}  // namespace coterie::serve
