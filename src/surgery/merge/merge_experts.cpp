#include "surgery/merge/merge_experts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include "base/error.h"
#include "families/config/router_keys.h"
#include "families/ensemble/same_tokenizer.h"
#include "families/family.h"
#include "models/account.h"
#include "quant/codec.h"
#include "surgery/ffn_rows.h"
#include "surgery/merge/prompt_states.h"
#include "surgery/merge/router_rows.h"
#include "surgery/moe_tensor.h"
#include "surgery/new_model.h"
#include "surgery/published_mixture.h"
#include "surgery/rows.h"
#include "surgery/same_model.h"

namespace coterie::surgery {

namespace {

using base::ErrorKind;
using base::fail;
using families::Model;
using layers::DenseFfnSpec;
using models::ModelSpec;

const DenseFfnSpec& ffn_of(const ModelSpec& spec, const std::string& where) {
  const DenseFfnSpec* first = nullptr;
  for (const models::BlockSpec& block : spec.blocks) {
    const auto* ffn = std::get_if<DenseFfnSpec>(&block.ffn);
    if (!ffn) fail(ErrorKind::unsupported, where, "has layers without a dense FFN: only dense models merge");
    if (first && (ffn->hidden != first->hidden || ffn->activation != first->activation || ffn->gated != first->gated))
      fail(ErrorKind::unsupported, where, "its layers have FFNs of several kinds");
    if (!first) first = ffn;
  }
  return *first;
}

/// A model by what it is, and what to call it.
struct Named {
  const ModelSpec& spec;
  std::string name;
};

void require_same_shape(const Named& base, const Named& source, const std::string& where) {
  const ModelSpec &a = base.spec, &b = source.spec;
  const auto same = [&](std::string_view field, int64_t x, int64_t y) {
    if (x != y) fail(ErrorKind::unsupported, where, "{} has {} {}, the base model {}", source.name, y, field, x);
  };
  same("layers", std::ssize(a.blocks), std::ssize(b.blocks));
  same("dimensions (hidden_size)", a.width, b.width);
  same("tokens in its vocabulary", a.vocabulary, b.vocabulary);
  const DenseFfnSpec &x = ffn_of(a, base.name), &y = ffn_of(b, source.name);
  same("hidden units in an FFN (intermediate_size)", x.hidden, y.hidden);
  if (x.activation != y.activation || x.gated != y.gated || x.bias != y.bias)
    fail(ErrorKind::unsupported, where, "{} has FFNs of another kind (activation, gate or biases) than the base model",
         source.name);
}

/// What the recipe makes of a base model.
struct Mixture {
  const families::Family* family = nullptr;
  layers::MoeSpec moe;
  std::vector<std::string> notes;
};

Mixture mixture_of(const MoeRecipe& recipe, const Named& base) {
  const DenseFfnSpec& ffn = ffn_of(base.spec, base.name);
  Mixture mixture;
  layers::MoeSpec& moe = mixture.moe;
  moe.router.experts = std::ssize(recipe.experts);
  moe.router.experts_per_token = recipe.experts_per_token;
  moe.router.renormalise = true;
  moe.hidden = ffn.hidden, moe.activation = ffn.activation, moe.gated = ffn.gated, moe.bias = ffn.bias;
  const families::Family& dense = families::family_of(base.spec);
  mixture.family = recipe.architecture.empty() ? &families::published_mixture(dense, recipe.shared.has_value())
                                               : &mixture_family(recipe.architecture);
  const std::string note = recipe.architecture.empty() ? own_type_note(dense, *mixture.family) : "";
  if (!note.empty()) mixture.notes.push_back(note);
  const bool gated = mixture.family->gated_shared_expert;
  if (recipe.shared) {
    moe.shared_hidden = ffn.hidden, moe.shared_gate = gated;
    const ExpertRecipe& shared = *recipe.shared;
    if (moe.bias) fail(ErrorKind::unsupported, shared.where, "a shared expert has no biases, and these FFNs have");
    if (gated && recipe.reads_prompts() && shared.positive_prompts.empty())
      fail(ErrorKind::bad_input, shared.where,
           "positive_prompts is missing: the shared expert of {} has a gate, which is made of them",
           mixture.family->model_type);
    if (!gated && (!shared.positive_prompts.empty() || !shared.negative_prompts.empty()))
      fail(ErrorKind::bad_input, shared.where, "prompts have no effect: the shared expert of {} has no gate",
           mixture.family->model_type);
  } else if (gated) {
    moe.shared_hidden = std::min<int64_t>(256, ffn.hidden), moe.shared_gate = true;
    mixture.notes.push_back(
        fmt::format("{} must have a shared expert: it gets a small one without effect", mixture.family->model_type));
  }
  return mixture;
}

PublishedMixture published_of(const Mixture& mixture, const ModelSpec& base, const std::filesystem::path& config) {
  return make_published(base, config, mixture.moe, std::vector<bool>(base.blocks.size(), true), *mixture.family);
}

class Merging {
 public:
  Merging(ops::Context& context, const MoeRecipe& recipe, MergeSources& sources, const MergeOptions& options)
      : context_(context), recipe_(recipe), options_(options), base_(sources.open(recipe.base_model, "base_model")) {
    dtype_ = options.dtype ? options.dtype : recipe.dtype;
    result_.notes = recipe.notes;
    base_weights_ = weights_of(base_);
    for (const ExpertRecipe& expert : recipe.experts) experts_.push_back(take(sources, expert));
    if (recipe.shared) shared_ = take(sources, *recipe.shared);
    const Mixture mixture = mixture_of(recipe, named(base_));
    moe_ = mixture.moe, family_ = mixture.family, result_.model_type = family_->model_type;
    result_.notes.insert(result_.notes.end(), mixture.notes.begin(), mixture.notes.end());
    published_ = published_of(mixture, base_.decoder->spec(), base_.path.config);
    published_.config["torch_dtype"] = dtype_word(dtype_.value_or(base_weights_->dtype()));
  }

