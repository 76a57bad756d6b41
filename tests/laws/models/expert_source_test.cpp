#include "layers/moe/expert_source.h"

#include <algorithm>
#include <map>
#include <memory>

#include "families/family.h"
#include "laws/models/bench.h"
#include "models/owned_experts.h"
#include "ops/moe/experts.h"

// Experts that are not bound to the layers: they come from another place, in groups of any order, or are computed
// elsewhere and only their outputs come. Neither changes a bit, and nothing else is read of them.
namespace coterie::laws {
namespace {

using layers::TensorReader;

/// The routed experts of one layer, in memory of their own.
struct Held {
  int64_t experts = 0;
  std::vector<std::vector<std::byte>> bytes;
  std::vector<ops::ExpertInput> inputs;
  std::vector<ops::ExpertOutput> outputs;
  std::vector<std::vector<float>> biases;
};

/// Copies all routed experts of a decoder.
class Copied final : public TensorReader {
 public:
  explicit Copied(const models::Decoder& decoder) { decoder.read(*this); }

  void stack(const Tensor& t, int64_t experts, int64_t, int64_t, const std::vector<tensor::Weight>& slots) override {
    Held* held = of(t.path, experts);
    if (!held) return;
    for (size_t e = 0; e < slots.size(); ++e) {
      tensor::Weight copy = slots[e];
      const int64_t row = tensor::row_bytes(copy.dtype, copy.cols);
      std::vector<std::byte>& bytes = held->bytes.emplace_back(static_cast<size_t>(copy.rows * row));
      for (int64_t r = 0; r < copy.rows; ++r) std::copy_n(copy.row(r), row, bytes.data() + r * row);
      copy.data = bytes.data(), copy.row_stride = row;
      weight(*held, t.path, e) = copy;
    }
  }
  void vectors(const Tensor& t, int64_t experts, int64_t n, const layers::Vector& slot) override {
    Held* held = of(t.path, experts);
    if (!held) return;
    const float* data = held->biases.emplace_back(slot.values.data(), slot.values.data() + experts * n).data();
    for (int64_t e = 0; e < experts; ++e) {
      ops::ExpertInput& in = held->inputs[static_cast<size_t>(e)];
      (t.path.find(".gate.") != t.path.npos ? in.gate_bias
       : t.path.find(".up.") != t.path.npos ? in.up_bias
                                            : held->outputs[static_cast<size_t>(e)].bias) = data + e * n;
    }
  }

  std::map<int64_t, Held> layers;

 private:
  Held* of(const std::string& path, int64_t experts) {
    if (path.find(".moe.experts.") == path.npos) return nullptr;
    Held& held = layers[std::stoll(path.substr(path.find('.') + 1))];
    held.experts = experts;
    held.inputs.resize(static_cast<size_t>(experts)), held.outputs.resize(static_cast<size_t>(experts));
    return &held;
  }
  static tensor::Weight& weight(Held& held, const std::string& path, size_t e) {
    return path.ends_with(".gate") ? held.inputs[e].gate
           : path.ends_with(".up") ? held.inputs[e].up
                                   : held.outputs[e].down;
  }
};

std::vector<int32_t> used(const ops::RoutingPlan& plan) {
  std::vector<int32_t> ids;
  for (int32_t e = 0; e < plan.experts(); ++e)
    if (!plan.tokens_of(e).empty()) ids.push_back(e);
  return ids;
}

/// Hands experts out by twos, the last first, and shows nothing of those it has not handed out.
class Elsewhere final : public layers::ExpertSource {
 public:
  explicit Elsewhere(const Copied& copied) : copied_(copied) {}
  std::unique_ptr<layers::ExpertLease> lease(const layers::ExpertCall& call) override {
    ++leases;
    return std::make_unique<Lease>(copied_.layers.at(call.layer), used(call.plan));
  }
  int64_t leases = 0;

 private:
  class Lease final : public layers::ExpertLease {
   public:
    Lease(const Held& held, std::vector<int32_t> left)
        : held_(held), left_(std::move(left)), inputs_(held.inputs.size()), outputs_(held.outputs.size()) {}
    std::span<const int32_t> next() override {
      inputs_.assign(inputs_.size(), {}), outputs_.assign(outputs_.size(), {});
      now_.clear();
      for (int i = 0; i < 2 && !left_.empty(); ++i) {
        const auto e = static_cast<size_t>(left_.back());
        inputs_[e] = held_.inputs[e], outputs_[e] = held_.outputs[e];
        now_.push_back(left_.back()), left_.pop_back();
      }
      return now_;
    }
    std::span<const ops::ExpertInput> inputs() const override { return inputs_; }
    std::span<const ops::ExpertOutput> outputs() const override { return outputs_; }

