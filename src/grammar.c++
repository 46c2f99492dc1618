// SPDX-License-Identifier: Apache-2.0
#include "hybrid/grammar.hpp"

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <limits>

namespace hybrid {

using namespace std::literals;

namespace {

/// What stands behind "host:" or "[host]:"; nothing without a colon. apr_uri_parse() takes the first colon there is.
std::optional<std::string_view> port_in(std::string_view authority)
{
    std::size_t colon = authority.find(':');
    if (authority.starts_with('[')) {
        colon = authority.find(']');
        colon += colon != std::string_view::npos;
    }
    if (colon >= authority.size() || authority[colon] != ':')
        return std::nullopt;
    return authority.substr(colon + 1);
}

/// "scheme://host:port/path", such that httpd goes on to read the fields.
bool is_absolute(std::string_view target)
{
    const auto in_scheme = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || "+-."sv.find(c) < 3; };
    const std::size_t end = target.find("://");
    if (end == 0 || end == std::string_view::npos || !std::isalpha(static_cast<unsigned char>(target.front())) ||
        !std::all_of(target.begin(), target.begin() + end, in_scheme))
        return false;
    target.remove_prefix(end + 3);
    const std::string_view authority = target.substr(0, target.find_first_of("/?"));
    if (authority.empty() || authority.find('@') != std::string_view::npos ||
        (authority.front() == '[' && authority.find(']') == std::string_view::npos))
        return false;
    return all(kDigit, port_in(authority).value_or(""));
}

/// "host:port", CONNECT's target (apr_uri_parse_hostinfo()).
bool is_host_and_port(std::string_view target)
{
    std::string_view port = port_in(target).value_or("");
    port.remove_prefix(port.starts_with('+') || port.starts_with('-'));
    return !port.empty() && all(kDigit, port);
}

} // namespace

bool same_text(std::string_view a, std::string_view lower_case)
{
    return a.size() == lower_case.size() && std::equal(a.begin(), a.end(), lower_case.begin(), [](char x, char y) {
               return std::tolower(static_cast<unsigned char>(x)) == y;
           });
}

std::string_view trimmed(std::string_view text)
{
    text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
    text.remove_suffix(text.size() - (text.find_last_not_of(" \t") + 1));
    return text;
}

std::optional<std::size_t> number(std::string_view text, unsigned base)
{
    constexpr std::size_t kLargest = std::numeric_limits<std::int64_t>::max();
    std::size_t value = 0;
    for (const char c : text) {
        if (base == 10 ? !is(kDigit, c) : !std::isxdigit(static_cast<unsigned char>(c)))
            return std::nullopt;
        const unsigned digit = is(kDigit, c) ? c - '0' : std::tolower(static_cast<unsigned char>(c)) - 'a' + 10;
        if (value > (kLargest - digit) / base)
            return std::nullopt;
        value = value * base + digit;
    }
    return text.empty() ? std::nullopt : std::optional(value);
}

bool is_request_line(std::string_view line)
{
    const std::size_t first = line.find(' ');
    const std::size_t last = line.rfind(' ');
    if (first == 0 || first == std::string_view::npos || last <= first + 1)
        return false;
    const std::string_view method = line.substr(0, first);
    const std::string_view target = line.substr(first + 1, last - first - 1);
    const std::string_view protocol = line.substr(last + 1);
    if (!all(kToken, method) || !all(kVisible, target))
        return false;
    if (protocol.size() != 8 || !protocol.starts_with("HTTP/") || !is(kDigit, protocol[5]) || protocol[5] == '0' ||
        protocol[6] != '.' || !is(kDigit, protocol[7]))
        return false;
    if (method == "CONNECT")
        return is_host_and_port(target);
    if (target.find('#') != std::string_view::npos)
        return false;
    return target.front() == '/' || (target == "*" && method == "OPTIONS") || is_absolute(target);
}

} // namespace hybrid
