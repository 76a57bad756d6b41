#include "cli/token_losses.h"

#include "base/error.h"
#include "checkpoint/tensor_sink.h"

namespace coterie::cli {

void TokenLosses::add(std::span<const int32_t> ids, std::span<const double> losses) {
  base::require(ids.size() == losses.size() + 1, "losses", "{} of {} tokens", losses.size(), ids.size());
  for (size_t i = 1; i < ids.size(); ++i) {
    ids_.push_back(ids[i]), before_.push_back(ids[i - 1]);
    sequence_.push_back(windows_), position_.push_back(static_cast<int32_t>(i));
    loss_.push_back(static_cast<float>(losses[i - 1]));
  }
  ++windows_;
}

void TokenLosses::write(const std::filesystem::path& path, const std::string& model, const std::string& text) const {
  std::vector<checkpoint::TensorToWrite> tensors;
  const auto put = [&](const char* name, tensor::DType dtype, const auto& values) {
    tensors.push_back(
        {name, dtype, {std::ssize(values)}, [&values](const auto& out) { out(std::as_bytes(std::span(values))); }});
  };
  put("loss", tensor::DType::f32, loss_);
  put("ids", tensor::DType::i32, ids_), put("before", tensor::DType::i32, before_);
  put("sequence", tensor::DType::i32, sequence_), put("position", tensor::DType::i32, position_);
  checkpoint::write_safetensors(path, tensors, {{"format", "coterie.losses.1"}, {"model", model}, {"text", text}});
}

}  // namespace coterie::cli
