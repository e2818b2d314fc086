// Include after every other header and before the kernels: the rest of the file is compiled for the default target.

#define FLASH_INTERNIMAGE_ISA generic
#define FLASH_INTERNIMAGE_VECTOR_BYTES 16
