#include "train/instruction_data.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "base/nearest.h"
#include "base/rng.h"
#include "checkpoint/tensor_sink.h"
#include "train/token_file.h"

namespace coterie::train {

namespace fs = std::filesystem;
using base::ErrorKind;
using base::Json;
using tensor::DType;

namespace {

struct Sample {
  std::vector<int32_t> ids, scored;

  void add(std::span<const int32_t> more, size_t scored_of_them) {
    ids.insert(ids.end(), more.begin(), more.end());
    scored.insert(scored.end(), scored_of_them, 1);
    scored.resize(ids.size(), 0);
  }
};

class Reader {
 public:
  Reader(const text::Tokenizer& tokenizer, const text::ChatTemplate* chat_template)
      : tokenizer_(tokenizer), template_(chat_template) {}

  Sample read(const Json& line, const std::string& where) const {
    expect_one_form(line, where);
    if (line.contains("messages")) return conversation(line, where);
    base::JsonReader keys(line, where);
    Sample sample;
    if (line.contains("prompt") || line.contains("completion")) {
      const std::string prompt = keys.string("prompt"), completion = keys.string("completion");
      sample.add(tokenizer_.encode(prompt, true), 0);
      std::vector<int32_t> ids = tokenizer_.encode(completion, false);
      end(ids);
      sample.add(ids, ids.size());
      return sample;
    }
    if (!line.contains("text"))
      throw base::Error(ErrorKind::bad_input, where, "has none of messages, prompt and completion, text",
                        "{\"messages\": [{\"role\": \"user\", \"content\": …}, …]} is a conversation");
    std::vector<int32_t> ids = tokenizer_.encode(keys.string("text"), true);
    end(ids);
    sample.add(ids, ids.size());
    return sample;
  }

 private:
  // A line says what is learned in one way, and nothing that would be passed over. What only says where it comes from
  // may stay.
  static void expect_one_form(const Json& line, const std::string& where) {
    if (line.contains("conversations"))
      throw base::Error(
          ErrorKind::bad_input, where, "is in ShareGPT's form (conversations), which is not read",
          "write {\"messages\": [{\"role\": \"user\", \"content\": …}, …]}: from: human is role user, gpt "
          "is assistant, and value is content");
    if (line.contains("instruction"))
      throw base::Error(ErrorKind::bad_input, where,
                        "is in Alpaca's form (instruction, input, output), which is not read",
                        "write {\"messages\": [{\"role\": \"user\", \"content\": instruction and input}, {\"role\": "
                        "\"assistant\", \"content\": output}]}");
    base::JsonReader(line, where)
        .expect({"messages", "tools", "prompt", "completion", "text", "id", "source", "metadata"});
    const bool messages = line.contains("messages"), text = line.contains("text");
    const bool prompt = line.contains("prompt") || line.contains("completion");
    if (messages + text + prompt > 1)
      throw base::Error(ErrorKind::bad_input, where,
                        fmt::format("has {} side by side: one of them is the sample",
                                    !messages ? "prompt or completion and text"
                                    : !text   ? "messages and prompt or completion"
                                    : !prompt ? "messages and text"
                                              : "messages, prompt or completion, and text"),
                        "take out what is not to be learned, or make a line of each");
    if (line.contains("tools") && !messages)
      base::fail(ErrorKind::bad_input, where, "tools have no effect without messages: remove them");
  }

  // OpenAI's form for images and text: most templates read a text alone.
  static void expect_text(const Json& message, const std::string& where) {
    const auto content = message.find("content");
    if (content == message.end() || content->is_null() || content->is_string()) return;
    if (content->is_array())
      throw base::Error(ErrorKind::unsupported, where, "content is a list of parts, expected a text",
                        "write the text of its parts as one string: \"content\": \"…\"");
    base::fail(ErrorKind::bad_input, where, "content is {}, expected a text", content->type_name());
  }

  // A misspelt "assistant" would be text that is read and never learned. A template may know roles of its own.
  void check_role(const std::string& role, const std::string& where) const {
    static const std::vector<std::string> usual = {"system", "developer", "user", "assistant", "tool"};
    if (std::find(usual.begin(), usual.end(), role) != usual.end()) return;
    for (const char quote : {'"', '\''})
      if (template_->source().find(quote + role + quote) != std::string::npos) return;
    const std::string near = base::did_you_mean(role, usual);
    throw base::Error(ErrorKind::bad_input, where, fmt::format("role \"{}\" is not known", role),
                      near.empty() ? "roles are system, developer, user, assistant, tool and those that the chat "
                                     "template names"
                                   : near);
  }

  // OpenAI's form of fine-tuning data: an answer of weight 0 is read and not scored.
  static bool is_scored(const Json& message, const std::string& where) {
    const auto weight = message.find("weight");
    if (weight == message.end() || weight->is_null()) return true;
    if (message.at("role") != "assistant")
      base::fail(ErrorKind::bad_input, where, "weight of a message of role {}: only what the assistant says is scored",
                 message.at("role").dump());
    if (!weight->is_number() || (*weight != 0 && *weight != 1))
      base::fail(ErrorKind::bad_input, where, "weight is {}, expected 0 (not scored) or 1", weight->dump());
    return *weight == 1;
  }

