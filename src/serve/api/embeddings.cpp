#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "serve/api/answer.h"
#include "serve/api/prompts.h"
#include "serve/api/sampling_fields.h"

namespace coterie::serve {

namespace {

constexpr size_t kInputs = 2048;

/// llama.cpp's form of a text: {"content": [{"type": "text", "text": "…"}, …]}.
base::Json text_of_parts(const base::Json& value) {
  if (!value.is_object() || !value.contains("content")) return value;
  Fields fields(value, "input.");
  const base::Json* const parts = fields.array("content");
  fields.refuse_unknown(false);
  if (!parts) fields.wrong("content", "an array of parts");
  std::string text;
  for (const base::Json& part : *parts) {
    if (!part.is_object() || part.value("type", base::Json()) != "text" || !part.contains("text") ||
        !part["text"].is_string())
      throw ApiError(400, "input.content: parts of type text alone are read here", "input");
    text += part["text"].get<std::string>();
  }
  return text;
}

/// /v1/embeddings
class EmbeddingAnswer final : public Answer {
 public:
  EmbeddingAnswer(const base::Json& body, const ServedModel& served) : Answer(served) {
    in_turn = true;
    Fields fields(body);
    base64_ = fields.one_of("encoding_format", {"float", "base64"}).value_or("float") == "base64";
    normalize_ = fields.boolean("normalize").value_or(true);
    pooling_ = model.pooling;
    if (const auto pooling = fields.one_of("pooling", {"mean", "last"}))
      pooling_ = *pooling == "mean" ? Request::Pooling::mean : Request::Pooling::last;
    if (const auto dimensions = fields.integer("dimensions", 1, INT32_MAX); dimensions && *dimensions != model.width)
      throw ApiError(
          400,
          fmt::format("dimensions: this model's vectors have {}, and this server does not shorten them", model.width),
          "dimensions", "unsupported_parameter");
    const base::Json* const input = fields.value("input");
    if (!input) fields.wrong("input", "a text, token ids, or a list of either");
    const bool special = fields.boolean("add_special_tokens").value_or(true);
    read(*input, special);
    accept_inert(fields);
    warnings = fields.refuse_unknown(model.lenient);
  }

  std::string token(size_t, const TokenChosen&) override { return {}; }
  std::string ended(size_t) override { return {}; }
  std::string end() override { return {}; }

  base::Json whole() override {
    base::Json data = base::Json::array();
    int64_t tokens = 0;
    for (size_t i = 0; i < choices.size(); ++i) {
      data.push_back(
          {{"object", "embedding"}, {"index", i}, {"embedding", vector_json(choices[i].finished->embedding)}});
      tokens += choices[i].finished->usage.prompt_tokens;
    }
    return {{"object", "list"},         {"data", std::move(data)},
            {"model", model.name},      {"pooling", pooling_ == Request::Pooling::mean ? "mean" : "last"},
            {"normalized", normalize_}, {"usage", {{"prompt_tokens", tokens}, {"total_tokens", tokens}}}};
  }

 private:
  void read(const base::Json& input, bool special) {
    Request request = default_request(model);
    request.max_tokens = 0;
    request.pooling = pooling_;
    const auto add = [&](const base::Json& one) {
      request.prompt = read_prompt(text_of_parts(one), "input", special, model).ids;
      requests.push_back(request);
    };
    // A list that has a number in it is one text's ids, between which texts may stand.
    const bool list = input.is_array() &&
                      std::none_of(input.begin(), input.end(), [](const base::Json& each) { return each.is_number(); });
    if (!list) return add(input);
    if (input.empty()) throw ApiError(400, "input: expected at least one text", "input");
    if (input.size() > kInputs)
      throw ApiError(400, fmt::format("input: {} texts are more than {} at once", input.size(), kInputs), "input");
    for (const base::Json& each : input) add(each);
  }

  base::Json vector_json(const std::vector<double>& values) const {
    double squares = 0;
    for (const double value : values) squares += value * value;
    const double length = normalize_ && squares > 0 ? std::sqrt(squares) : 1;
    std::vector<float> floats;
    for (const double value : values) floats.push_back(static_cast<float>(value / length));
    if (!base64_) return floats;
    std::string bytes;  // f32, least byte first
    for (const float value : floats)
      for (int shift = 0; shift < 32; shift += 8)
        bytes += static_cast<char>(std::bit_cast<uint32_t>(value) >> shift & 0xff);
    return base64(bytes);
  }

  bool base64_ = false, normalize_ = true;
  Request::Pooling pooling_;
};

}  // namespace

std::unique_ptr<Answer> embedding_answer(const base::Json& body, const std::string&, const ServedModel& model) {
  return std::make_unique<EmbeddingAnswer>(body, model);
}

}  // namespace coterie::serve
