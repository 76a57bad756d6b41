#include "surgery/upcycle/upcycle.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/plural.h"
#include "families/config/router_keys.h"
#include "families/family.h"
#include "models/account.h"
#include "surgery/moe_tensor.h"
#include "surgery/new_model.h"
#include "surgery/published_mixture.h"
#include "surgery/write/folder.h"

namespace coterie::surgery {

namespace {

using base::ErrorKind;
using base::fail;
using layers::RouterSpec;
using Shared = UpcycleOptions::Shared;
using Scaling = UpcycleOptions::Scaling;

/// What the weights of a token's experts add up to where all logits are equal.
double sum_of_weights(const RouterSpec& router) {
  const auto k = static_cast<double>(router.experts_per_token), e = static_cast<double>(router.experts);
  if (router.combine == RouterSpec::Combine::sum) return k;
  const bool softmax = router.score == RouterSpec::Score::softmax;
  const bool sums_to_one = router.renormalise || (softmax && router.order == RouterSpec::Order::select_then_score);
  if (sums_to_one || router.selection == RouterSpec::Selection::soft) return static_cast<double>(router.scale);
  const double each = softmax ? 1 / e : router.score == RouterSpec::Score::sigmoid ? 0.5 : std::sqrt(std::log(2.0));
  return k * each * static_cast<double>(router.scale);
}

void check(const UpcycleOptions& o, int64_t hidden) {
  const auto need = [](bool holds, std::string_view option, const std::string& what) {
    if (!holds) throw base::Error(ErrorKind::bad_input, std::string(option), what);
  };
  need(o.experts >= 1, "upcycle.experts", fmt::format("is {}, expected at least 1", o.experts));
  need(o.experts_per_token >= 1 && o.experts_per_token <= o.experts, "upcycle.experts_per_token",
       fmt::format("is {}, expected 1 to {}, the number of experts", o.experts_per_token, o.experts));
  need(o.granularity >= 1, "upcycle.granularity", fmt::format("is {}, expected at least 1", o.granularity));
  need(o.experts % o.granularity == 0, "upcycle.granularity",
       fmt::format("is {}, which does not divide {} experts into whole copies", o.granularity, o.experts));
  need(hidden % o.granularity == 0, "upcycle.granularity",
       fmt::format("is {}, which does not divide the FFN's {} hidden units", o.granularity, hidden));
  need(o.noise >= 0 && std::isfinite(o.noise), "upcycle.noise", fmt::format("is {}, expected at least 0", o.noise));
  need(o.reinit >= 0 && o.reinit <= 1, "upcycle.reinit", fmt::format("is {}, expected 0 to 1", o.reinit));
  need(o.router_std >= 0 && std::isfinite(o.router_std), "upcycle.router_std",
       fmt::format("is {}, expected at least 0", o.router_std));
  need(o.shared_hidden >= 0, "upcycle.shared", fmt::format("is {} wide", o.shared_hidden));
  need(o.tokens >= 1, "upcycle.tokens", fmt::format("is {}, expected at least 1", o.tokens));
}

class Upcycling {
 public:
  Upcycling(ops::Context& context, const families::Model& dense, const UpcycleOptions& options)
      : context_(context), dense_(dense), options_(options), weights_(*dense.decoder, dense.path.path.string()) {
    choose_layers();
    check(options, ffn_.hidden);
    describe();
    published_ = make_published(dense.decoder->spec(), dense.path.config, moe_, sparse_, *family_);
    published_.config["torch_dtype"] = dtype_word(options.dtype.value_or(weights_.dtype()));
  }

  Upcycled run(const std::filesystem::path& out) {
    const families::NameTable names = family_->hugging_face_names();
    require_memory_for_list(published_.spec, names, "fewer `upcycle.experts` make a shorter list");
    NewModel made(context_, out,
                  {.shard_bytes = options_.shard_bytes,
                   .check = options_.check,
                   .strict = true,
                   .text = options_.text,
                   .tokens = options_.tokens,
                   .on_progress = options_.on_progress},
                  result_);
    std::vector<checkpoint::TensorToWrite> tensors = tensors_of(
        published_.spec, names, [this](const layers::ListedTensor& tensor) { return supply(tensor); }, context_.pool);
    made.write(published_.spec, published_.config, dense_, std::move(tensors));
    result_.parent_parameters = models::account(dense_.decoder->spec()).total();
    made.check(dense_);
    made.finish(receipt());
    return std::move(result_);
  }

