#include "train/recipe_sections.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/yaml.h"
#include "families/recommended_sampling.h"
#include "train/recipe_section.h"
#include "train/tuned_model.h"

namespace coterie::train {

using base::ErrorKind;
using base::fail;
using base::Json;
using base::JsonReader;

namespace {

constexpr double kMost = 1e9;

class Reader {
 public:
  /// Paths in the recipe are relative to `folder`.
  Reader(const Json& json, const std::string& where, std::filesystem::path folder, const std::filesystem::path& tuned)
      : json_(json), top_(json, where), folder_(std::move(folder)), tuned_(tuned) {}

  Recipe read() {
    expect_sections();
    recipe_.description = top_.string("description", "");
    const int64_t seed = top_.integer("seed", 0);
    if (seed < 0) fail(ErrorKind::bad_input, top_.where(), "seed is {}, expected 0 or more", seed);
    recipe_.seed = static_cast<uint64_t>(seed);
    if (tuned_.empty()) {
      read_model();
      read_tokenizer();
      read_sampling();
    } else {
      recipe_.tune = read_tune(top_, tuned_);
    }
    read_data();
    read_training();
    read_balance();
    read_evaluation();
    top_.refuse_unread();
    return std::move(recipe_);
  }

 private:
  void expect_sections() const {
    if (tuned_.empty()) {
      if (json_.contains("tune"))
        throw base::Error(ErrorKind::bad_input, top_.where(), "has a section tune: it is a recipe for coterie tune",
                          "coterie tune MODEL RECIPE; coterie train draws its weights anew");
      return top_.expect({"description", "seed", "model", "tokenizer", "sampling", "data", "training", "balance",
                          "evaluation", "checkpoint"});
    }
    for (const char* key : {"model", "tokenizer"})
      if (json_.contains(key))
        throw base::Error(
            ErrorKind::bad_input, top_.where(),
            fmt::format("has a section {}: that is for coterie train, a model that is tuned brings its own", key),
            "remove model and tokenizer, and name what is trained: tune: {lora: {targets: …}}");
    top_.expect({"description", "seed", "tune", "data", "training", "balance", "evaluation", "checkpoint"});
  }

  std::filesystem::path relative(const std::string& path) const { return folder_ / path; }

  void read_model() {
    Section model(top_, "model", {"config", "init", "init_std", "scale_residual"});
    const Json* config = model.keys.value("config");
    if (!config)
      throw base::Error(ErrorKind::not_found, model.where(), "config is missing",
                        "the keys of a config.json (model_type, hidden_size, …), or the path of one");
    if (config->is_string())
      recipe_.config = base::read_json(relative(config->get<std::string>()));
    else if (config->is_object())
      recipe_.config = *config;
    else
      fail(ErrorKind::bad_input, model.where(), "config is {}, expected an object or a path", config->type_name());
    using Kind = models::InitialWeights::Kind;
    recipe_.init.kind = model.choice<Kind>("init", {{"normal", Kind::normal}, {"kaiming", Kind::kaiming}}, "normal");
    if (recipe_.init.kind == Kind::kaiming)
      for (const char* key : {"init_std", "scale_residual"}) model.refuse(key, "with init: kaiming");
    recipe_.init.std = model.number("init_std", 0, 10, 0.02);
    recipe_.init.scale_residual = model.keys.boolean("scale_residual", true);
    model.keys.refuse_unread();
  }

  void read_tokenizer() {
    Section tokenizer(top_, "tokenizer", {"folder", "kind", "vocabulary", "min_frequency", "special"});
    if (tokenizer.keys.has("folder")) {
      for (const char* key : {"kind", "vocabulary", "min_frequency", "special"})
        tokenizer.refuse(key, "beside folder, whose tokenizer is used");
      recipe_.tokenizer.folder = relative(tokenizer.keys.string("folder"));
    } else {
      using Kind = text::TokenizerRecipe::Kind;
      text::TokenizerRecipe made;
      made.kind = tokenizer.choice<Kind>(
          "kind", {{"bpe", Kind::bpe}, {"characters", Kind::characters}, {"bytes", Kind::bytes}}, "bpe");
      if (made.kind == Kind::bpe) {
        made.vocabulary = tokenizer.count("vocabulary", 256);
        made.min_frequency = tokenizer.count("min_frequency", 1, 2);
      } else {
        for (const char* key : {"vocabulary", "min_frequency"}) tokenizer.refuse(key, "without kind: bpe");
      }
      made.special = tokenizer.list("special");
      recipe_.tokenizer.trained = std::move(made);
    }
    tokenizer.keys.refuse_unread();
  }