   private:
    const Held& held_;
    std::vector<int32_t> left_, now_;
    std::vector<ops::ExpertInput> inputs_;
    std::vector<ops::ExpertOutput> outputs_;
  };
  const Copied& copied_;
};

/// Hands out the even experts, which the model owns; the odd ones are computed on threads of its own.
class HalfOfThem final : public layers::ExpertSource {
 public:
  HalfOfThem(const Copied& copied, const models::Decoder& decoder, const Case& c)
      : copied_(copied), decoder_(decoder), context_{pool_, kernels::by_name(c.isa), arena_, c.precision} {}
  std::unique_ptr<layers::ExpertLease> lease(const layers::ExpertCall& call) override {
    const auto& moe = std::get<layers::MoeSpec>(decoder_.spec().blocks[static_cast<size_t>(call.layer)].ffn);
    return std::make_unique<Lease>(copied_.layers.at(call.layer), call, moe, context_);
  }

 private:
  class Lease final : public layers::ExpertLease {
   public:
    Lease(const Held& held, const layers::ExpertCall& call, const layers::MoeSpec& moe, ops::Context& context)
        : held_(held), call_(call), moe_(moe), context_(context) {
      for (const int32_t e : used(call.plan)) (e % 2 == 0 ? here_ : elsewhere_).push_back(e);
    }
    std::span<const int32_t> next() override { return given_++ == 0 ? here_ : std::span<const int32_t>(); }
    std::span<const ops::ExpertInput> inputs() const override { return call_.inputs; }
    std::span<const ops::ExpertOutput> outputs() const override { return call_.outputs; }
    std::span<const float* const> add_outputs(tensor::Matrix out) override {
      for (const int32_t e : elsewhere_) EXPECT_FALSE(call_.inputs[static_cast<size_t>(e)].up) << "not owned";
      ops::expert_outputs(context_, call_.x, call_.plan, elsewhere_, held_.inputs, held_.outputs,
                          moe_.clamp > 0 ? ops::GateRule::clamped_by(moe_.activation, moe_.clamp)
                                         : ops::GateRule{moe_.activation, moe_.swiglu_limit, moe_.swiglu_alpha},
                          moe_.hidden, out);
      return {};
    }

   private:
    const Held& held_;
    const layers::ExpertCall call_;
    const layers::MoeSpec& moe_;
    ops::Context& context_;
    std::vector<int32_t> here_, elsewhere_;
    int given_ = 0;
  };
  const Copied& copied_;
  const models::Decoder& decoder_;
  threads::Pool pool_{1};
  tensor::Arena arena_;
  ops::Context context_;
};

class FromElsewhere : public Law {
 protected:
  tiny::Model model = model_of(GetParam());
  std::vector<int32_t> ids = some_ids(23, model.decoder->spec().vocabulary, 1);

  std::vector<float> whole(layers::ExpertSource* source) {
    Runner run(GetParam(), *model.decoder);
    run.experts = source;
    return run.whole(ids);
  }
};

TEST_P(FromElsewhere, ExpertsInGroupsOfAnyOrderGiveTheSameBits) {
  const std::vector<float> before = whole(nullptr);
  const Copied copied(*model.decoder);
  ASSERT_FALSE(copied.layers.empty());
  models::own_experts(*model.decoder, [](int64_t, int64_t) { return false; });
  Elsewhere source(copied);
  expect_same_bits(whole(&source), before, "from elsewhere");
  EXPECT_EQ(source.leases, std::ssize(copied.layers));
}

TEST_P(FromElsewhere, HalfOfThemComputedElsewhereGiveTheSameBits) {
  const std::vector<float> before = whole(nullptr);
  const Copied copied(*model.decoder);
  models::own_experts(*model.decoder, [](int64_t, int64_t expert) { return expert % 2 == 0; });
  HalfOfThem source(copied, *model.decoder, GetParam());
  expect_same_bits(whole(&source), before, "half elsewhere");
}

INSTANTIATE_TEST_SUITE_P(Families, FromElsewhere, testing::ValuesIn(with_experts(cases())), name_of);
INSTANTIATE_TEST_SUITE_P(Slow, FromElsewhere, testing::ValuesIn(with_experts(other_cases())), name_of);

}  // namespace
}  // namespace coterie::laws
