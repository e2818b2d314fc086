// Include after every other header and before the kernels: the rest of the file is compiled for AVX-512. isa_avx2.h
// says why by a pragma.

#define FLASH_INTERNIMAGE_ISA avx512
#if defined(__x86_64__)
#define FLASH_INTERNIMAGE_VECTOR_BYTES 64
#define FLASH_INTERNIMAGE_F16C
#if defined(__clang__)
// Clang ignores the whole attribute if it contains prefer-vector-width, and needs none: it uses wide registers anyway.
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,fma,f16c"))), apply_to = function)
#define FLASH_INTERNIMAGE_POP_TARGET
#else
// GCC 12 warns of its own _mm512_undefined_ps: https://gcc.gnu.org/bugzilla/show_bug.cgi?id=105593
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,fma,f16c,prefer-vector-width=512")
#endif
#else
#define FLASH_INTERNIMAGE_VECTOR_BYTES 16
#endif