  Merged run(const std::filesystem::path& out) {
    NewModel made(context_, out, writing(options_, true), result_);
    router_rows_ =
        make_router_rows(context_, base_, recipe_, shared_ && moe_.shared_gate, options_.seed, options_.on_progress);
    result_.notes.insert(result_.notes.end(), router_rows_.notes.begin(), router_rows_.notes.end());
    std::vector<checkpoint::TensorToWrite> tensors = tensors_of(
        published_.spec, family_->hugging_face_names(),
        [this](const layers::ListedTensor& tensor) { return supply(tensor); }, context_.pool);
    made.write(published_.spec, published_.config, base_, std::move(tensors));
    made.check(base_, [this](const Model& written) { count_choices(written); });
    made.finish(receipt());
    return std::move(result_);
  }

 private:
  static Named named(const Model& model) { return {model.decoder->spec(), model.path.path.string()}; }

  struct Source {
    const Model* model;
    const ExpertRecipe* recipe;
    std::shared_ptr<const Weights> weights;
  };

  std::shared_ptr<const Weights> weights_of(const Model& model) {
    std::shared_ptr<const Weights>& known = weights_[&model];
    if (!known) known = std::make_shared<const Weights>(*model.decoder, model.path.path.string());
    return known;
  }

  Source take(MergeSources& sources, const ExpertRecipe& expert) {
    const Model& model = sources.open(expert.source_model, expert.where);
    require_same_shape(named(base_), named(model), expert.where);
    families::require_same_tokenizer(base_, model);
    const bool known = weights_.contains(&model);
    if (!known) try {
        DifferenceWords words{"it differs in the", "in the base model", "in it", ""};
        require_same(base_.decoder->spec(), model.decoder->spec(), model.path.path.string(), words);
      } catch (const base::Error& error) {
        result_.notes.push_back(fmt::format("{}: {}; only its FFNs are used", error.where(), error.message()));
      }
    return {&model, &expert, weights_of(model)};
  }

