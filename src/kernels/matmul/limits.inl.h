// What probe.cpp times: the inner loops of the kernels with nothing to wait for.
#pragma once

int64_t peak_f32(int64_t rounds, float* sink) noexcept {
  constexpr int kChains = 12;
  Vf acc[kChains];
  Vf a = set(0.5f), b = set(0.25f);
  COTERIE_UNROLL
  for (int i = 0; i < kChains; ++i) acc[i] = set(static_cast<float>(i));
  for (int64_t round = 0; round < rounds; ++round) {
    asm volatile("" : "+v"(a), "+v"(b));
    COTERIE_UNROLL
    for (int i = 0; i < kChains; ++i) acc[i] = fma(acc[i], a, b);
  }
  COTERIE_UNROLL
  for (int i = 1; i < kChains; ++i) acc[0] = add(acc[0], acc[i]);
  float lanes[kWidth];
  store(lanes, acc[0]);
  *sink = lanes[0];
  return kChains * kWidth;
}

int64_t peak_int8(int64_t rounds, int32_t* sink) noexcept {
  constexpr int kChains = 12;
  Vi acc[kChains];
  Vi a = set_int(0x01010101), b = set_int(0x02020202);
  COTERIE_UNROLL
  for (int i = 0; i < kChains; ++i) acc[i] = set_int(static_cast<uint32_t>(i));
  for (int64_t round = 0; round < rounds; ++round) {
    COTERIE_UNROLL
    for (int i = 0; i < kChains; ++i) {
      asm volatile("" : "+v"(a), "+v"(b));  // each chain multiplies anew: AVX2's product and sum are two instructions
      acc[i] = dot4<false>(acc[i], a, b);
    }
  }
  COTERIE_UNROLL
  for (int i = 1; i < kChains; ++i) acc[0] = add_int(acc[0], acc[i]);
  *sink = reduce_add(acc[0]);
  return kChains * kWidth * 4;
}

/// A sum of S runs of `run` bytes that follow each other, side by side.
template <int S>
Vi sum_streams(const std::byte* data, int64_t run, int64_t ahead) {
  constexpr int64_t kStep = kWidth * 4, kLine = 64, kBlock = 4 * kStep;
  Vi digest[4];
  COTERIE_UNROLL
  for (int i = 0; i < 4; ++i) digest[i] = zero_int();
  int64_t at = 0;
  for (; at + kBlock <= run; at += kBlock) {
    COTERIE_UNROLL
    for (int s = 0; s < S; ++s) {
      const std::byte* const from = data + s * run + at;
      COTERIE_UNROLL
      for (int64_t line = 0; line < kBlock; line += kLine) __builtin_prefetch(from + ahead + line, 0, 3);
      COTERIE_UNROLL
      for (int i = 0; i < 4; ++i)
        digest[i] = add_int(digest[i], as_int(load(reinterpret_cast<const float*>(from + i * kStep))));
    }
  }
  for (; at + kStep <= run; at += kStep) {
    COTERIE_UNROLL
    for (int s = 0; s < S; ++s)
      digest[0] = add_int(digest[0], as_int(load(reinterpret_cast<const float*>(data + s * run + at))));
  }
  return add_int(add_int(digest[0], digest[1]), add_int(digest[2], digest[3]));
}

uint64_t read(const std::byte* data, int64_t bytes, ReadAhead walk) noexcept {
  // The processor's own prefetcher stops at each page; a page ahead keeps it busy where nothing else is known.
  const int64_t ahead = walk.bytes > 0 ? walk.bytes : 4096;
  const int64_t streams = walk.streams >= 4 ? 4 : walk.streams >= 2 ? 2 : 1;
  const int64_t run = bytes / streams / 64 * 64;
  Vi sum = streams == 4   ? sum_streams<4>(data, run, ahead)
           : streams == 2 ? sum_streams<2>(data, run, ahead)
                          : sum_streams<1>(data, run, ahead);
  sum = add_int(sum, sum_streams<1>(data + streams * run, bytes - streams * run, ahead));
  return static_cast<uint32_t>(reduce_add(sum));
}
