#pragma once
namespace coterie::kernels {
struct AttentionKernels {};
}  // namespace coterie::kernels