  Rows supply(const layers::ListedTensor& tensor) const {
    const MoeTensor moe = moe_tensor(tensor.path);
    const auto layer = static_cast<size_t>(moe.layer);
    const int64_t width = base_.decoder->spec().width;
    switch (moe.kind) {
      case MoeTensor::Kind::router:
        return {1, std::ssize(experts_), width, written(),
                [&rows = router_rows_.rows[layer]](int64_t, int64_t e, float* out) {
                  std::copy(rows[static_cast<size_t>(e)].begin(), rows[static_cast<size_t>(e)].end(), out);
                }};
      case MoeTensor::Kind::shared_gate:
        if (!shared_) return zeros(1, width);
        return {1, 1, width, written(), [&row = router_rows_.shared[layer]](int64_t, int64_t, float* out) {
                  std::copy(row.begin(), row.end(), out);
                }};
      case MoeTensor::Kind::shared:
        return shared_ ? of_source(*shared_, moe.layer, moe.part, std::ssize(experts_)) : idle(moe.part, tensor.path);
      case MoeTensor::Kind::expert: return moe.bias ? biases(moe.layer, moe.part) : stack(moe.layer, moe.part);
      case MoeTensor::Kind::outside: break;
    }
    return base_weights_->rows(tensor.path, tensor.place == layers::Place::norms ? std::nullopt : dtype_);
  }

  // A matrix of a shared expert that no source gives: its down projection is zero, so that it adds nothing.
  Rows idle(Part part, const std::string& path) const {
    const int64_t width = base_.decoder->spec().width, f = moe_.shared_hidden;
    if (part == Part::down) return zeros(width, f);
    return normal_rows(f, width, written(), 1 / std::sqrt(static_cast<float>(width)), options_.seed, path);
  }

  // One source's matrix, with its noise and scale, in the base model's format.
  Rows of_source(const Source& source, int64_t layer, Part part, int64_t expert) const {
    ExpertCut cut;
    cut.noise_size = source.recipe->noise_scale, cut.seed = options_.seed, cut.first_expert = expert;
    if (part == Part::down) cut.scale[2] = source.recipe->residual_scale;
    const tensor::DType like = base_weights_->matrix(fmt::format("blocks.{}.ffn.down", layer)).dtype;
    return expert_rows(*source.weights, layer, part, cut, dtype_.value_or(like));
  }

  Rows stack(int64_t layer, Part part) const {
    std::vector<Rows> each;
    for (size_t e = 0; e < experts_.size(); ++e)
      each.push_back(of_source(experts_[e], layer, part, static_cast<int64_t>(e)));
    Rows all = each.front();
    all.experts = std::ssize(each);
    if (std::all_of(each.begin(), each.end(), [](const Rows& rows) { return !rows.verbatim.empty(); })) {
      all.verbatim.clear();
      for (const Rows& rows : each) all.verbatim.push_back(rows.verbatim.front());
      return all;
    }
    all.verbatim.clear();
    all.fill = [each = std::move(each)](int64_t expert, int64_t row, float* out) {
      const Rows& rows = each[static_cast<size_t>(expert)];
      if (rows.verbatim.empty()) return rows.fill(0, row, out);
      const tensor::Weight& weight = rows.verbatim.front();
      quant::decode(weight.dtype, weight.row(row), out, weight.cols);
    };
    return all;
  }

  Rows biases(int64_t layer, Part part) const {
    std::vector<Rows> each;
    for (const Source& source : experts_) {
      ExpertCut cut;
      if (part == Part::down) cut.bias_scale[2] = source.recipe->residual_scale;
      each.push_back(expert_biases(*source.weights, layer, part, cut));
    }
    Rows all = each.front();
    all.rows = std::ssize(each);
    all.dtype = tensor::DType::f32;
    all.fill = [each = std::move(each)](int64_t, int64_t expert, float* out) {
      each[static_cast<size_t>(expert)].fill(0, 0, out);
    };
    return all;
  }

