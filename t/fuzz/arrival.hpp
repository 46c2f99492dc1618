// SPDX-License-Identifier: Apache-2.0
// What must be true of any bytes that a client sends, in whatever pieces: for the fuzzer and, over its corpus, for the
// unit test.
#pragma once

#include "hybrid/arrival.hpp"

#include <algorithm>
#include <string_view>

namespace fuzz {

/// nullptr, or what is wrong.
inline const char *check_arrival(std::string_view bytes, std::size_t part, std::size_t most)
{
    using hybrid::Arrival;
    using State = Arrival::State;
    hybrid::RequestLimits limits;
    limits.most = most;
    limits.proxy_header = most % 2;
    limits.only_http = most % 3;
    using hybrid::Carrier;
    const auto request = [](std::string_view b, const hybrid::RequestLimits &l) {
        return hybrid::look_at_request(b, l);
    };
    const auto inside = [](std::string_view b, const hybrid::RequestLimits &l) {
        return hybrid::look_at_request(b, l, Carrier::Tls);
    };
    using Look = hybrid::Arrival (*)(std::string_view, const hybrid::RequestLimits &);
    for (const Look look : {Look(request), Look(inside), Look(hybrid::look_at_record)}) {
        const std::string_view begin = bytes.substr(0, std::min(part, bytes.size()));
        const Arrival first = look(begin, limits);
        const Arrival all = look(bytes, limits);
        if (first.state != State::Whole && first.wanted <= begin.size())
            return "a look that is in vain asks for no more than there is";
        if (first.state != State::Whole && begin.size() >= most)
            return "the bound does not hold";
        if (first.state == State::Body && (first.head == 0 || first.head > begin.size()))
            return "the head of a body is here";
        if (first.state == State::Whole && all.state != State::Whole)
            return "what was whole is no longer when more has come";
        if (first.state != State::Whole && all.state == State::Whole && bytes.size() < first.wanted)
            return "it is whole sooner than was asked for: nobody would look";
    }
    return nullptr;
}

} // namespace fuzz
