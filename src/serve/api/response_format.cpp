#include <fmt/format.h>

#include "serve/api/api_error.h"
#include "serve/api/reply.h"

namespace coterie::serve {

namespace {

using Kind = text::ResponseFormat::Kind;

/// Passes the scheduler's calls on.
class HeldConstraint final : public TokenConstraint {
 public:
  explicit HeldConstraint(text::Constraint constraint) : constraint_(std::move(constraint)) {}
  bool mask(std::span<uint32_t> bits) override {
    constraint_.mask(bits);
    return true;
  }
  void accept(TokenId id) override { constraint_.accept(id); }
  std::vector<TokenId> forced() override { return constraint_.forced(); }
  bool finished() override { return constraint_.finished(); }

 private:
  text::Constraint constraint_;
};

// A schema as the client wrote it: the order of its properties is that of the answer's.
std::string schema_text(const OrderedJson& schema, const std::string& where) {
  if (schema.is_string()) return schema.get<std::string>();  // some clients send its text
  if (!schema.is_object() && !schema.is_boolean())
    throw ApiError(400, fmt::format("{}: expected a JSON schema, which is an object", where), where);
  return schema.dump();
}

std::string one_of(const OrderedJson& choices, const std::string& where) {
  std::string grammar = "start: ";
  if (!choices.is_array() || choices.empty())
    throw ApiError(400, fmt::format("{}: expected an array of at least one text", where), where);
  for (size_t i = 0; i < choices.size(); ++i) {
    if (!choices[i].is_string()) throw ApiError(400, fmt::format("{}: expected texts", where), where);
    grammar += (i > 0 ? " | " : "") + choices[i].dump();
  }
  return grammar + "\n";
}

text::ResponseFormat format_of(Fields& fields, const OrderedJson& body) {
  const base::Json* const given = fields.object("response_format");
  if (!given) return {};
  const OrderedJson& format = body["response_format"];
  const std::string type = given->value("type", "");
  if (type == "text") return {};
  const std::string where = "response_format";
  if (type == "json_object") {
    if (format.contains("schema"))
      return {Kind::json_schema, schema_text(format["schema"], where), where};  // llama.cpp
    return {Kind::json_object, "", where};
  }
  if (type == "json_schema") {
    const OrderedJson& inner = format.contains("json_schema") ? format["json_schema"] : format;
    if (!inner.is_object() || !inner.contains("schema"))
      throw ApiError(400, "response_format.json_schema: expected an object with the schema as \"schema\"", where);
    return {Kind::json_schema, schema_text(inner["schema"], where), where};
  }
  throw ApiError(
      400, fmt::format("response_format.type: expected text, json_object or json_schema, found \"{}\"", type), where);
}

/// One of vLLM's ways to say it: `kind` is json, regex, choice, grammar or json_object.
text::ResponseFormat guided(const std::string& kind, const OrderedJson& value, const std::string& where) {
  const auto text = [&] {
    if (!value.is_string()) throw ApiError(400, fmt::format("{}: expected a string", where), where);
    return value.get<std::string>();
  };
  if (kind == "json") return {Kind::json_schema, schema_text(value, where), where};
  if (kind == "regex") return {Kind::regex, text(), where};
  if (kind == "choice") return {Kind::lark, one_of(value, where), where};
  if (kind == "grammar" || kind == "lark") return {Kind::lark, text(), where};
  return {Kind::json_object, "", where};
}

}  // namespace

text::ResponseFormat read_response_format(Fields& fields, const OrderedJson& body) {
  text::ResponseFormat format = format_of(fields, body);
  const auto take = [&](text::ResponseFormat other) {
    if (format.kind != Kind::text)
      throw ApiError(400, fmt::format("{} and {} both say what the answer has to be", format.where, other.where),
                     other.where);
    format = std::move(other);
  };
  for (const char* kind : {"json", "regex", "choice", "grammar"}) {
    const std::string name = std::string("guided_") + kind;
    if (fields.value(name)) take(guided(kind, body[name], name));
  }
  if (fields.value("json_schema")) take(guided("json", body["json_schema"], "json_schema"));
  if (const base::Json* all = fields.object("structured_outputs")) {
    Fields inner(*all, "structured_outputs.");
    for (const char* kind : {"json", "regex", "choice", "grammar", "lark", "json_object"})
      if (const base::Json* value = inner.value(kind); value && *value != false)
        take(guided(kind, body["structured_outputs"][kind], "structured_outputs"));
    inner.refuse_unknown(false);
  }
  fields.refuse("grammar", "GBNF is not read here; a Lark grammar goes into structured_outputs.grammar", "");
  return format;
}

void constrain(const text::ResponseFormat& format, const ServedModel& model, Request& request) {
  if (format.kind == Kind::text) return;
  text::AnswerForm form;
  form.response = format;
  if (auto constraint = text::answer_constraint(model.tokenizer, text::ChatSyntax(), form))
    request.constraint = std::make_shared<HeldConstraint>(std::move(*constraint));
}

void apply(const ReplyForm& form, const ServedModel& model, Request& request) {
  if (form.constraint) request.constraint = std::make_shared<HeldConstraint>(*form.constraint);
  if (form.split_reasoning || !form.answer.tools.empty())
    if (form.syntax.needs_special(model.tokenizer)) request.skip_special = false;
}

}  // namespace coterie::serve
