#pragma once

#include <map>
#include <string>
#include <string_view>

#include "base/json.h"
#include "checkpoint/tensor_source.h"
#include "families/open.h"

namespace coterie::families {

/// How the makers of a model recommend that its tokens be drawn, by the names of runtime::SamplerOptions: temperature,
/// top_k, top_p, min_p, typical, repeat_penalty, repeat_last_n. What they do not say is absent.
using RecommendedSampling = std::map<std::string, double, std::less<>>;

/// Of a GGUF from general.sampling.* (llama.cpp's names), of a folder from generation_config.json (transformers'
/// names, whose repetition_penalty looks at all tokens: repeat_last_n is -1 then; with do_sample false it alone). Keys
/// of other rules are left alone. Throws bad_input, naming file and key, for a value that is not a number or outside
/// its range.
RecommendedSampling recommended_sampling(const Model& model);
RecommendedSampling recommended_sampling(const base::Json& generation_config, std::string_view where);

/// The same for writing: general.sampling.* of a GGUF, keys of a generation_config.json.
void add_sampling(const RecommendedSampling& sampling, checkpoint::Metadata& metadata);
void add_sampling(const RecommendedSampling& sampling, base::Json& generation_config);

}  // namespace coterie::families
