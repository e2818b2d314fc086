// In place of PyTorch's header. A launch that goes wrong ends the emulator with a message of its own.

#pragma once

#define C10_CUDA_CHECK(expression) static_cast<void>(expression)
