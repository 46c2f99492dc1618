// SPDX-License-Identifier: Apache-2.0
// HTTP/1's words and numbers, as httpd reads them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace hybrid {

/// What a character may be part of. Every one of every head is looked up.
enum CharClass : std::uint8_t {
    kDigit = 1,
    kToken = 2,   ///< of a method, or of a field's name
    kControl = 4, ///< of nothing
    kVisible = 8, ///< of a request's target
};

namespace detail {

constexpr std::array<std::uint8_t, 256> char_classes()
{
    std::array<std::uint8_t, 256> classes{};
    for (unsigned c = 0; c < classes.size(); ++c) {
        const bool digit = c >= '0' && c <= '9';
        const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        const bool mark = c < 0x80 && std::string_view("!#$%&'*+-.^_`|~").find(static_cast<char>(c)) < 15;
        const bool control = (c < ' ' && c != '\t') || c == 0x7f;
        classes[c] = (digit ? kDigit : 0) | (digit || letter || mark ? kToken : 0) | (control ? kControl : 0) |
                     (c > ' ' && c != 0x7f ? kVisible : 0);
    }
    return classes;
}

inline constexpr std::array<std::uint8_t, 256> kCharClasses = char_classes();

} // namespace detail

constexpr bool is(CharClass of, char c)
{
    return detail::kCharClasses[static_cast<unsigned char>(c)] & of;
}

/// Nothing else is in it.
constexpr bool all(CharClass of, std::string_view text)
{
    for (const char c : text)
        if (!is(of, c))
            return false;
    return true;
}

constexpr bool any(CharClass of, std::string_view text)
{
    for (const char c : text)
        if (is(of, c))
            return true;
    return false;
}

/// Are they the same but for upper and lower case? The second one is in lower case.
bool same_text(std::string_view a, std::string_view lower_case);
/// Without the spaces and tabs around it.
std::string_view trimmed(std::string_view text);

/// A number of bytes, which must fit into apr_off_t; nothing when it is none. `base` is 10 or 16.
std::optional<std::size_t> number(std::string_view text, unsigned base);

/// "method target HTTP/1.1", such that httpd goes on to read the fields (ap_parse_request_line() in server/protocol.c).
/// Everything else it answers at once. The line has no line end.
bool is_request_line(std::string_view line);

} // namespace hybrid
