#include "surgery/ensemble/make_ensemble.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/memory.h"
#include "checkpoint/ensemble_file.h"
#include "checkpoint/tensor_sink.h"
#include "families/ensemble/ensemble_decoder.h"
#include "families/ensemble/ensemble_model.h"
#include "families/ensemble/same_tokenizer.h"
#include "models/account.h"
#include "ops/log_sum_exp.h"
#include "surgery/merge/merge_sources.h"
#include "surgery/merge/prompt_states.h"

namespace coterie::surgery {

namespace fs = std::filesystem;
using base::ErrorKind;
using base::fail;
using families::Gate;

namespace {

/// A prompt, or a window of a text, and whose it is.
struct Piece {
  Prompt prompt;
  size_t source = 0;
  bool negative = false, held_out = false;
};

/// The samples of a set of pieces, in their order.
struct Set {
  GateSamples samples;
  std::vector<int64_t> first;  // of each piece
};

class Maker {
 public:
  Maker(ops::Context& context, const EnsembleRecipe& recipe, fs::path file, const OnProgress& on_progress)
      : context_(context), recipe_(recipe), file_(std::move(file)), on_progress_(on_progress) {
    gate_.kind = recipe.kind, gate_.top_k = recipe.top_k, gate_.temperature = recipe.temperature;
  }

  GateMade make(const fs::path& out) {
    ModelFolder folder(out);
    open(out);
    GateMade made;
    if (gate_.reads()) fit(made);
    made.gate = gate_;
    made.models = families::names_of(gate_, models_);
    write(folder, made);
    folder.commit();
    return made;
  }

 private:
  bool labels() const { return recipe_.learn == EnsembleRecipe::Learn::labels; }
  bool by_token() const { return gate_.kind == Gate::Kind::token; }

  void open(const fs::path& out) {
    const MergeSources sources(file_);
    int64_t fewest = 0;
    for (const EnsembleRecipe::Source& source : recipe_.sources) {
      const fs::path path = sources.find(source.source_model, source.where, "folders or GGUF files");
      gate_.models.push_back(
          fs::absolute(path).lexically_normal().lexically_proximate(fs::absolute(out).lexically_normal()));
      families::Model& model = models_.emplace_back(families::open_model(path));
      if (!model.tokenizer)
        throw base::Error(ErrorKind::bad_input, model.path.path.string(),
                          "there is no tokenizer: " + model.no_tokenizer,
                          "the models of an ensemble read one text, so their tokens must be the same");
      families::require_same_tokenizer(models_.front(), model);
      const int64_t parameters = models::account(model.decoder->spec()).total();
      const bool chosen = recipe_.reader.empty() ? fewest == 0 || parameters < fewest
                                                 : fewest == 0 && source.source_model == recipe_.reader;
      if (chosen) fewest = parameters, gate_.reader = std::ssize(models_) - 1;
      vocabulary_ = models_.size() == 1 ? model.decoder->spec().vocabulary
                                        : std::min(vocabulary_, model.decoder->spec().vocabulary);
    }
  }

  const families::Model& reader() const { return models_[static_cast<size_t>(gate_.reader)]; }

  void add_prompts(size_t source, const std::vector<std::string>& prompts, bool negative) {
    int64_t number = 0;
    for (Prompt& prompt : prompt_tokens(reader(), prompts, recipe_.sources[source].where))
      pieces_.push_back({std::move(prompt), source, negative, number++ % 5 == 4});
  }

  /// Windows spread evenly over the file.
  void add_text(size_t source, const std::string& name) {
    const std::string& where = recipe_.sources[source].where;
    std::error_code absent;
    fs::path path = file_.parent_path() / name;
    if (!fs::exists(path, absent)) path = name;
    const text::Tokenizer& tokenizer = *reader().tokenizer;
    const std::vector<int32_t> ids = tokenizer.encode(base::read_text(path), false);
    std::vector<int32_t> start = tokenizer.encode("", true);
    start.resize(!start.empty() && tokenizer.bos() == start.front() ? 1 : 0);
    int64_t fresh = recipe_.window - std::ssize(start);
    for (const families::Model& model : models_)
      fresh = std::min(fresh, model.decoder->spec().context - std::ssize(start));
    const int64_t length = std::ssize(ids), windows = std::min(recipe_.tokens, length) / fresh;
    if (fresh < 2 || windows == 0)
      fail(ErrorKind::bad_input, where, "{} has {} tokens, a window {}: there is none", path.string(), length, fresh);
    for (int64_t w = 0; w < windows; ++w) {
      Piece piece{{start, std::ssize(start)}, source, false, w % 10 == 9};
      const auto begin = ids.begin() + w * (length / windows);
      piece.prompt.ids.insert(piece.prompt.ids.end(), begin, begin + fresh);
      pieces_.push_back(std::move(piece));
    }
  }

