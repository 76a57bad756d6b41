#pragma once

namespace coterie::kernels {

enum class Activation { silu, gelu, gelu_tanh, relu, relu2, identity, sigmoid, softplus };

}  // namespace coterie::kernels
