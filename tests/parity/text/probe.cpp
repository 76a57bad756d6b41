// For compare_*.py beside this file: runs many lines or templates through src/text in one process.
//
//   text_probe ids TOKENIZER LINES.jsonl      a JSON object {ids, plain, text} for each line: with what the tokenizer
//                                             adds, without, and the latter decoded
//   text_probe render CASES.jsonl             for each {template, messages, extra, add_generation_prompt} an object
//   {text}
//                                             or {error}; messages and extra are JSON inside strings
//   text_probe speed TOKENIZER LINES.jsonl
//
// TOKENIZER is a folder, a tokenizer.json, or a *.vocabulary.json (a GgufVocabulary with its members as keys).
#include <chrono>
#include <fstream>
#include <iostream>

#include "base/json.h"
#include "text/tokenizer.h"

namespace {

using coterie::base::Json;
using coterie::text::ChatTemplate;
using coterie::text::GgufVocabulary;
using coterie::text::TokenId;
using coterie::text::Tokenizer;

template <typename T>
void read(const Json& json, const char* key, T& into) {
  if (json.contains(key) && !json[key].is_null()) json[key].get_to(into);
}

template <typename T>
void read(const Json& json, const char* key, std::optional<T>& into) {
  if (json.contains(key) && !json[key].is_null()) into = json[key].get<T>();
}

Tokenizer load(const std::string& path) {
  if (!path.ends_with(".vocabulary.json")) return Tokenizer::load(path);
  const Json json = coterie::base::read_json(path);
  GgufVocabulary vocabulary;
  read(json, "model", vocabulary.model);
  read(json, "pre", vocabulary.pre);
  read(json, "tokens", vocabulary.tokens);
  read(json, "scores", vocabulary.scores);
  read(json, "token_type", vocabulary.token_type);
  read(json, "merges", vocabulary.merges);
  read(json, "bos", vocabulary.bos);
  read(json, "eos", vocabulary.eos);
  read(json, "unknown", vocabulary.unknown);
  read(json, "add_bos", vocabulary.add_bos);
  read(json, "add_eos", vocabulary.add_eos);
  read(json, "add_space_prefix", vocabulary.add_space_prefix);
  return Tokenizer::from_gguf(vocabulary, path);
}

std::vector<Json> read_lines(const std::string& path) {
  std::ifstream file(path);
  std::vector<Json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(coterie::base::parse_json(line, path));
  return lines;
}

void ids(const std::string& tokenizer_path, const std::string& lines_path) {
  const Tokenizer tokenizer = load(tokenizer_path);
  for (const Json& line : read_lines(lines_path)) {
    const std::string text = line.get<std::string>();
    const std::vector<TokenId> plain = tokenizer.encode(text, false);
    std::cout
        << Json{{"ids", tokenizer.encode(text)}, {"plain", plain}, {"text", tokenizer.decode(plain, false)}}.dump()
        << "\n";
  }
}

void render(const std::string& cases_path) {
  for (const Json& line : read_lines(cases_path)) {
    Json result;
    try {
      const ChatTemplate chat_template(line["template"], line.value("bos", ""), line.value("eos", ""), "case");
      result["text"] = chat_template.render_json(line["messages"].get<std::string>(), line["add_generation_prompt"],
                                                 line["extra"].get<std::string>());
    } catch (const coterie::base::Error& error) {
      result["error"] = error.what();
    }
    std::cout << result.dump() << "\n";
  }
}

void speed(const std::string& tokenizer_path, const std::string& lines_path) {
  using Clock = std::chrono::steady_clock;
  const auto seconds = [](Clock::time_point from) {
    return std::chrono::duration<double>(Clock::now() - from).count();
  };
  const auto start = Clock::now();
  const Tokenizer tokenizer = load(tokenizer_path);
  std::cout << "load " << seconds(start) << " s\n";
  std::vector<std::string> lines;
  size_t bytes = 0;
  for (const Json& line : read_lines(lines_path)) bytes += lines.emplace_back(line.get<std::string>()).size();
  std::vector<std::vector<TokenId>> encoded;
  size_t tokens = 0;
  const auto encode_start = Clock::now();
  for (const std::string& line : lines) tokens += encoded.emplace_back(tokenizer.encode(line)).size();
  const double encode = seconds(encode_start);
  std::cout << "encode " << static_cast<double>(tokens) / encode << " tokens/s, "
            << static_cast<double>(bytes) / encode / 1e6 << " MB/s, " << tokens << " tokens in " << lines.size()
            << " lines\n";
  const auto decode_start = Clock::now();
  for (const auto& line : encoded) bytes += tokenizer.decode(line).size();
  std::cout << "decode " << static_cast<double>(tokens) / seconds(decode_start) << " tokens/s\n";
  size_t streamed = 0;
  const auto stream_start = Clock::now();
  coterie::text::StreamDecoder stream(tokenizer);
  for (const auto& line : encoded)
    for (const TokenId id : line) streamed += stream.push(id).size();
  std::cout << "stream " << static_cast<double>(tokens) / seconds(stream_start) << " tokens/s, " << streamed
            << " bytes\n";
}

}  // namespace

int main(int count, char** arguments) {
  const std::vector<std::string> words(arguments + 1, arguments + count);
  try {
    if (words.size() == 3 && words[0] == "ids") return ids(words[1], words[2]), 0;
    if (words.size() == 2 && words[0] == "render") return render(words[1]), 0;
    if (words.size() == 3 && words[0] == "speed") return speed(words[1], words[2]), 0;
  } catch (const coterie::base::Error& error) {
    std::cerr << error.what() << "\n";
    return 2;
  }
  std::cerr << "text_probe ids TOKENIZER LINES | render CASES | speed TOKENIZER LINES\n";
  return 2;
}