  int64_t predictions(const Piece& piece) const {
    return std::ssize(piece.prompt.ids) - piece.prompt.skipped - (labels() ? 0 : 1);
  }

  void collect() {
    for (size_t i = 0; i < recipe_.sources.size(); ++i) {
      add_prompts(i, recipe_.sources[i].positive_prompts, false);
      add_prompts(i, recipe_.sources[i].negative_prompts, true);
      for (const std::string& text : recipe_.sources[i].texts) add_text(i, text);
    }
    std::erase_if(pieces_, [&](const Piece& piece) { return predictions(piece) < 1; });
    const auto width = reader().decoder->spec().width, count = gate_.count();
    int64_t all = 0;
    for (const Piece& piece : pieces_) all += by_token() ? predictions(piece) : 1;
    base::require_memory(all * (2 * width + 6 * count) * static_cast<int64_t>(sizeof(float)),
                         fmt::format("{} states to fit the gate on", all), "fewer tokens in the recipe need less");
    for (Set& set : sets_) {
      set.samples.width = width, set.samples.models = count;
      set.first.resize(pieces_.size());
    }
    for (size_t p = 0; p < pieces_.size(); ++p) {
      Set& set = sets_[pieces_[p].held_out];
      GateSamples& samples = set.samples;
      set.first[p] = samples.count();
      const int64_t said = predictions(pieces_[p]), rows = by_token() ? said : 1;
      samples.x.resize(samples.x.size() + static_cast<size_t>(rows * width));
      samples.log_p.resize(samples.log_p.size() + static_cast<size_t>(rows * count));
      samples.weight.resize(samples.weight.size() + static_cast<size_t>(rows), 1);
      samples.tokens.resize(samples.weight.size(), labels() || by_token() ? 1.0f : static_cast<float>(said));
    }
    if (sets_[0].samples.count() == 0) fail(ErrorKind::bad_input, file_.string(), "no prompt or text has two tokens");
  }

  /// Sample number and share of the piece at a position of its prompt; -1 for those that do not count.
  std::pair<int64_t, double> sample(size_t piece, int64_t position) const {
    const Piece& of = pieces_[piece];
    const int64_t at = position - of.prompt.skipped;
    if (at < 0 || at >= predictions(of)) return {-1, 0};
    const int64_t first = sets_[of.held_out].first[piece];
    return by_token() ? std::pair(first + at, 1.0) : std::pair(first, 1 / static_cast<double>(predictions(of)));
  }

  /// Runs all pieces through a model. During a step rows_ says what its rows are.
  void read(const families::Model& model, layers::Observer* observer, const OnLogits& logits) {
    std::vector<Prompt> prompts;
    for (const Piece& piece : pieces_) prompts.push_back(piece.prompt);
    size_t next = 0;
    read_prompts(
        context_, *model.decoder, prompts, observer,
        [&](std::span<const Prompt> step) {
          if (on_progress_) on_progress_("reading with " + model.name, static_cast<int64_t>(next), std::ssize(pieces_));
          rows_.clear();
          for (size_t i = 0; i < step.size(); ++i, ++next)
            for (int64_t t = 0; t < std::ssize(step[i].ids); ++t) rows_.emplace_back(next, t);
        },
        logits);
  }

  /// States by the reader, and where it is asked for what each model gives to the token that comes, over the vocabulary
  /// that all of them have.
  void read_all() {
    families::GateReader observer(std::ssize(reader().decoder->spec().blocks),
                                  [&](int64_t row, std::span<const double> x) {
                                    const auto [piece, position] = rows_[static_cast<size_t>(row)];
                                    const auto [at, share] = sample(piece, position);
                                    if (at < 0) return;
                                    float* into = sets_[pieces_[piece].held_out].samples.x.data() + at * std::ssize(x);
                                    for (size_t d = 0; d < x.size(); ++d) into[d] += static_cast<float>(share * x[d]);
                                  });
    if (labels()) return read(reader(), &observer, {});
    for (size_t m = 0; m < models_.size(); ++m)
      read(models_[m], static_cast<int64_t>(m) == gate_.reader ? &observer : nullptr,
           [&](std::span<const Prompt>, tensor::ConstMatrix logits) { add_likelihoods(m, logits); });
  }

