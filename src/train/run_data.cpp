#include "train/run_data.h"

#include <algorithm>
#include <cmath>

#include "base/atomic_file.h"
#include "base/error.h"

namespace coterie::train {

namespace fs = std::filesystem;
using base::ErrorKind;

TokenStream::TokenStream(std::vector<TokenFile> files) : files_(std::move(files)) {
  int64_t end = 0;
  for (const TokenFile& file : files_) ends_.push_back(end += file.size());
}

void TokenStream::read(int64_t begin, std::span<int32_t> out) const {
  int64_t first = 0;
  for (size_t f = 0; f < files_.size() && !out.empty(); first = ends_[f++]) {
    if (begin >= ends_[f]) continue;
    const auto here = static_cast<size_t>(std::min(std::ssize(out), ends_[f] - begin));
    files_[f].read(begin - first, out.first(here));
    out = out.subspan(here), begin += static_cast<int64_t>(here);
  }
  base::require(out.empty(), "train::TokenStream", "{} tokens past the end", out.size());
}

void Split::read(int64_t sample, std::vector<int32_t>& inputs, std::vector<int32_t>& targets,
                 std::vector<int64_t>& lengths) const {
  const int64_t first = windows.begin(sample);
  if (rows) {
    for (const int64_t s : rows->samples(first)) {
      rows->file().append(s, inputs, targets);
      lengths.push_back(rows->file().tokens(s) - 1);
    }
    return;
  }
  const auto before = inputs.size(), length = static_cast<size_t>(windows.length());
  inputs.resize(before + length), targets.resize(before + length);
  stream->read(begin + first, std::span(inputs).subspan(before));
  stream->read(begin + first + 1, std::span(targets).subspan(before));
  lengths.push_back(windows.length());
}

int64_t Split::inputs(int64_t first, int64_t count) const {
  if (!rows) return count * windows.length();
  int64_t sum = 0;
  for (int64_t s = first; s < first + count; ++s) sum += rows->inputs(windows.begin(s));
  return sum;
}

int64_t Split::scored(int64_t first, int64_t count) const {
  if (!rows) return count * windows.length();
  int64_t sum = 0;
  for (int64_t s = first; s < first + count; ++s) sum += rows->scored(windows.begin(s));
  return sum;
}

namespace {

using Note = std::function<void(const std::string&)>;

void copy_vocabulary(const fs::path& from, const fs::path& to) {
  fs::create_directories(to);
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
                           "chat_template.jinja", "chat_template.json", "tokenizer.json"}) {
    if (fs::exists(from / name)) base::write_text(to / name, base::read_text(from / name));
  }
}

void make_vocabulary(const Recipe& recipe, const fs::path& folder, bool resumed, const Note& note) {
  if (resumed && fs::exists(folder / "tokenizer.json")) return;
  if (!recipe.tokenizer.trained) {
    if (!fs::exists(recipe.tokenizer.folder / "tokenizer.json"))
      throw base::Error(ErrorKind::not_found, recipe.tokenizer.folder.string(), "has no tokenizer.json",
                        "tokenizer: folder is the folder of a Hugging Face model, or of coterie tokenizer train");
    return copy_vocabulary(recipe.tokenizer.folder, folder);
  }
  note("training the vocabulary");
  // The documents of the training texts; the separator between them is not text.
  std::vector<std::string> texts;
  for (const TextSource& source : recipe.data.texts)
    for_each_document(source, [&](std::string_view text) { texts.emplace_back(text); });
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  const std::string json = text::train_tokenizer(*recipe.tokenizer.trained, views);
  fs::create_directories(folder);
  text::write_tokenizer(*recipe.tokenizer.trained, json, folder);
}

