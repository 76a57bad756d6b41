// How elements of the KV cache are read, widened and written. Included inside namespace coterie::kernels::<isa>, after
// math.inl.h.
//
// A head's keys [key_dim][16] and values [16][value_dim] are floats of 32 or 16 bits, or codes of 8 bits. Codes have a
// scale of f32 for each kCacheGroup dimensions of a position, behind the codes of their half: [groups][16] for keys,
// [16][groups] for values. A value is code * scale, rounded, wherever it is read: the same bits by all ways.

/// Elements of type Element that keys (or values) of `dims` dimensions take in a block.
template <typename Element>
constexpr int64_t part_elements(int64_t dims) {
  return kCacheBlock * dims;
}
template <>
constexpr int64_t part_elements<Code>(int64_t dims) {
  return cache_code_bytes(dims);
}

COTERIE_INLINE const float* scales(const Code* part, int64_t dims) {
  return reinterpret_cast<const float*>(part + kCacheBlock * dims);
}
COTERIE_INLINE float* scales(Code* part, int64_t dims) { return reinterpret_cast<float*>(part + kCacheBlock * dims); }

/// Dimension d of the positions from `slot` on.
template <typename Key>
COTERIE_INLINE Vf key_at(const Key* keys, int64_t, int64_t d, int64_t slot) {
  return load(keys + d * kCacheBlock + slot);
}
COTERIE_INLINE Vf key_at(const Code* keys, int64_t key_dim, int64_t d, int64_t slot) {
  return mul(load(keys + d * kCacheBlock + slot), load(scales(keys, key_dim) + d / kCacheGroup * kCacheBlock + slot));
}

/// Dimensions from `column` on of a position, kWidth of them or the first `count`. A vector lies within a group.
template <bool kPartial, typename Value>
COTERIE_INLINE Vf value_at(const Value* values, int64_t value_dim, int64_t slot, int64_t column, int64_t count) {
  const Value* at = values + slot * value_dim + column;
  return kPartial ? load_first(at, count) : load(at);
}
template <bool kPartial>
COTERIE_INLINE Vf value_at(const Code* values, int64_t value_dim, int64_t slot, int64_t column, int64_t count) {
  const Code* at = values + slot * value_dim + column;
  const float scale = scales(values, value_dim)[slot * cache_groups(value_dim) + column / kCacheGroup];
  return mul(kPartial ? load_first(at, count) : load(at), set(scale));
}

/// `next` is what will be widened next: the hardware prefetcher does not follow a jump to another block.
template <typename Element>
inline void widen(const Element* source, const Element* next, int64_t key_dim, int64_t value_dim, float* target) {
  const int64_t n = kCacheBlock * (key_dim + value_dim);
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(Element));
  int64_t i = 0;
  for (; i + kLine <= n; i += kLine) {
    __builtin_prefetch(next + i, 0, 3);
    for (int64_t j = 0; j < kLine; j += kWidth) store(target + i + j, load(source + i + j));
  }
  for (; i < n; i += kWidth) {
    const int64_t rest = n - i < kWidth ? n - i : kWidth;
    store_first(target + i, load_first(source + i, rest), rest);
  }
}

inline void widen(const Code* keys, const Code* next, int64_t key_dim, int64_t value_dim, float* target) {
  for (int64_t d = 0; d < key_dim; ++d, target += kCacheBlock) {
    if (d % 4 == 0) __builtin_prefetch(next + d * kCacheBlock, 0, 3);
    for (int64_t slot = 0; slot < kCacheBlock; slot += kWidth) store(target + slot, key_at(keys, key_dim, d, slot));
  }
  const Code* const values = keys + part_elements<Code>(key_dim);
  for (int64_t slot = 0; slot < kCacheBlock; ++slot, target += value_dim) {
    int64_t c = 0;
    for (; c + kWidth <= value_dim; c += kWidth) store(target + c, value_at<false>(values, value_dim, slot, c, 0));
    if (c < value_dim)
      store_first(target + c, value_at<true>(values, value_dim, slot, c, value_dim - c), value_dim - c);
  }
}

/// A vector, or the first n of one. Masked stores take a dozen cycles on some processors.
template <typename Element>
COTERIE_INLINE void narrow(const float* from, Element* to, int64_t n) {
  if (n >= kWidth)
    store(to, load(from));
  else
    store_first(to, load_first(from, n), n);
}

