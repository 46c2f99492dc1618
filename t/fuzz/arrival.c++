// SPDX-License-Identifier: Apache-2.0
// libFuzzer's target for the look at a client's first bytes: make fuzz.
#include "arrival.hpp"

#include <cstdint>
#include <cstdio>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size)
{
    if (size < 4)
        return 0;
    const std::size_t part = data[0] + 256U * data[1];
    const std::size_t most = 1 + data[2] + 256U * (data[3] % 129U); // up to 32 KiB and a bit
    const char *wrong =
        fuzz::check_arrival({reinterpret_cast<const char *>(data) + 4, size - 4}, part % (size - 3), most);
    if (wrong) {
        std::fprintf(stderr, "%s\n", wrong);
        __builtin_trap();
    }
    return 0;
}
