// Include after every other header and before kernels: what follows is compiled for the compiler's default target.

#define FLASH_INTERNIMAGE_ISA generic
#define FLASH_INTERNIMAGE_VECTOR_BYTES 16
