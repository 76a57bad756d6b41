#include "parity/fixture.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "checkpoint/tensor_source.h"
#include "support/places.h"

namespace coterie::parity {

namespace {

const checkpoint::TensorInfo& tensor(const checkpoint::TensorSource& source, std::string_view name) {
  const checkpoint::TensorInfo* info = source.find(name);
  if (!info) base::fail(base::ErrorKind::not_found, source.where(), "no tensor {}", name);
  return *info;
}

std::vector<int32_t> ids_of(const checkpoint::TensorInfo& info) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < info.bytes.size(); i += 8) {
    int64_t id;
    std::memcpy(&id, info.bytes.data() + i, 8);
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

std::vector<float> floats_of(const checkpoint::TensorInfo& info) {
  std::vector<float> values(info.bytes.size() / 4);
  std::memcpy(values.data(), info.bytes.data(), info.bytes.size());
  return values;
}

std::filesystem::path model_in(const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / "config.json")) return folder;
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".gguf") files.push_back(entry.path());
  if (files.empty()) base::fail(base::ErrorKind::not_found, folder.string(), "neither config.json nor a .gguf");
  return *std::min_element(files.begin(), files.end());
}

}  // namespace

double slack_of(const models::ModelSpec& spec) {
  const bool amplifies = std::any_of(spec.blocks.begin(), spec.blocks.end(), [](const models::BlockSpec& block) {
    return std::holds_alternative<layers::DeltaRuleSpec>(block.mixer);
  });
  return amplifies ? 4 : 1;
}

std::vector<Fixture> fixtures() {
  std::vector<Fixture> result;
  const std::filesystem::path data = std::filesystem::path(tests::source_folder()) / "parity" / "data";
  for (const auto& family : std::filesystem::directory_iterator(data))
    for (const auto& entry : std::filesystem::directory_iterator(family))
      if (std::filesystem::exists(entry.path() / "expected.safetensors"))
        result.push_back({entry.path().lexically_relative(data).string(), entry.path(), model_in(entry.path())});
  std::sort(result.begin(), result.end(), [](const Fixture& a, const Fixture& b) { return a.name < b.name; });
  return result;
}

Expected read_expected(const Fixture& fixture) {
  const auto source = checkpoint::open_safetensors(fixture.folder / "expected.safetensors");
  Expected expected;
  const checkpoint::TensorInfo& ids = tensor(*source, "input_ids");
  const checkpoint::TensorInfo& logits = tensor(*source, "logits");
  expected.batch = ids.shape[0], expected.tokens = ids.shape[1], expected.vocabulary = logits.shape[2];
  expected.ids = ids_of(ids);
  expected.logits = floats_of(logits);
  expected.loss = std::numeric_limits<double>::quiet_NaN();
  if (const auto* loss = source->find("loss")) expected.loss = floats_of(*loss)[0];
  if (const auto* greedy = source->find("greedy")) {
    expected.greedy = ids_of(*greedy);
    expected.greedy_tokens = greedy->shape[1];
  }
  double sum = 0, squares = 0;
  for (const float v : expected.logits) sum += v, squares += static_cast<double>(v) * v;
  const auto n = static_cast<double>(expected.logits.size());
  expected.logit_std = std::sqrt(squares / n - sum / n * (sum / n));
  if (const auto path = fixture.folder / "exact.safetensors"; std::filesystem::exists(path)) {
    const auto exact_source = checkpoint::open_safetensors(path);
    const std::vector<float> exact = floats_of(tensor(*exact_source, "logits"));
    base::require(exact.size() == expected.logits.size(), path.string(), "{} logits", exact.size());
    expected.logits = exact;
  }
  return expected;
}

}  // namespace coterie::parity