  void read_sampling() {
    Section sampling(top_, "sampling", {"temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty"});
    const auto setting = [&](const char* key) {
      if (const Json* value = sampling.keys.value(key)) recipe_.sampling[key] = *value;
    };
    setting("temperature"), setting("top_k"), setting("top_p"), setting("min_p"), setting("typical_p");
    setting("repetition_penalty");
    families::add_sampling(families::recommended_sampling(recipe_.sampling, sampling.where()), recipe_.sampling);
  }

  enum class Files { text, jsonl, tokens, instructions };

  std::vector<TextSource> texts(Section& data, std::string_view key, Files format) {
    std::vector<TextSource> list;
    const std::string field = data.keys.string("field", "text");
    for (const std::string& file : data.list(key))
      list.push_back(
          {relative(file), format == Files::jsonl ? TextSource::Format::jsonl : TextSource::Format::text, field});
    return list;
  }

  void read_data() {
    Section data(top_, "data", {"files", "format", "field", "validation", "validation_files", "order"});
    DataRecipe& recipe = recipe_.data;
    const Files format = data.choice<Files>("format",
                                            {{"text", Files::text},
                                             {"jsonl", Files::jsonl},
                                             {"tokens", Files::tokens},
                                             {"instructions", Files::instructions}},
                                            "text");
    if (format != Files::jsonl) data.refuse("field", "without format: jsonl");
    if (format == Files::instructions) {
      if (!recipe_.tune)
        throw base::Error(ErrorKind::bad_input, data.where(), "instructions are for models that are tuned",
                          "coterie tune MODEL RECIPE");
      for (const std::string& file : data.list("files")) recipe.instructions.push_back(relative(file));
      for (const std::string& file : data.list("validation_files"))
        recipe.validation_instructions.push_back(relative(file));
    } else if (format == Files::tokens) {
      if (recipe_.tokenizer.trained)
        fail(ErrorKind::bad_input, data.where(),
             "files of tokens need the tokenizer they were made with: tokenizer: folder");
      data.refuse("validation_files", "with format: tokens, of which validation holds a share out");
      for (const std::string& file : data.list("files")) recipe.tokens.push_back(relative(file));
    } else {
      recipe.texts = texts(data, "files", format);
      recipe.validation_texts = texts(data, "validation_files", format);
    }
    if (recipe.texts.empty() && recipe.tokens.empty() && recipe.instructions.empty())
      fail(ErrorKind::bad_input, data.where(), "files is missing or empty");
    const bool own = !recipe.validation_texts.empty() || !recipe.validation_instructions.empty();
    if (own && data.keys.has("validation"))
      fail(ErrorKind::bad_input, data.where(),
           "validation holds a part of files out, and validation_files are given as well");
    recipe.validation = data.number("validation", 0, 0.9, own ? 0.0 : 0.1);
    using Order = Windows::Order;
    recipe.order = data.choice<Order>(
        "order", {{"shuffled", Order::shuffled}, {"sequential", Order::sequential}, {"random", Order::random}},
        "shuffled");
    data.keys.refuse_unread();
  }