  void end(std::vector<int32_t>& ids) const {
    if (!tokenizer_.end_tokens().empty()) ids.push_back(tokenizer_.end_tokens().front());
  }

  // Each answer is what the template writes after the prompt for it, and is tokenised apart, as it is generated.
  Sample conversation(const Json& line, const std::string& where) const {
    if (!template_)
      throw base::Error(ErrorKind::unsupported, where, "the model has no chat template to write messages with",
                        "give prompt and completion instead");
    const Json& messages = line.at("messages");
    if (!messages.is_array())
      base::fail(ErrorKind::bad_input, where, "messages is {}, expected a list", messages.type_name());
    Json extra = Json::object();
    if (line.contains("tools")) extra["tools"] = line.at("tools");
    Sample sample;
    std::string done;
    Json so_far = Json::array();
    for (const Json& message : messages) {
      if (!message.is_object() || !message.contains("role") || !message.at("role").is_string())
        base::fail(ErrorKind::bad_input, where, "a message is not an object with a role");
      // What templates read of a message, in the forms of OpenAI and transformers.
      const base::JsonReader keys(message, fmt::format("{}: messages[{}]", where, so_far.size()));
      keys.expect({"role", "content", "weight", "name", "tool_calls", "tool_call_id", "reasoning", "reasoning_content",
                   "thinking"});
      check_role(message.at("role").get<std::string>(), keys.where());
      const bool scored = is_scored(message, keys.where());
      const bool answer = message.at("role") == "assistant";
      const std::string prompt = answer ? render(so_far, true, extra, where) : "";
      expect_text(message, keys.where());
      so_far.push_back(message);
      so_far.back().erase("weight");
      if (!answer) continue;
      const std::string whole = render(so_far, false, extra, where);
      if (!prompt.starts_with(done) || !whole.starts_with(prompt))
        throw base::Error(ErrorKind::unsupported, where,
                          "the chat template does not write this conversation as the continuation of its beginning",
                          "cut it into samples of one answer each, or give prompt and completion");
      sample.add(tokenizer_.encode(std::string_view(prompt).substr(done.size()), false), 0);
      const std::vector<int32_t> ids = tokenizer_.encode(std::string_view(whole).substr(prompt.size()), false);
      sample.add(ids, scored ? scored_of(ids) : 0);
      done = whole;
    }
    return sample;
  }

  std::string render(const Json& messages, bool for_answer, const Json& extra, const std::string& where) const {
    try {
      return template_->render(messages, for_answer, extra);
    } catch (const base::Error& error) {
      throw base::Error(error.kind(), where, error.message(), error.hint());
    }
  }

  // What follows the token that ends the turn is the template's.
  size_t scored_of(const std::vector<int32_t>& ids) const {
    const std::vector<text::TokenId>& ends = tokenizer_.end_tokens();
    for (size_t i = ids.size(); i > 0; --i)
      if (std::find(ends.begin(), ends.end(), ids[i - 1]) != ends.end()) return i;
    return ids.size();
  }

