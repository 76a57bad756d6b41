#include <algorithm>
#include <map>

#include "base/atomic_file.h"
#include "text/bridge_call.h"
#include "text/tokenizer.h"

namespace coterie::text {

using base::ErrorKind;
using base::fail;
using base::Json;

namespace {

struct TemplateDeleter {
  void operator()(CoterieTemplate* chat_template) const { coterie_template_free(chat_template); }
};
using Compiled = std::unique_ptr<CoterieTemplate, TemplateDeleter>;

Compiled compile(std::string_view source, std::string_view where) {
  CoterieTemplate* made = nullptr;
  BridgeBytes error;
  check_bridge(coterie_template_new(slice(source), &made, error.out()), where, error);
  return Compiled(made);
}

// The named special tokens that transformers gives to a template.
constexpr const char* kSpecialNames[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                         "pad_token", "cls_token", "mask_token"};

Json special_tokens(const Json& config) {
  Json special = Json::object();
  for (const char* name : kSpecialNames) {
    const auto token = config.find(name);
    if (token == config.end()) continue;
    if (token->is_string())
      special[name] = *token;
    else if (token->is_object() && token->contains("content") && (*token)["content"].is_string())
      special[name] = (*token)["content"];
  }
  return special;
}

Json read_object(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return Json::object();
  Json json = base::read_json(path);
  if (!json.is_object())
    fail(ErrorKind::bad_input, path.string(), "expected a JSON object, found {}", json.type_name());
  return json;
}

/// "chat_template": a string, or a list of {name, template}.
std::map<std::string, std::string> named_templates(const Json& value, const std::string& where) {
  if (value.is_string()) return {{"default", value.get<std::string>()}};
  std::map<std::string, std::string> templates;
  if (!value.is_array()) fail(ErrorKind::bad_input, where, "\"chat_template\" is neither a string nor a list");
  for (const Json& entry : value) {
    if (!entry.is_object() || !entry.contains("name") || !entry["name"].is_string() || !entry.contains("template") ||
        !entry["template"].is_string())
      fail(ErrorKind::bad_input, where, "an entry of \"chat_template\" is not {{\"name\": ..., \"template\": ...}}");
    templates[entry["name"]] = entry["template"];
  }
  return templates;
}

}  // namespace

struct ChatTemplate::State {
  std::string source, where;
  Compiled usual, with_tools;  // with_tools is null when `usual` serves for tools too
  std::string special;         // a JSON object: the named special tokens
};

ChatTemplate::ChatTemplate(std::string source, std::string bos, std::string eos, std::string where) {
  Json special = Json::object();
  if (!bos.empty()) special["bos_token"] = bos;
  if (!eos.empty()) special["eos_token"] = eos;
  auto state = std::make_shared<State>();
  state->usual = compile(source, where);
  state->source = std::move(source);
  state->where = std::move(where);
  state->special = special.dump();
  state_ = std::move(state);
}

std::optional<ChatTemplate> ChatTemplate::load(const std::filesystem::path& folder) {
  const std::filesystem::path config_path = folder / "tokenizer_config.json";
  const Json config = read_object(config_path);
  std::map<std::string, std::string> templates;
  std::string where;
  if (const auto path = folder / "chat_template.jinja"; std::filesystem::exists(path)) {
    where = path.string();
    templates["default"] = base::read_text(path);
    if (const auto more = folder / "additional_chat_templates"; std::filesystem::is_directory(more))
      for (const auto& entry : std::filesystem::directory_iterator(more))
        if (entry.path().extension() == ".jinja") templates[entry.path().stem()] = base::read_text(entry.path());
  } else if (const auto json_path = folder / "chat_template.json"; std::filesystem::exists(json_path)) {
    where = json_path.string();
    const Json json = read_object(json_path);
    if (!json.contains("chat_template")) fail(ErrorKind::not_found, where, "key \"chat_template\" is missing");
    templates = named_templates(json["chat_template"], where);
  } else if (const auto found = config.find("chat_template"); found != config.end() && !found->is_null()) {
    where = config_path.string();
    templates = named_templates(*found, where);
  } else {
    return {};
  }
  const auto usual = templates.find("default");
  if (usual == templates.end())
    fail(ErrorKind::bad_input, where, "several chat templates, but none is named \"default\"");

  auto state = std::make_shared<State>();
  state->usual = compile(usual->second, where);
  if (const auto tools = templates.find("tool_use"); tools != templates.end())
    state->with_tools = compile(tools->second, where + ": tool_use");
  state->source = usual->second;
  Json special = special_tokens(config);
  special.update(special_tokens(read_object(folder / "special_tokens_map.json")));
  state->special = special.dump();
  state->where = std::move(where);
  ChatTemplate loaded;
  loaded.state_ = std::move(state);
  return loaded;
}

std::string ChatTemplate::render_json(std::string_view messages, bool add_generation_prompt,
                                      std::string_view extra) const {
  const CoterieTemplate* chosen = state_->usual.get();
  if (state_->with_tools) {
    const Json variables = base::parse_json(extra, state_->where);
    if (variables.is_object() && variables.contains("tools") && !variables["tools"].is_null())
      chosen = state_->with_tools.get();
  }
  BridgeBytes text, error;
  check_bridge(coterie_template_render(chosen, slice(messages), slice(state_->special), slice(extra),
                                       add_generation_prompt, text.out(), error.out()),
               state_->where, error);
  return std::string(text.view());
}

namespace {
// A message may hold what a model wrote; bytes that are not UTF-8 must not become an exception of the JSON library.
std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }
}  // namespace

std::string ChatTemplate::render(const Json& messages, bool add_generation_prompt, const Json& extra) const {
  return render_json(dump(messages), add_generation_prompt, dump(extra));
}

std::string ChatTemplate::render(std::span<const Message> messages, bool add_generation_prompt,
                                 const Json& extra) const {
  Json list = Json::array();
  for (const Message& message : messages) list.push_back({{"role", message.role}, {"content", message.content}});
  return render(list, add_generation_prompt, extra);
}

const std::string& ChatTemplate::source() const { return state_->source; }

}  // namespace coterie::text
