#pragma once

#include <memory>

#include "checkpoint/quantization.h"
#include "checkpoint/tensor_source.h"

namespace coterie::checkpoint {

/// Safetensors whose matrices are quantised (FP8, GPTQ, AWQ, compressed-tensors): each shows as one tensor,
/// NAME.weight, of a block format that holds what the files hold (quant/scaled_blocks.h), and the tensors it is made of
/// do not show. Its values are those that the method's reference dequantises, to the bit. Its bytes are empty until
/// load(), which puts them together in memory and lets go of the files' pages; the headers alone are read before.
///
/// Definitions: FP8 by blocks, DeepSeek-V3 (arXiv:2412.19437) and transformers' finegrained_fp8; GPTQ, AutoGPTQ and
/// GPTQModel; AWQ, AutoAWQ's "gemm" order; compressed-tensors, the package of that name.
///
/// Refused, by name: a matrix without its scales or with others than the config says, groups that are not a multiple of
/// 32, and scales that are neither f16 nor bf16 (of FP8: f32, bf16 or powers of two).
std::unique_ptr<TensorSource> quantized_source(std::unique_ptr<TensorSource> files, const Quantization& quantization);

}  // namespace coterie::checkpoint