  const text::Tokenizer& tokenizer_;
  const text::ChatTemplate* template_;
};

template <typename T>
std::span<const T> values(const checkpoint::TensorSource& source, const char* name, DType dtype) {
  const checkpoint::TensorInfo* tensor = source.find(name);
  if (!tensor || tensor->dtype != dtype || tensor->shape.size() != 1)
    base::fail(ErrorKind::bad_input, source.where(), "has no {} of one dimension and type {}", name,
               tensor::name(dtype));
  return {reinterpret_cast<const T*>(tensor->bytes.data()), static_cast<size_t>(tensor->shape[0])};
}

}  // namespace

InstructionFile InstructionFile::open(const fs::path& path, int64_t vocabulary) {
  InstructionFile file;
  file.source_ = checkpoint::open_safetensors(path);
  file.tokens_ = values<int32_t>(*file.source_, "tokens", DType::i32);
  file.scored_ = values<int32_t>(*file.source_, "scored", DType::i32);
  const auto ends = values<int64_t>(*file.source_, "ends", DType::i64);
  file.ends_.assign(ends.begin(), ends.end());
  int64_t last = 0;
  for (const int64_t end : file.ends_) {
    if (end < last + 2) base::fail(ErrorKind::bad_input, path.string(), "a sample ends at {}, after {}", end, last);
    last = end;
  }
  if (last != std::ssize(file.tokens_) || file.scored_.size() != file.tokens_.size())
    base::fail(ErrorKind::bad_input, path.string(), "{} tokens, {} marks, the last sample ends at {}",
               file.tokens_.size(), file.scored_.size(), last);
  for (const int32_t id : file.tokens_)
    if (id < 0 || id >= vocabulary)
      base::fail(ErrorKind::bad_input, path.string(), "id {} is outside of the vocabulary of {}", id, vocabulary);
  return file;
}

void InstructionFile::append(int64_t sample, std::vector<int32_t>& inputs, std::vector<int32_t>& targets) const {
  const int64_t end = ends_[static_cast<size_t>(sample)];
  for (auto t = static_cast<size_t>(first(sample)); t + 1 < static_cast<size_t>(end); ++t) {
    inputs.push_back(tokens_[t]);
    targets.push_back(scored_[t + 1] ? tokens_[t + 1] : -1);
  }
}

int64_t InstructionFile::scored(int64_t sample) const {
  const auto begin = scored_.begin() + first(sample) + 1, end = scored_.begin() + ends_[static_cast<size_t>(sample)];
  return std::count_if(begin, end, [](int32_t mark) { return mark != 0; });
}

InstructionCounts write_instruction_file(const fs::path& path, std::span<const fs::path> files,
                                         const text::Tokenizer& tokenizer, const text::ChatTemplate* chat_template,
                                         int64_t length,
                                         const std::function<void(const InstructionCounts&)>& progress) {
  const Reader reader(tokenizer, chat_template);
  InstructionCounts counts;
  std::vector<int32_t> tokens, scored;
  std::vector<int64_t> ends;
  int64_t without_answer = 0;  // of those that were dropped
  for (const fs::path& file : files) {
    for_each_line(file, [&](const Json& line, const std::string& where) {
      Sample sample = reader.read(line, where);
      const auto answers = std::count(sample.scored.begin(), sample.scored.end(), 1);
      const auto most = static_cast<size_t>(length) + 1;
      const bool cut = sample.ids.size() > most;
      if (cut) sample.ids.resize(most), sample.scored.resize(most);
      // The first token is predicted by nothing.
      const int64_t targets =
          sample.scored.size() < 2 ? 0 : std::count(sample.scored.begin() + 1, sample.scored.end(), 1);
      if (targets == 0) {
        ++counts.dropped;
        without_answer += answers == 0;
        return;
      }
      ++counts.samples;
      counts.truncated += cut;
      counts.tokens += std::ssize(sample.ids), counts.scored += targets;
      tokens.insert(tokens.end(), sample.ids.begin(), sample.ids.end());
      scored.insert(scored.end(), sample.scored.begin(), sample.scored.end());
      ends.push_back(std::ssize(tokens));
      if (progress) progress(counts);
    });
  }
  if (ends.empty()) {
    const std::string where = files.empty() ? "data" : files.front().string();
    if (without_answer == counts.dropped)
      throw base::Error(ErrorKind::bad_input, where, "holds no answer to learn",
                        "what is learned is what messages of the role assistant say, a completion, or a text");
    throw base::Error(ErrorKind::bad_input, where,
                      fmt::format("holds no sample with an answer that fits in {} tokens", length),
                      "a larger training.sequence has room for it");
  }
  const auto bytes = [](const auto& list) {
    return [&list](const auto& write) { write(std::as_bytes(std::span(list))); };
  };
  const std::vector<checkpoint::TensorToWrite> tensors = {
      {"ends", DType::i64, {std::ssize(ends)}, bytes(ends)},
      {"tokens", DType::i32, {std::ssize(tokens)}, bytes(tokens)},
      {"scored", DType::i32, {std::ssize(scored)}, bytes(scored)},
  };
  checkpoint::write_safetensors(path, tensors);
  return counts;
}

InstructionRows::InstructionRows(std::shared_ptr<const InstructionFile> file, int64_t begin, int64_t end,
                                 int64_t length, bool shuffled, uint64_t seed)
    : file_(std::move(file)), order_(static_cast<size_t>(end - begin)) {
  std::iota(order_.begin(), order_.end(), begin);
  if (shuffled) {
    constexpr uint64_t kStream = uint64_t{0x5061636b} << 32;
    base::Rng rng(seed, kStream);
    for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[rng.below(static_cast<uint32_t>(i))]);
  }
  int64_t filled = length;  // full: the first sample begins a row
  for (size_t i = 0; i < order_.size(); ++i) {
    const int64_t inputs = file_->tokens(order_[i]) - 1;
    base::require(inputs <= length, "instruction rows", "a sample of {} inputs for rows of {}", inputs, length);
    if (filled + inputs > length) {
      rows_.emplace_back(i, i);
      filled = 0;
    }
    filled += inputs;
    rows_.back().second = i + 1;
  }
}

std::span<const int64_t> InstructionRows::samples(int64_t row) const {
  const auto [begin, end] = rows_[static_cast<size_t>(row)];
  return std::span(order_).subspan(begin, end - begin);
}

int64_t InstructionRows::inputs(int64_t row) const {
  int64_t sum = 0;
  for (const int64_t sample : samples(row)) sum += file_->tokens(sample) - 1;
  return sum;
}

int64_t InstructionRows::scored(int64_t row) const {
  int64_t sum = 0;
  for (const int64_t sample : samples(row)) sum += file_->scored(sample);
  return sum;
}

}  // namespace coterie::train
