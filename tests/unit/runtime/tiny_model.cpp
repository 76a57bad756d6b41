#include "unit/runtime/tiny_model.h"

#include "base/json.h"
#include "checkpoint/random_source.h"
#include "checkpoint/tensor_sink.h"
#include "families/family.h"
#include "families/random_model.h"
#include "support/places.h"

namespace coterie::runtime::test {

namespace {

constexpr const char* kTemplate =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

std::string utf8(int code) {
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

// GPT-2's alphabet: printable bytes stand for themselves, the others for code points from 256 on.
text::GgufVocabulary vocabulary() {
  text::GgufVocabulary v;
  v.model = "gpt2", v.pre = "default";
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    v.tokens.push_back(utf8(printable ? byte : next++));
    v.token_type.push_back(1);
  }
  v.tokens.push_back(v.tokens[0] + v.tokens[0]), v.token_type.push_back(1);
  v.merges = {v.tokens[0] + " " + v.tokens[0]};
  for (const char* token : {"<|im_start|>", "<|im_end|>"}) v.tokens.push_back(token), v.token_type.push_back(3);
  v.bos = kStart, v.eos = kEnd;
  v.add_bos = false;
  return v;
}

}  // namespace

std::string fixture(const std::string& name) {
  std::string path = tests::source_folder() + "/parity/data/";
  path += name;
  if (name.find('/') == std::string::npos) path += "/base";
  return path;
}

families::Model tiny_model(bool text, int64_t context, uint64_t seed, tensor::DType dtype, TinySizes sizes) {
  base::Json config = base::read_json(fixture("mixtral") + "/config.json");
  if (tensor::is_block(dtype)) config["hidden_size"] = 256, config["intermediate_size"] = 512;  // whole blocks
  if (sizes.width > 0) config["hidden_size"] = sizes.width;
  if (sizes.ffn > 0) config["intermediate_size"] = sizes.ffn;
  if (sizes.experts > 0) config["num_local_experts"] = sizes.experts;
  models::ModelSpec spec = families::read_config(config, "config.json", true);
  spec.vocabulary = 259;
  spec.context = context;
  families::RandomModel random = families::random_model(spec, dtype, "tiny");
  families::Model model;
  model.source = checkpoint::random_source(std::move(random.tensors), std::move(random.metadata), seed, 1);
  model.decoder = families::bind_decoder(spec, *model.source);
  model.name = "tiny";
  if (text) model.tokenizer = text::Tokenizer::from_gguf(vocabulary(), "tiny"), model.chat_template = tiny_template();
  return model;
}

text::ChatTemplate tiny_template() { return text::ChatTemplate(kTemplate, "", "<|im_end|>", "tiny"); }

void write_tiny_gguf(const std::filesystem::path& path, int64_t context, tensor::DType dtype, TinySizes sizes) {
  const families::Model model = tiny_model(false, context, 1, dtype, sizes);
  const text::GgufVocabulary v = vocabulary();
  checkpoint::Metadata metadata = model.source->metadata();
  const std::string prefix = "tokenizer.ggml.";
  metadata[prefix + "model"] = v.model;
  metadata[prefix + "pre"] = v.pre;
  metadata[prefix + "tokens"] = v.tokens;
  metadata[prefix + "token_type"] = std::vector<int64_t>(v.token_type.begin(), v.token_type.end());
  metadata[prefix + "merges"] = v.merges;
  metadata[prefix + "bos_token_id"] = uint64_t{kStart};
  metadata[prefix + "eos_token_id"] = uint64_t{kEnd};
  metadata[prefix + "add_bos_token"] = false;
  metadata["tokenizer.chat_template"] = std::string(kTemplate);
  std::vector<checkpoint::TensorToWrite> tensors;
  for (const checkpoint::TensorInfo& tensor : model.source->tensors())
    tensors.push_back({tensor.name, tensor.dtype, tensor.shape, [&tensor](const auto& write) { write(tensor.bytes); }});
  checkpoint::write_gguf(path, tensors, metadata);
}

}  // namespace coterie::runtime::test
