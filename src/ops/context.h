#pragma once

#include "kernels/table.h"
#include "tensor/arena.h"
#include "threads/pool.h"

namespace coterie::ops {

/// How a matmul on weights computes.
enum class Precision {
  f32,   // weights decoded to f32, products accumulated in f32: what a reference is compared with
  bf16,  // for training: f32 weights and rows rounded to bf16 where they are multiplied, products accumulated in f32;
         // matmul, experts and the head, forward and backward. Refused where the CPU has no products of bf16.
  fast,  // block formats against activations quantised to int8, exact integer dot products, f32 between blocks
};

class RowShare;
class Tape;
class WeightObserver;

/// What an op needs besides its arguments. One for each thread of control; ops are called by one thread at a time.
struct Context {
  threads::Pool& pool;
  const kernels::KernelTable& kernels;
  tensor::Arena& arena;  // scratch and activations
  Precision precision = Precision::fast;
  Tape* tape = nullptr;                // open: each op notes its backward pass there (ops/tape.h)
  WeightObserver* observer = nullptr;  // is shown what matmuls read (ops/observer.h); null costs a branch
  kernels::ReadAhead read_ahead = {};  // how repacked weights are walked; changes no result
  RowShare* rows = nullptr;            // computes some rows of each weight, others the rest (ops/row_share.h)
};

}  // namespace coterie::ops
