// Replaces PyTorch's header. An invalid launch ends the emulator with a message.

#pragma once

#define C10_CUDA_CHECK(expression) static_cast<void>(expression)