template <typename Element>
inline void append_as(const float* k, int64_t k_stride, const float* v, int64_t v_stride, int64_t slot, int64_t count,
                      int64_t key_dim, int64_t value_dim, std::byte* head) {
  Element* keys = reinterpret_cast<Element*>(head);
  Element* values = keys + key_dim * kCacheBlock;
  // Keys are transposed: 16 dimensions of all positions at a time, so that what is written stays within a few lines.
  for (int64_t d = 0; d < key_dim; d += kCacheBlock) {
    const int64_t dims = key_dim - d < kCacheBlock ? key_dim - d : kCacheBlock;
    for (int64_t p = 0; p < count; ++p) {
      Element row[kCacheBlock];
      for (int64_t i = 0; i < dims; i += kWidth) narrow(k + p * k_stride + d + i, row + i, dims - i);
      for (int64_t i = 0; i < dims; ++i) keys[(d + i) * kCacheBlock + slot + p] = row[i];
    }
  }
  for (int64_t p = 0; p < count; ++p) {
    for (int64_t i = 0; i < value_dim; i += kWidth)
      narrow(v + p * v_stride + i, values + (slot + p) * value_dim + i, value_dim - i);
  }
}

/// Codes of `count` values (at most kCacheGroup) and their scale: the largest magnitude is 127.
COTERIE_INLINE float encode(const float* x, int64_t count, int8_t* codes) {
  constexpr float kLargest = 3.4028235e38f;
  float most = 0;
  bool finite = true;
  for (int64_t i = 0; i < count; ++i) {
    const float size = x[i] < 0 ? -x[i] : x[i];
    finite = finite && size <= kLargest;
    most = size > most ? size : most;
  }
  const float scale = finite ? most / 127 : __builtin_nanf("");
  const float inverse = finite && scale >= 1e-37f ? 1 / scale : 0;  // smaller ones count as zero
  for (int64_t i = 0; i < count; ++i)
    codes[i] = inverse == 0 ? int8_t{0} : static_cast<int8_t>(__builtin_lrintf(x[i] * inverse));
  return scale;
}

template <>
inline void append_as<Code>(const float* k, int64_t k_stride, const float* v, int64_t v_stride, int64_t slot,
                            int64_t count, int64_t key_dim, int64_t value_dim, std::byte* head) {
  Code* const keys = reinterpret_cast<Code*>(head);
  Code* const values = keys + part_elements<Code>(key_dim);
  int8_t codes[kCacheGroup];
  for (int64_t d = 0; d < key_dim; d += kCacheGroup) {
    const int64_t dims = key_dim - d < kCacheGroup ? key_dim - d : kCacheGroup;
    for (int64_t p = 0; p < count; ++p) {
      scales(keys, key_dim)[d / kCacheGroup * kCacheBlock + slot + p] = encode(k + p * k_stride + d, dims, codes);
      for (int64_t i = 0; i < dims; ++i) keys[(d + i) * kCacheBlock + slot + p].bits = codes[i];
    }
  }
  for (int64_t p = 0; p < count; ++p) {
    for (int64_t d = 0; d < value_dim; d += kCacheGroup) {
      const int64_t dims = value_dim - d < kCacheGroup ? value_dim - d : kCacheGroup;
      const int64_t at = (slot + p) * cache_groups(value_dim) + d / kCacheGroup;
      scales(values, value_dim)[at] = encode(v + p * v_stride + d, dims, codes);
      for (int64_t i = 0; i < dims; ++i) values[(slot + p) * value_dim + d + i].bits = codes[i];
    }
  }
}

inline void append(tensor::DType dtype, const float* k, int64_t k_stride, const float* v, int64_t v_stride,
                   int64_t slot, int64_t count, int64_t key_dim, int64_t value_dim, std::byte* head) noexcept {
  switch (dtype) {
    case tensor::DType::f16: return append_as<Half>(k, k_stride, v, v_stride, slot, count, key_dim, value_dim, head);
    case tensor::DType::bf16: return append_as<Bfloat>(k, k_stride, v, v_stride, slot, count, key_dim, value_dim, head);
    case tensor::DType::q8_0: return append_as<Code>(k, k_stride, v, v_stride, slot, count, key_dim, value_dim, head);
    default: return append_as<float>(k, k_stride, v, v_stride, slot, count, key_dim, value_dim, head);
  }
}