std::shared_ptr<const TokenStream> make_tokens(const fs::path& path, std::span<const TextSource> texts,
                                               const text::Tokenizer& tokenizer, bool resumed, const Note& note) {
  if (!resumed || !fs::exists(path)) {
    std::optional<text::TokenId> separator;
    if (!tokenizer.end_tokens().empty()) separator = tokenizer.end_tokens().front();
    write_token_file(path, texts, tokenizer, separator, [&](const TokenizingProgress& at) {
      note(fmt::format("tokens of the texts: {:.1f} of {:.1f} MB", static_cast<double>(at.bytes) * 1e-6,
                       static_cast<double>(at.total_bytes) * 1e-6));
    });
  }
  return std::make_shared<const TokenStream>(std::vector{TokenFile::open(path, tokenizer.vocabulary_size())});
}

// Files of tokens lie outside of the run's folder: whether they are still what they were when it began.
void know_again(const fs::path& noted, std::span<const fs::path> paths, std::span<const TokenFile> files,
                bool resumed) {
  base::Json now = base::Json::array();
  for (size_t i = 0; i < files.size(); ++i)
    now.push_back({{"tokens", files[i].size()}, {"fingerprint", files[i].fingerprint()}});
  if (!resumed || !fs::exists(noted)) return base::write_text(noted, now.dump(2) + "\n");
  const base::Json before = base::read_json(noted);
  for (size_t i = 0; i < files.size(); ++i)
    if (i >= before.size() || before[i] != now[i])
      throw base::Error(ErrorKind::bad_input, paths[i].string(), "its tokens are not those that the run began with",
                        "a run goes on with the data it began with; begin another in another folder");
}

double bytes_per_token(const Split& split, int64_t windows, const text::Tokenizer& tokenizer) {
  const int64_t count = windows * split.windows.length();
  std::vector<int32_t> ids(static_cast<size_t>(count));
  split.stream->read(split.begin + 1, ids);
  return static_cast<double>(tokenizer.decode(ids, true).size()) / static_cast<double>(count);
}

}  // namespace

namespace {

text::Tokenizer open_vocabulary(const Recipe& recipe, const RunFolder& folder, bool resumed, const TunedModel* tuned,
                                const Note& note) {
  if (tuned) {
    if (!tuned->vocabulary().empty() && !(resumed && fs::exists(folder.tokenizer() / "tokenizer.json")))
      copy_vocabulary(tuned->vocabulary(), folder.tokenizer());
    return tuned->tokenizer();
  }
  make_vocabulary(recipe, folder.tokenizer(), resumed, note);
  if (!recipe.sampling.empty()) {
    const fs::path generation = folder.tokenizer() / "generation_config.json";
    base::Json config = fs::exists(generation) ? base::read_json(generation) : base::Json::object();
    config.update(recipe.sampling);
    base::write_text(generation, config.dump(2) + "\n");
  }
  return text::Tokenizer::load(folder.tokenizer());
}

/// Windows that order `count` rows: one token each and one after the last.
Windows order_of(int64_t count, Windows::Order order, uint64_t seed, const std::string& where) {
  return {count + 1, 1, order, seed, where};
}

std::shared_ptr<const InstructionFile> make_instructions(const fs::path& path, std::span<const fs::path> files,
                                                         const Recipe& recipe, const text::Tokenizer& tokenizer,
                                                         const TunedModel& tuned, bool resumed, base::Json* counted,
                                                         const Note& note) {
  const fs::path counts_path = fs::path(path).replace_extension(".json");
  if (!resumed || !fs::exists(path) || !fs::exists(counts_path)) {
    const InstructionCounts counts =
        write_instruction_file(path, files, tokenizer, tuned.chat_template(), recipe.sequence,
                               [&](const InstructionCounts& at) { note(fmt::format("{} samples", at.samples)); });
    base::write_text(counts_path, base::Json{{"samples", counts.samples},
                                             {"truncated", counts.truncated},
                                             {"dropped", counts.dropped},
                                             {"tokens", counts.tokens},
                                             {"scored", counts.scored}}
                                          .dump(2) +
                                      "\n");
  }
  *counted = base::read_json(counts_path);
  return std::make_shared<const InstructionFile>(InstructionFile::open(path, tokenizer.vocabulary_size()));
}

RunData open_instructions(const Recipe& recipe, const RunFolder& folder, bool resumed, const TunedModel& tuned,
                          text::Tokenizer tokenizer, const Note& note) {
  using enum Windows::Order;
  base::Json counts = base::Json::object();
  const auto file = make_instructions(folder.tokens(), recipe.data.instructions, recipe, tokenizer, tuned, resumed,
                                      &counts["training"], note);
  const std::string where = recipe.data.instructions.front().string();
  const auto held_out = static_cast<int64_t>(std::ceil(static_cast<double>(file->size()) * recipe.data.validation));
  const auto split = [&](std::shared_ptr<const InstructionFile> of, int64_t begin, int64_t end, Windows::Order order,
                         const std::string& name) {
    if (begin >= end) base::fail(ErrorKind::bad_input, name, "no sample is left to train on");
    const auto rows = std::make_shared<const InstructionRows>(std::move(of), begin, end, recipe.sequence,
                                                              order != sequential, recipe.seed);
    return Split{nullptr, 0, order_of(rows->size(), order, recipe.seed, name), rows};
  };
  RunData data{std::move(tokenizer), split(file, 0, file->size() - held_out, recipe.data.order, where), {}};
  if (!recipe.data.validation_instructions.empty()) {
    const auto judged = make_instructions(folder.validation(), recipe.data.validation_instructions, recipe,
                                          data.tokenizer, tuned, resumed, &counts["validation"], note);
    data.validation =
        split(judged, 0, judged->size(), sequential, recipe.data.validation_instructions.front().string());
  } else if (held_out > 0) {
    data.validation = split(file, file->size() - held_out, file->size(), sequential, where + ": the part held out");
  }
  data.instructions = std::move(counts);
  return data;
}

}  // namespace

