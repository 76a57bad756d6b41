#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "checkpoint/tensor_source.h"
#include "families/family.h"
#include "families/open.h"
#include "families/weights/gradients.h"
#include "kernels/table.h"
#include "models/loss.h"
#include "models/parameters.h"
#include "parity/fixture.h"
#include "threads/pool.h"

// The gradients of the reference's loss, tensor by tensor: max |difference| <= 1e-4 x max |gradient|, times slack_of()
// of the model.
namespace coterie {
namespace {

using Gradients = std::map<std::string, std::vector<float>>;

std::vector<parity::Fixture> fixtures_with_gradients() {
  std::vector<parity::Fixture> result;
  for (const parity::Fixture& fixture : parity::fixtures()) {
    const auto source = checkpoint::open_safetensors(fixture.folder / "expected.safetensors");
    if (std::any_of(source->tensors().begin(), source->tensors().end(),
                    [](const checkpoint::TensorInfo& info) { return info.name.starts_with("grad."); }))
      result.push_back(fixture);
  }
  return result;
}

struct Case {
  parity::Fixture fixture;
  std::string isa;
};

std::vector<Case> cases() {
  std::vector<Case> result;
  for (const parity::Fixture& fixture : fixtures_with_gradients())
    for (const kernels::Candidate& candidate : kernels::candidates())
      result.push_back({fixture, std::string(candidate.table->isa)});
  return result;
}

class GradientParity : public testing::TestWithParam<Case> {
 protected:
  Gradients gradients(const parity::Expected& expected, bool recompute, models::BatchLoss& loss) {
    families::Model model = families::open_model(GetParam().fixture.model);
    slack = parity::slack_of(model.decoder->spec());
    models::Parameters parameters(*model.decoder);
    threads::Pool pool(2);
    tensor::Arena arena;
    ops::Context context{pool, kernels::by_name(GetParam().isa), arena, ops::Precision::f32};
    std::vector<std::span<const int32_t>> sequences;
    for (int64_t b = 0; b < expected.batch; ++b)
      sequences.push_back(std::span(expected.ids)
                              .subspan(static_cast<size_t>(b * expected.tokens), static_cast<size_t>(expected.tokens)));
    ops::Tape tape(arena, parameters.gradients());
    loss = models::add_gradients(context, tape, *model.decoder, sequences, recompute);
    Gradients result;
    for (const checkpoint::TensorToWrite& tensor : families::gradients_to_write(
             parameters, families::names_for(model.decoder->spec(), *model.source), *model.source, "grad.")) {
      std::vector<float>& values = result[tensor.name];
      tensor.produce([&](std::span<const std::byte> bytes) {
        const auto* floats = reinterpret_cast<const float*>(bytes.data());
        values.insert(values.end(), floats, floats + bytes.size() / sizeof(float));
      });
    }
    return result;
  }

  double slack = 1;
};

TEST_P(GradientParity, EveryTensorEqualsTheReference) {
  for (const kernels::Candidate& candidate : kernels::candidates())
    if (candidate.table->isa == GetParam().isa && !candidate.usable) GTEST_SKIP() << candidate.reason;
  const parity::Expected expected = parity::read_expected(GetParam().fixture);
  const bool exact = std::filesystem::exists(GetParam().fixture.folder / "exact.safetensors");
  const auto source =
      checkpoint::open_safetensors(GetParam().fixture.folder / (exact ? "exact.safetensors" : "expected.safetensors"));
  const auto weights = checkpoint::open_safetensors(GetParam().fixture.folder / "model.safetensors");
  models::BatchLoss loss;
  Gradients found = gradients(expected, false, loss);
  EXPECT_NEAR(loss.cross_entropy + loss.balance, expected.loss, 1e-5 * expected.loss);
  for (const checkpoint::TensorInfo& info : source->tensors()) {
    if (!info.name.starts_with("grad.")) continue;
    SCOPED_TRACE(info.name);
    std::vector<float> reference(info.bytes.size() / sizeof(float));
    std::memcpy(reference.data(), info.bytes.data(), info.bytes.size());
    // Under the name of a buffer (a router's bias of selection) the fixtures hold the buffer, which has no gradient.
    const checkpoint::TensorInfo* own = weights->find(info.name.substr(5));
    if (!found.contains(info.name) && own && std::equal(own->bytes.begin(), own->bytes.end(), info.bytes.begin()))
      continue;
    ASSERT_EQ(found[info.name].size(), reference.size());
    double largest = 0, difference = 0;
    for (size_t i = 0; i < reference.size(); ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(reference[i])));
      difference = std::max(difference, std::abs(static_cast<double>(found[info.name][i] - reference[i])));
    }
    EXPECT_LE(difference, slack * 1e-4 * largest);
  }
  EXPECT_EQ(gradients(expected, true, loss), found) << "with activations computed again";
}

INSTANTIATE_TEST_SUITE_P(Fixtures, GradientParity, testing::ValuesIn(cases()), [](const auto& of) {
  std::string name = of.param.fixture.name + "_" + of.param.isa;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == '-' || c == '/'; }, '_');
  return name;
});

TEST(GradientParityFixtures, AreThere) { EXPECT_GE(fixtures_with_gradients().size(), 4u); }

}  // namespace
}  // namespace coterie
