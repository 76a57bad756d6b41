#include "fake_model.h"

#include <fstream>

#include "base/json.h"
#include "support/temp_folder.h"

namespace coterie::serve::test {

namespace {

std::string letter(int code) {
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

base::Json special(int id, const char* content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

}  // namespace

text::Tokenizer byte_tokenizer() {
  base::Json vocabulary = base::Json::object();
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    vocabulary[letter(printable ? byte : next++)] = byte;
  }
  const base::Json bytes = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}};
  const base::Json json = {
      {"version", "1.0"},
      {"added_tokens", {special(256, "<|end|>"), special(257, "<|user|>"), special(258, "<|assistant|>")}},
      {"pre_tokenizer", bytes},
      {"decoder", bytes},
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", base::Json::array()}}}};
  const TempFolder folder;
  std::ofstream(folder.path() / "tokenizer.json") << json.dump();
  std::ofstream(folder.path() / "tokenizer_config.json") << R"({"eos_token": "<|end|>"})";
  return text::Tokenizer::load(folder.path());
}

ServedModel fake_model() {
  ServedModel model(byte_tokenizer());
  model.chat_template.emplace(
      "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% "
      "endif %}",
      "", "<|end|>", "test");
  model.name = "fake";
  model.context = 200;
  model.vocabulary = 259;
  model.layers = 3;
  model.width = 3;
  model.routed_layers = {0, 2};
  model.experts = 4;
  model.fingerprint = "coterie-test";
  return model;
}

ServedModel calling_model() {
  ServedModel model = fake_model();
  model.chat_template.emplace(
      "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{{ messages[0].content }}{# <tool_call> {\"name\": , "
      "\"arguments\": } </tool_call> <think> </think> #}{% if add_generation_prompt %}<think>{% endif %}",
      "", "", "test");
  return model;
}

}  // namespace coterie::serve::test