  void add_likelihoods(size_t model, tensor::ConstMatrix logits) {
    std::vector<double> log_p(rows_.size());
    context_.pool.each(logits.rows, [&](int64_t r, int) {
      const auto [piece, position] = rows_[static_cast<size_t>(r)];
      if (sample(piece, position).first < 0) return;
      const int32_t next = pieces_[piece].prompt.ids[static_cast<size_t>(position) + 1];
      log_p[static_cast<size_t>(r)] =
          static_cast<double>(logits.row(r)[next]) - ops::log_sum_exp(logits.row(r), vocabulary_);
    });
    for (size_t r = 0; r < rows_.size(); ++r) {
      const auto [piece, position] = rows_[r];
      const int64_t at = sample(piece, position).first;
      if (at >= 0)
        sets_[pieces_[piece].held_out].samples.log_p[static_cast<size_t>(at * gate_.count()) + model] +=
            static_cast<float>(log_p[r]);
    }
  }

  /// A model's samples count together as much as another's.
  void label() {
    for (Set& set : sets_) {
      std::vector<float> of(models_.size());
      const auto each = [&](auto body) {
        for (size_t p = 0; p < pieces_.size(); ++p)
          if (&sets_[pieces_[p].held_out] == &set)
            for (int64_t s = 0; s < (by_token() ? predictions(pieces_[p]) : 1); ++s)
              body(pieces_[p], static_cast<size_t>(set.first[p] + s));
      };
      each([&](const Piece& piece, size_t) { ++of[piece.source]; });
      each([&](const Piece& piece, size_t s) {
        set.samples.weight[s] = 1 / of[piece.source];
        for (size_t m = 0; m < models_.size(); ++m)
          set.samples.log_p[s * models_.size() + m] = (m == piece.source) != piece.negative ? 0 : -INFINITY;
      });
    }
  }

  void fit(GateMade& made) {
    collect();
    read_all();
    if (labels()) label();
    EnsembleFitting fitting{recipe_.steps, recipe_.weight_decay, {}};
    if (on_progress_) fitting.on_step = [&](int64_t step) { on_progress_("fitting the gate", step, recipe_.steps); };
    fit_gate(sets_[0].samples, fitting, context_.pool, gate_);
    made.fitted = sets_[0].samples.count(), made.held_out = sets_[1].samples.count();
    made.score = score_gate(gate_, sets_[made.held_out > 0].samples, labels());
  }

  void write(const ModelFolder& folder, const GateMade& made) const {
    folder.write_json(checkpoint::kEnsembleFile, families::to_json(gate_));
    if (gate_.reads()) {
      const auto bytes = [](const std::vector<float>& v) { return std::as_bytes(std::span(v)); };
      const checkpoint::TensorToWrite tensors[] = {
          {"gate.weight",
           tensor::DType::f32,
           {gate_.count(), std::ssize(gate_.rows[0])},
           [&](const auto& write) {
             for (const std::vector<float>& row : gate_.rows) write(bytes(row));
           }},
          {"gate.bias", tensor::DType::f32, {gate_.count()}, [&](const auto& write) { write(bytes(gate_.bias)); }}};
      folder.fill([&](const fs::path& now) { checkpoint::write_safetensors(now / "gate.safetensors", tensors); });
    }
    folder.write_json(kReceipt, to_json(made));
  }

  ops::Context& context_;
  const EnsembleRecipe& recipe_;
  fs::path file_;
  const OnProgress& on_progress_;
  Gate gate_;
  std::vector<families::Model> models_;
  int64_t vocabulary_ = 0;
  std::vector<Piece> pieces_;
  std::array<Set, 2> sets_;                       // to fit on, held out
  std::vector<std::pair<size_t, int64_t>> rows_;  // of the step that runs: piece and position
};

}  // namespace

base::Json to_json(const GateMade& made) {
  base::Json json = {{"made_by", "coterie gate"},
                     {"gate", families::name(made.gate.kind)},
                     {"top_k", made.gate.top_k},
                     {"models", made.models}};
  if (!made.gate.reads()) return json;
  const GateScore& score = made.score;
  json["reader"] = made.models[static_cast<size_t>(made.gate.reader)];
  json["learned"] = score.alone.empty() ? "labels" : "likelihood";
  json["temperature"] = made.gate.temperature;
  json["fitted_on"] = made.fitted;
  json["held_out"] = made.held_out;
  json["right_model_first"] = score.right;
  json["mean_weights"] = score.weights;
  json["cross_entropy"] = {{"gated", score.gated}, {"uniform", score.uniform}};
  if (!score.alone.empty()) json["cross_entropy"]["alone"] = score.alone;
  return json;
}

GateMade make_ensemble(ops::Context& context, const EnsembleRecipe& recipe, const fs::path& recipe_file,
                       const fs::path& out, const OnProgress& on_progress) {
  return Maker(context, recipe, recipe_file, on_progress).make(out);
}

}  // namespace coterie::surgery
