// Include after every other header and before the kernels: the rest of the file is compiled for AVX-512. isa_avx2.h
// says why by a pragma.
//
// Registers have 256 bits as in AVX2, but there are 32 of them. Zen 4 splits operations on 512 bits into two, and sixteen
// channels in two registers allow `load_any_order` of bfloat16.

#define FLASH_INTERNIMAGE_ISA avx512
#if defined(__x86_64__)
#define FLASH_INTERNIMAGE_VECTOR_BYTES 32
#define FLASH_INTERNIMAGE_F16C
#if defined(__clang__)
// Clang ignores the whole attribute if it contains prefer-vector-width, and needs none: the vector types say the width.
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,fma,f16c"))), apply_to = function)
#define FLASH_INTERNIMAGE_POP_TARGET
#else
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,fma,f16c,prefer-vector-width=256")
#endif
#else
#define FLASH_INTERNIMAGE_VECTOR_BYTES 16
#endif
