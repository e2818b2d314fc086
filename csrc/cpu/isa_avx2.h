// Include after every other header and before the kernels: the rest of the file is compiled for AVX2.
//
// A pragma, because compiler flags would also apply to the inline functions of the headers above. The linker keeps one
// copy of each of those; if it kept one compiled for AVX2, the library would crash on older CPUs.

#define FLASH_INTERNIMAGE_ISA avx2
#if defined(__x86_64__)
#define FLASH_INTERNIMAGE_VECTOR_BYTES 32
#define FLASH_INTERNIMAGE_F16C
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#define FLASH_INTERNIMAGE_POP_TARGET
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#else
#define FLASH_INTERNIMAGE_VECTOR_BYTES 16
#endif