  void read_training() {
    Section training(
        top_, "training",
        {"sequence",     "batch",     "micro_batch", "shards",  "steps",          "learning_rate",  "weight_decay",
         "vector_decay", "clip",      "betas",       "eps",     "schedule",       "warmup",         "decay",
         "floor",        "precision", "recompute",   "dropout", "expert_dropout", "prediction_loss"});
    recipe_.sequence = training.count("sequence", 1);
    recipe_.batch = training.count("batch", 1);
    recipe_.micro_batch = training.count("micro_batch", 1, recipe_.batch);
    if (recipe_.batch % recipe_.micro_batch != 0)
      fail(ErrorKind::bad_input, training.where(), "a batch of {} does not divide into micro_batches of {}",
           recipe_.batch, recipe_.micro_batch);
    recipe_.shards = training.count("shards", 1, 1);
    recipe_.evaluation_batch = recipe_.micro_batch;
    recipe_.micro_batch = std::min(recipe_.micro_batch, std::max<int64_t>(recipe_.batch / recipe_.shards, 1));
    if (recipe_.batch % (recipe_.shards * recipe_.micro_batch) != 0)
      fail(ErrorKind::bad_input, training.where(),
           "a batch of {} in micro_batches of {} does not divide into {} shards", recipe_.batch, recipe_.micro_batch,
           recipe_.shards);
    recipe_.learning_rate = training.number("learning_rate", 0, 10);
    recipe_.weight_decay = training.number("weight_decay", 0, 10, 0.1);
    recipe_.vector_decay = training.number("vector_decay", 0, 10, 0.0);
    if (training.keys.has("clip")) recipe_.clip = training.number("clip", 1e-9, kMost);
    const std::vector<double> betas =
        training.keys.has("betas") ? training.keys.numbers("betas") : std::vector{0.9, 0.95};
    if (betas.size() != 2 || !(betas[0] >= 0 && betas[0] < 1 && betas[1] >= 0 && betas[1] < 1))
      fail(ErrorKind::bad_input, training.where(), "betas must be two numbers from 0 to below 1");
    recipe_.optimiser = {betas[0], betas[1], training.number("eps", 1e-20, 1, 1e-8)};
    Schedule& schedule = recipe_.schedule;
    using Kind = Schedule::Kind;
    schedule.kind = training.choice<Kind>(
        "schedule",
        {{"constant", Kind::constant}, {"cosine", Kind::cosine}, {"linear", Kind::linear}, {"wsd", Kind::wsd}},
        "cosine");
    if (schedule.kind != Kind::wsd) training.refuse("decay", "without schedule: wsd");
    if (schedule.kind == Kind::constant) training.refuse("floor", "with schedule: constant");
    schedule.steps = training.count("steps", 1);
    schedule.warmup = training.count("warmup", 0, 0);
    schedule.decay = schedule.kind == Schedule::Kind::wsd ? training.count("decay", 1) : 0;
    schedule.floor = schedule.kind == Schedule::Kind::constant ? 1 : training.number("floor", 0, 1, 0.1);
    check(schedule, training.where());
    recipe_.precision = training.choice<ops::Precision>(
        "precision", {{"f32", ops::Precision::f32}, {"bf16", ops::Precision::bf16}}, "f32");
    recipe_.recompute = training.keys.boolean("recompute", false);
    recipe_.dropout = training.number("dropout", 0, 0.95, 0.0);
    recipe_.expert_dropout = training.number("expert_dropout", 0, 0.95, 0.0);
    recipe_.prediction_loss = training.number("prediction_loss", 0, 100, 0.0);
    training.keys.refuse_unread();
  }

  void read_balance() {
    Section balance(top_, "balance", {"loss", "z_loss", "bias_rate", "kind", "scope"});
    recipe_.balance.loss_weight = balance.number("loss", 0, kMost, 0.0);
    recipe_.balance.z_weight = balance.number("z_loss", 0, kMost, 0.0);
    recipe_.balance.bias_rate = balance.number("bias_rate", 0, 1, 0.0);
    if (recipe_.balance.loss_weight == 0)
      for (const char* key : {"kind", "scope"}) balance.refuse(key, "without a loss");
    using Balance = layers::RouterLossSpec::Balance;
    recipe_.balance.kind = balance.choice<Balance>("kind",
                                                   {{"switch", Balance::all_choices},
                                                    {"gshard", Balance::first_choice},
                                                    {"importance", Balance::importance},
                                                    {"importance_and_load", Balance::importance_and_load}},
                                                   "switch");
    using Scope = layers::RouterLossSpec::Scope;
    recipe_.balance.scope = balance.choice<Scope>(
        "scope", {{"batch", Scope::batch}, {"micro_batch", Scope::micro_batch}, {"sequence", Scope::sequence}},
        "batch");
    balance.keys.refuse_unread();
  }

  void read_evaluation() {
    Section evaluation(top_, "evaluation", {"every", "batches", "patience"});
    recipe_.evaluate_every = evaluation.count("every", 1, recipe_.schedule.steps);
    recipe_.evaluate_batches = evaluation.count("batches", 0, 0);
    recipe_.patience = evaluation.count("patience", 0, 0);
    const DataRecipe& data = recipe_.data;
    if (recipe_.patience > 0 && data.validation == 0 && data.validation_texts.empty() &&
        data.validation_instructions.empty())
      fail(ErrorKind::bad_input, evaluation.where(),
           "patience counts evaluations on validation data, and there is none");
    evaluation.keys.refuse_unread();
    Section checkpoint(top_, "checkpoint", {"every", "keep"});
    recipe_.checkpoint_every = checkpoint.count("every", 1, recipe_.schedule.steps);
    recipe_.checkpoints_kept = checkpoint.count("keep", 1, 2);
    checkpoint.keys.refuse_unread();
  }

  const Json& json_;
  JsonReader top_;
  std::filesystem::path folder_, tuned_;
  Recipe recipe_;
};

}  // namespace

Recipe read_sections(const Json& json, const std::string& where, std::filesystem::path folder,
                     const std::filesystem::path& tuned) {
  return Reader(json, where, std::move(folder), tuned).read();
}

Json take_variants(Json& recipe) {
  Json variants = recipe.value("variants", Json::object());
  recipe.erase("variants");
  return variants;
}

}  // namespace coterie::train
