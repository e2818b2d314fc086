// Include after every other header and before kernels: what follows, up to the end of the file, is compiled for
// AVX-512. The reason for a pragma is in isa_avx2.h.

#define FLASH_INTERNIMAGE_ISA avx512
#if defined(__x86_64__)
#define FLASH_INTERNIMAGE_VECTOR_BYTES 64
#define FLASH_INTERNIMAGE_F16C
#if defined(__clang__)
#pragma clang attribute push(                                                                       \
    __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,fma,f16c,prefer-vector-width=512"))), \
    apply_to = function)
#define FLASH_INTERNIMAGE_POP_TARGET
#else
// GCC 12 takes its own _mm512_undefined_ps for a mistake: https://gcc.gnu.org/bugzilla/show_bug.cgi?id=105593
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,fma,f16c,prefer-vector-width=512")
#endif
#else
#define FLASH_INTERNIMAGE_VECTOR_BYTES 16
#endif
