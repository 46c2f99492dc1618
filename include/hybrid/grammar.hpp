// HTTP/1's words and numbers, as httpd reads them.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace hybrid {

bool is_digit(char c);
bool is_control(char c);
/// Of a method, or of a field's name.
bool is_token(char c);
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
