// SPDX-License-Identifier: Apache-2.0
// libFuzzer's target for what comes from other children: make fuzz.
#include "channel.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size)
{
    static const fuzz::ChannelUnderTest test;
    if (size < 3)
        return 0;
    // Zeros are a parcel as it should be, so that what is found are ways to change it.
    std::string bytes(reinterpret_cast<const char *>(data) + 3, size - 3);
    const hybrid::Parcel right;
    for (std::size_t i = 0; i < std::min(bytes.size(), sizeof right); ++i)
        bytes[i] ^= reinterpret_cast<const char *>(&right)[i];
    const char *wrong = fuzz::check_channel(test, bytes, data[0], data[1] + 256U * data[2]);
    if (wrong) {
        std::fprintf(stderr, "%s\n", wrong);
        __builtin_trap();
    }
    return 0;
}
