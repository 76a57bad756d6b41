#pragma once
namespace coterie::kernels {
struct VectorKernels {};
}  // namespace coterie::kernels