RunData open_data(const Recipe& recipe, const RunFolder& folder, bool resumed, const TunedModel* tuned,
                  const Note& note) {
  text::Tokenizer tokenizer = open_vocabulary(recipe, folder, resumed, tuned, note);
  if (!recipe.data.instructions.empty())
    return open_instructions(recipe, folder, resumed, *tuned, std::move(tokenizer), note);

  std::shared_ptr<const TokenStream> stream;
  if (recipe.data.tokens.empty()) {
    stream = make_tokens(folder.tokens(), recipe.data.texts, tokenizer, resumed, note);
  } else {
    std::vector<TokenFile> files;
    for (const fs::path& path : recipe.data.tokens) files.push_back(TokenFile::open(path, tokenizer.vocabulary_size()));
    know_again(folder.data(), recipe.data.tokens, files, resumed);
    stream = std::make_shared<const TokenStream>(std::move(files));
  }
  const std::string where =
      recipe.data.tokens.empty() ? recipe.data.texts.front().path.string() : recipe.data.tokens.front().string();
  const auto held_out = static_cast<int64_t>(std::ceil(static_cast<double>(stream->size()) * recipe.data.validation));
  const int64_t kept = stream->size() - held_out;
  RunData data{
      std::move(tokenizer), {stream, 0, Windows(kept, recipe.sequence, recipe.data.order, recipe.seed, where)}, {}};
  using enum Windows::Order;
  if (!recipe.data.validation_texts.empty()) {
    const auto validation =
        make_tokens(folder.validation(), recipe.data.validation_texts, data.tokenizer, resumed, note);
    const std::string file = recipe.data.validation_texts.front().path.string();
    data.validation = Split{validation, 0, Windows(validation->size(), recipe.sequence, sequential, 0, file)};
  } else if (held_out > 0) {
    data.validation =
        Split{stream, kept, Windows(held_out, recipe.sequence, sequential, 0, where + ": the part held out")};
  }
  if (data.validation)
    data.bytes_per_token = bytes_per_token(
        *data.validation, recipe.windows_of_evaluation(data.validation->windows.per_epoch()), data.tokenizer);
  return data;
}

}  // namespace coterie::train
