#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "base/atomic_file.h"
#include "base/error.h"
#include "quant/codec.h"
#include "support/places.h"
#include "tensor/dtype.h"

// data/ is made by make_golden.py from gguf-py.
namespace coterie {

inline std::string golden(const std::string& name) {
  return base::read_text(tests::source_folder() + "/unit/quant/data/" + name);
}

inline std::vector<float> golden_values(const std::string& name) {
  const std::string bytes = golden(name);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

inline std::vector<tensor::DType> block_formats() {
  std::vector<tensor::DType> formats;
  for (int i = 0; i < tensor::kDTypes; ++i)
    if (tensor::is_block(static_cast<tensor::DType>(i)) && !quant::is_scaled(static_cast<tensor::DType>(i)))
      formats.push_back(static_cast<tensor::DType>(i));
  return formats;
}

}  // namespace coterie