 private:
  void choose_layers() {
    const models::ModelSpec& spec = dense_.decoder->spec();
    for (const models::BlockSpec& block : spec.blocks)
      if (std::holds_alternative<layers::MoeSpec>(block.ffn))
        fail(ErrorKind::unsupported, dense_.path.path.string(), "already has experts: a dense model is upcycled");
    if (!options_.layers.empty() && options_.layers.size() != spec.blocks.size())
      fail(ErrorKind::bad_input, "upcycle.layers", "{} named, the model has {}",
           base::plural(std::ssize(options_.layers), "layer"), spec.blocks.size());
    bool found = false;
    for (size_t i = 0; i < spec.blocks.size(); ++i) {
      const auto* dense = std::get_if<layers::DenseFfnSpec>(&spec.blocks[i].ffn);
      sparse_.push_back(options_.layers.empty() ? dense != nullptr : options_.layers[i]);
      if (!sparse_[i] || !dense) continue;
      if (found && (ffn_.hidden != dense->hidden || ffn_.activation != dense->activation || ffn_.gated != dense->gated))
        fail(ErrorKind::unsupported, dense_.path.path.string(), "its layers have FFNs of several kinds");
      ffn_ = *dense, found = true;
    }
    if (!found) fail(ErrorKind::bad_input, "upcycle.layers", "no layer with a dense FFN is left to make experts of");
  }

  void describe() {
    base::Json keys = {{"experts", options_.experts}, {"experts_per_token", options_.experts_per_token}};
    for (const auto& [key, value] : options_.router.items()) {
      if (keys.contains(key)) fail(ErrorKind::bad_input, "upcycle.router", "{} has an option of its own", key);
      keys[key] = value;
    }
    if (!keys.contains("renormalise")) keys["renormalise"] = default_renormalise(keys);
    moe_.router = families::read_router(keys, "upcycle.router");
    moe_.hidden = ffn_.hidden / options_.granularity;
    moe_.activation = ffn_.activation, moe_.gated = ffn_.gated, moe_.bias = ffn_.bias;
    const families::Family& dense = families::family_of(dense_.decoder->spec());
    const bool asked = options_.shared == Shared::copy || options_.shared == Shared::idle;
    const bool published = options_.model_type.empty();
    family_ = published ? &families::published_mixture(dense, asked) : &mixture_family(options_.model_type);
    result_.model_type = family_->model_type;
    if (const std::string note = published ? own_type_note(dense, *family_) : ""; !note.empty())
      result_.notes.push_back(note);
    share();
    cut_.experts = options_.experts, cut_.granularity = options_.granularity;
    cut_.noise = options_.noise, cut_.reinit = options_.reinit, cut_.seed = options_.seed;
    scale();
    if (options_.experts_per_token % options_.granularity != 0)
      result_.notes.push_back(fmt::format(
          "{} experts for a token are not a multiple of the granularity {}: they make no whole copies of the "
          "parent's FFN, so that step 0 is not the parent",
          options_.experts_per_token, options_.granularity));
  }

  // Rules whose weights cannot be renormalised by their own definition keep them as they are.
  static bool default_renormalise(const base::Json& keys) {
    const std::string selection = keys.value("selection", "top_k");
    return (selection == "top_k" || selection == "sample") && keys.value("combine", "weighted") == "weighted";
  }

  void share() {
    Shared shared = options_.shared;
    if (shared == Shared::automatic) {
      shared = family_->gated_shared_expert ? Shared::idle : Shared::none;
      if (shared == Shared::idle)
        result_.notes.push_back(fmt::format(
            "{} must have a shared expert: it gets a small one that starts without effect", family_->model_type));
    }
    shared_ = shared;
    if (shared == Shared::none) return;
    moe_.shared_gate = family_->gated_shared_expert;
    moe_.shared_hidden = ffn_.hidden;
    if (shared == Shared::idle)
      moe_.shared_hidden = options_.shared_hidden > 0 ? options_.shared_hidden : std::min<int64_t>(256, ffn_.hidden);
    if (shared == Shared::copy && ffn_.bias)
      fail(ErrorKind::unsupported, "upcycle.shared", "a shared expert has no biases, and the parent's FFN has");
  }

  void scale() {
    const double whole = static_cast<double>(options_.granularity) / sum_of_weights(moe_.router);
    const double share = shared_ == Shared::copy ? 0.5 : 1;
    result_.scale = whole * share;
    if (options_.scaling == Scaling::none) {
      result_.scale = share;
      cut_.scale[2] = cut_.bias_scale[2] = share;
      return;
    }
    const double a = result_.scale;
    if (options_.scaling == Scaling::exact) {
      if (ffn_.gated) cut_.scale[1] = cut_.scale[2] = std::sqrt(a);
      if (!ffn_.gated) cut_.scale[2] = a;
    } else {
      const bool cubed = ffn_.gated || ffn_.activation == ops::Activation::relu2;
      cut_.scale[0] = cut_.scale[1] = cut_.scale[2] = cubed ? std::cbrt(a) : std::sqrt(a);
    }
    cut_.bias_scale[0] = cut_.scale[0], cut_.bias_scale[1] = cut_.scale[1];
    cut_.bias_scale[2] = a / static_cast<double>(options_.granularity);
  }

