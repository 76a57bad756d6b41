#pragma once
namespace coterie::kernels {
struct MatmulKernels {};
}  // namespace coterie::kernels
