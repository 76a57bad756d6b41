#include <algorithm>
#include <fstream>

#include "checkpoint/tensor_sink.h"
#include "families/family.h"
#include "families/weights/export.h"
#include "laws/models/bench.h"
#include "models/blank_decoder.h"
#include "models/initialise.h"
#include "models/parameters.h"
#include "support/temp_folder.h"

// A model that begins as nothing but a spec is one of its family: what is saved of it opens as the same model.
namespace coterie::laws {
namespace {

class Blank : public Law {};

TEST_P(Blank, WhatIsDrawnAndSavedOpensAsTheSameModel) {
  const base::Json& config = tiny::configs().at(GetParam().family);
  const models::ModelSpec spec = families::read_config(config, "tiny", true);
  const auto decoder = models::blank_decoder(spec);
  const models::Parameters parameters(*decoder);
  models::initialise(parameters, spec, {.std = 0.2}, 7);
  decoder->weights_changed();

  const TempFolder folder;
  folder.write("config.json", config.dump());
  const families::NameTable names = families::family_of(spec).hugging_face_names();
  checkpoint::write_safetensors(folder / "model.safetensors", families::tensors_to_write(*decoder, names));
  families::OpenOptions strict;
  strict.strict = true;
  const families::Model opened = families::open_model(folder.path(), strict);

  Runner before(GetParam(), *decoder), after(GetParam(), *opened.decoder);
  const std::vector<int32_t> ids = some_ids(21, spec.vocabulary, 1);
  const std::vector<float> logits = before.whole(ids);
  const auto [least, most] = std::minmax_element(logits.begin(), logits.end());
  EXPECT_LT(*least, *most);
  expect_same_bits(after.whole(ids), logits, "after saving");

  const models::Parameters read(*opened.decoder);
  ASSERT_EQ(read.list().size(), parameters.list().size());
  for (size_t i = 0; i < read.list().size(); ++i) {
    const models::Parameter &a = parameters.list()[i], &b = read.list()[i];
    EXPECT_EQ(a.path, b.path);
    EXPECT_TRUE(std::equal(a.values, a.values + a.count, b.values)) << a.path;
  }
}

TEST_P(Blank, IsZeroUntilItIsDrawn) {
  const models::ModelSpec spec = families::read_config(tiny::configs().at(GetParam().family), "tiny", true);
  const auto decoder = models::blank_decoder(spec);
  Runner runner(GetParam(), *decoder);
  for (const float logit : runner.whole(some_ids(5, spec.vocabulary, 1))) EXPECT_EQ(logit, 0);
}

std::vector<Case> best_cases() {
  std::vector<Case> all = all_cases();
  std::erase_if(all, [](const Case& c) { return c.isa != "scalar" || c.precision != ops::Precision::f32; });
  return all;
}
INSTANTIATE_TEST_SUITE_P(Families, Blank, testing::ValuesIn(best_cases()), name_of);

}  // namespace
}  // namespace coterie::laws