  Rows supply(const layers::ListedTensor& tensor) const {
    const MoeTensor moe = moe_tensor(tensor.path);
    switch (moe.kind) {
      case MoeTensor::Kind::router: return router(moe.name, tensor.path);
      case MoeTensor::Kind::shared_gate: return zeros(1, dense_.decoder->spec().width);
      case MoeTensor::Kind::shared: return shared(moe.layer, moe.part, tensor.path);
      case MoeTensor::Kind::expert:
        return moe.bias ? expert_biases(weights_, moe.layer, moe.part, cut_)
                        : expert_rows(weights_, moe.layer, moe.part, cut_, options_.dtype);
      case MoeTensor::Kind::outside: break;
    }
    return weights_.rows(tensor.path, tensor.place == layers::Place::norms ? std::nullopt : options_.dtype);
  }

  Rows shared(int64_t layer, Part part, const std::string& path) const {
    if (shared_ == Shared::copy) {
      ExpertCut cut;
      if (!moe_.shared_gate) cut.scale[2] = 0.5;  // sigmoid(0) otherwise
      return expert_rows(weights_, layer, part, cut, options_.dtype);
    }
    const int64_t width = dense_.decoder->spec().width, f = moe_.shared_hidden;
    if (part == Part::down) return zeros(width, f);
    return normal(f, width, 1 / std::sqrt(static_cast<double>(width)), path);
  }

  Rows router(const std::string& part, const std::string& path) const {
    const int64_t width = dense_.decoder->spec().width, e = options_.experts, h = moe_.router.hidden;
    const int64_t slots = moe_.router.selection == RouterSpec::Selection::soft ? e * moe_.router.slots : e;
    if (part == "router.hidden") return normal(h, width, 1 / std::sqrt(static_cast<double>(width)), path);
    if (part == "router.hidden.bias") return zeros(1, h);
    if (part == "router.noise") return zeros(e, width);
    if (part == "router.scale") return constant(1, 1, 1);
    if (part != "router") return zeros(1, e);
    // The experts of one copy have one row, and with it one logit, so that they are chosen together.
    const int64_t group = options_.granularity * (slots / e);
    Rows rows = normal(slots, h > 0 ? h : width, options_.router_std, path);
    rows.fill = [fill = rows.fill, group](int64_t, int64_t row, float* values) { fill(0, row / group, values); };
    return rows;
  }

  tensor::DType dtype() const { return options_.dtype.value_or(weights_.dtype()); }
  Rows constant(int64_t rows, int64_t cols, float value) const { return constant_rows(rows, cols, dtype(), value); }
  Rows zeros(int64_t rows, int64_t cols) const { return constant(rows, cols, 0); }
  Rows normal(int64_t rows, int64_t cols, double deviation, const std::string& path) const {
    return normal_rows(rows, cols, dtype(), static_cast<float>(deviation), options_.seed, path);
  }

  base::Json receipt() const {
    constexpr const char* kScalings[] = {"exact", "megatron", "none"};
    base::Json json = {{"made_by", "coterie upcycle"},
                       {"parent", dense_.name},
                       {"model_type", result_.model_type},
                       {"experts", options_.experts},
                       {"experts_per_token", options_.experts_per_token},
                       {"granularity", options_.granularity},
                       {"scaling", kScalings[static_cast<int>(options_.scaling)]},
                       {"scale", result_.scale},
                       {"noise", options_.noise},
                       {"reinit", options_.reinit},
                       {"router_std", options_.router_std},
                       {"router", families::write_router(moe_.router)},
                       {"shared_hidden", moe_.shared_hidden},
                       {"seed", options_.seed},
                       {"parameters", result_.parameters},
                       {"active_parameters", result_.active_parameters},
                       {"parent_parameters", result_.parent_parameters},
                       {"notes", result_.notes}};
    if (result_.comparison) json["step_0"] = to_json(*result_.comparison);
    return json;
  }

  ops::Context& context_;
  const families::Model& dense_;
  const UpcycleOptions& options_;
  const Weights weights_;
  layers::DenseFfnSpec ffn_;
  std::vector<bool> sparse_;
  const families::Family* family_ = nullptr;
  layers::MoeSpec moe_;
  Shared shared_ = Shared::none;
  ExpertCut cut_;
  PublishedMixture published_;
  Upcycled result_;
};

}  // namespace

Upcycled upcycle(ops::Context& context, const families::Model& dense, const std::filesystem::path& out,
                 const UpcycleOptions& options) {
  if (dense.path.kind != checkpoint::ModelPath::Kind::safetensors_folder)
    throw base::Error(ErrorKind::unsupported, dense.path.path.string(),
                      "is not a folder with config.json and safetensors, which this starts from",
                      "convert a GGUF file to such a folder first");
  refuse_quantised(*dense.source);
  return Upcycling(context, dense, options).run(out);
}

}  // namespace coterie::surgery
