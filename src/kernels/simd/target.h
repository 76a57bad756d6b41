#pragma once

// One translation unit per instruction set, no global -m flags: code between COTERIE_BEGIN_AVX2 and COTERIE_END is
// compiled for AVX2, everything else for the baseline. Open a region only after every header is included and call no
// std:: templates inside it: the linker keeps one copy of an inline function, and a copy compiled for AVX-512 would
// crash older processors.
#define COTERIE_PRAGMA(text) _Pragma(#text)

#if defined(__clang__)
#define COTERIE_BEGIN_TARGET(features) \
  COTERIE_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define COTERIE_END COTERIE_PRAGMA(clang attribute pop)
#else
#define COTERIE_BEGIN_TARGET(features) COTERIE_PRAGMA(GCC push_options) COTERIE_PRAGMA(GCC target(features))
#define COTERIE_END COTERIE_PRAGMA(GCC pop_options)
#endif

#define COTERIE_BEGIN_AVX2 COTERIE_BEGIN_TARGET("avx2,fma,f16c")
#define COTERIE_BEGIN_AVX512 COTERIE_BEGIN_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#define COTERIE_BEGIN_AMX \
  COTERIE_BEGIN_TARGET("amx-tile,amx-int8,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")

#define COTERIE_INLINE inline __attribute__((always_inline))

// Before a loop of constant length whose arrays must live in registers.
#if defined(__clang__)
#define COTERIE_UNROLL COTERIE_PRAGMA(unroll)
#else
#define COTERIE_UNROLL COTERIE_PRAGMA(GCC unroll 16)
#endif
