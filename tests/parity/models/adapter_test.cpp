#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "checkpoint/tensor_source.h"
#include "families/adapter/adapter.h"
#include "families/open.h"
#include "kernels/table.h"
#include "layers/resident_state.h"
#include "support/places.h"
#include "threads/pool.h"

// Adapters that the peft library wrote: the logits it computes with them, and the same tensors when they are written
// again. Made by tests/parity/make/adapters.py.
namespace coterie {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> names() {
  std::vector<std::string> result;
  for (const auto& entry : fs::directory_iterator(tests::source_folder() + "/parity/adapters"))
    result.push_back(entry.path().filename().string());
  std::sort(result.begin(), result.end());
  return result;
}

class AdapterParity : public testing::TestWithParam<std::string> {
 protected:
  fs::path folder = fs::path(tests::source_folder() + "/parity/adapters") / GetParam();
  // A folder, or a file whose heads may lie in another order than the adapter's.
  fs::path model_path = fs::exists(folder / "model.gguf") ? folder / "model.gguf" : folder;
};

TEST_P(AdapterParity, LogitsAreThoseOfPeft) {
  families::OpenOptions options;
  options.adapter = folder / "adapter";
  const families::Model model = families::open_model(model_path, options);
  const auto expected = checkpoint::open_safetensors(folder / "adapted.safetensors");
  const checkpoint::TensorInfo &ids = *expected->find("input_ids"), &logits = *expected->find("logits");
  const int64_t batch = ids.shape[0], tokens = ids.shape[1], vocabulary = logits.shape[2];
  threads::Pool pool(2);
  double spread = 0;
  const auto* const wanted = reinterpret_cast<const float*>(logits.bytes.data());
  for (int64_t i = 0; i < batch * tokens * vocabulary; ++i) spread += std::pow(static_cast<double>(wanted[i]), 2);
  spread = std::sqrt(spread / static_cast<double>(batch * tokens * vocabulary));
  for (int64_t b = 0; b < batch; ++b) {
    std::vector<int32_t> row;
    for (int64_t t = 0; t < tokens; ++t) {
      int64_t id = 0;
      std::memcpy(&id, ids.bytes.data() + (b * tokens + t) * 8, 8);
      row.push_back(static_cast<int32_t>(id));
    }
    tensor::Arena arena;
    ops::Context context{pool, kernels::select(), arena, ops::Precision::f32};
    layers::ResidentState state(models::cache_block_bytes(model.decoder->spec(), tensor::DType::f32),
                                tensor::DType::f32, models::state_floats(model.decoder->spec()));
    state.reserve(tokens);
    const models::SequenceStep step{.ids = row, .state = &state, .logits = models::SequenceStep::Logits::all};
    const tensor::Matrix ours = model.decoder->forward(context, {&step, 1});
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t v = 0; v < vocabulary; ++v)
        ASSERT_NEAR(ours.row(t)[v], wanted[(b * tokens + t) * vocabulary + v], 1e-4 * spread) << b << ", " << t;
  }
}

TEST_P(AdapterParity, IsWrittenAsPeftWroteIt) {
  const families::Model model = families::open_model(model_path);
  const fs::path out = fs::temp_directory_path() / ("coterie-peft-" + std::to_string(::getpid()) + GetParam());
  fs::create_directories(out);
  families::Adapter::load(*model.decoder, folder / "adapter").save(out, "tiny");
  const auto theirs = checkpoint::open_safetensors(folder / "adapter" / "adapter_model.safetensors");
  const auto ours = checkpoint::open_safetensors(out / "adapter_model.safetensors");
  EXPECT_EQ(ours->tensors().size(), theirs->tensors().size());
  for (const checkpoint::TensorInfo& tensor : theirs->tensors()) {
    const checkpoint::TensorInfo* same = ours->find(tensor.name);
    ASSERT_NE(same, nullptr) << tensor.name;
    EXPECT_EQ(same->shape, tensor.shape) << tensor.name;
    EXPECT_TRUE(std::equal(tensor.bytes.begin(), tensor.bytes.end(), same->bytes.begin(), same->bytes.end()))
        << tensor.name;
  }
  fs::remove_all(out);
}

INSTANTIATE_TEST_SUITE_P(Peft, AdapterParity, testing::ValuesIn(names()), [](const auto& of) {
  std::string name = of.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace coterie
