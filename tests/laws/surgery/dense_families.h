#pragma once

#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <vector>

#include "laws/surgery/saved_model.h"

namespace coterie::laws {

/// A dense family that mixtures are made of, and the model_type they are written as.
struct Family {
  std::string name, written;
  // What the tiny configs switch on that a published mixture type cannot say is switched off; refusing it is tested by
  // itself.
  base::Json changes = base::Json::object();

  base::Json config() const { return with(tiny::configs().at(name), changes); }
};
inline std::ostream& operator<<(std::ostream& out, const Family& family) { return out << family.name; }

inline const std::vector<Family>& families() {
  static const std::vector<Family> all = {
      {"llama", "mixtral", {{"attention_bias", nullptr}}},
      {"mistral", "mixtral"},
      {"qwen2", "qwen2_moe"},
      {"qwen3", "qwen3_moe", {{"tie_word_embeddings", true}}},
      {"granite", "granitemoe", {{"mlp_bias", nullptr}}},
      {"phi3", "coterie"},
      {"olmo2", "coterie"},
      {"gemma2", "coterie"},
      {"gemma3_text", "coterie"},
  };
  return all;
}

inline std::string family_name(const testing::TestParamInfo<Family>& of) { return of.param.name; }

}  // namespace coterie::laws