  tensor::DType written() const { return dtype_.value_or(base_weights_->dtype()); }
  Rows zeros(int64_t rows, int64_t cols) const { return constant_rows(rows, cols, written()); }

  void count_choices(const Model& written) {
    if (!recipe_.reads_prompts()) return;
    for (const Source& source : experts_)
      result_.routing.push_back(prompt_routing(context_, written, source.recipe->positive_prompts, std::ssize(experts_),
                                               source.recipe->where));
  }

  base::Json receipt() const {
    base::Json experts = base::Json::array();
    for (const Source& source : experts_) experts.push_back(source.model->name);
    base::Json json = {{"made_by", "coterie merge"},
                       {"base_model", base_.name},
                       {"experts", experts},
                       {"model_type", result_.model_type},
                       {"experts_per_token", recipe_.experts_per_token},
                       {"seed", options_.seed},
                       {"parameters", result_.parameters},
                       {"active_parameters", result_.active_parameters},
                       {"notes", result_.notes}};
    if (shared_) json["shared_expert"] = shared_->model->name;
    if (result_.comparison) json["beside_the_base_model"] = to_json(*result_.comparison);
    if (!result_.routing.empty()) json["choices_on_positive_prompts"] = result_.routing;
    return json;
  }

  ops::Context& context_;
  const MoeRecipe& recipe_;
  const MergeOptions& options_;
  const Model& base_;
  std::optional<tensor::DType> dtype_;
  std::map<const Model*, std::shared_ptr<const Weights>> weights_;
  std::shared_ptr<const Weights> base_weights_;
  std::vector<Source> experts_;
  std::optional<Source> shared_;
  const families::Family* family_ = nullptr;
  layers::MoeSpec moe_;
  PublishedMixture published_;
  RouterRows router_rows_;
  Merged result_;
};

}  // namespace

NewModelOptions writing(const MergeOptions& options, bool strict) {
  return {.shard_bytes = options.shard_bytes,
          .check = options.check,
          .strict = strict,
          .text = options.text,
          .tokens = options.tokens,
          .on_progress = options.on_progress};
}

MergePlan plan_experts(const MoeRecipe& recipe, const MergeSources& sources) {
  const auto read = [&](const std::string& name, const std::string& where) {
    return checkpoint::resolve_model(sources.find(name, where));
  };
  const checkpoint::ModelPath base = read(recipe.base_model, "base_model");
  const ModelSpec spec = families::read_spec(base);
  const Named named{spec, base.path.string()};
  std::vector<const ExpertRecipe*> all;
  for (const ExpertRecipe& expert : recipe.experts) all.push_back(&expert);
  if (recipe.shared) all.push_back(&*recipe.shared);
  for (const ExpertRecipe* expert : all) {
    const checkpoint::ModelPath path = read(expert->source_model, expert->where);
    require_same_shape(named, {families::read_spec(path), path.path.string()}, expert->where);
  }
  const Mixture mixture = mixture_of(recipe, named);
  const models::Account account = models::account(published_of(mixture, spec, base.config).spec);
  MergePlan plan{std::string(mixture.family->model_type),
                 account.total(),
                 account.total_active(),
                 models::account(spec).total(),
                 {}};
  plan.notes = recipe.notes;
  plan.notes.insert(plan.notes.end(), mixture.notes.begin(), mixture.notes.end());
  return plan;
}

Merged merge_experts(ops::Context& context, const MoeRecipe& recipe, MergeSources& sources,
                     const std::filesystem::path& out, const MergeOptions& options) {
  return Merging(context, recipe, sources, options).run(out);
}

}  // namespace coterie::surgery
