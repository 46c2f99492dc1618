#include "hybrid/arrival.hpp"

#include <algorithm>
#include <cctype>
#include <optional>

namespace hybrid {

namespace {

constexpr Arrival kWhole = {Arrival::State::Whole, 0};
constexpr std::string_view kProxy2 = {"\r\n\r\n\0\r\nQUIT\n", 12}; // the PROXY protocol, version 2
constexpr std::size_t kProxy2Head = 16;
constexpr std::size_t kMostDigits = 15;

bool is_token(char c)
{
    return std::isalnum(static_cast<unsigned char>(c)) ||
           std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

bool same_name(std::string_view a, std::string_view lower_case)
{
    return a.size() == lower_case.size() && std::equal(a.begin(), a.end(), lower_case.begin(), [](char x, char y) {
               return std::tolower(static_cast<unsigned char>(x)) == y;
           });
}

/// Goes through the bytes line by line.
class Look {
  public:
    Look(std::string_view bytes, std::size_t most) : bytes_(bytes), most_(most) {}

    Arrival go()
    {
        if (bytes_.size() >= most_)
            return kWhole;
        if (const auto verdict = proxy_header())
            return *verdict;
        skip_blank_lines();
        if (at_ == bytes_.size())
            return more(Arrival::State::Partial);
        if (!may_be_method())
            return kWhole;
        const auto request_line = line();
        if (!request_line)
            return more(Arrival::State::Partial);
        // "GET /path", without a version: HTTP/0.9, whole with its first line, or no HTTP at all.
        const std::size_t space = request_line->rfind(' ');
        if (space == std::string_view::npos || request_line->substr(space + 1, 5) != "HTTP/" ||
            request_line->starts_with("PRI "))
            return kWhole;
        for (;;) {
            const auto field = line();
            if (!field)
                return more(Arrival::State::Partial);
            if (field->empty())
                return body();
            note(*field);
        }
    }

  private:
    Arrival more(Arrival::State state) const { return until(state, bytes_.size() + 1); }
    Arrival until(Arrival::State state, std::size_t wanted) const { return {state, std::min(wanted, most_)}; }

    /// The next line without its end; nothing when that is not here yet.
    std::optional<std::string_view> line()
    {
        const std::size_t end = bytes_.find('\n', at_);
        if (end == std::string_view::npos)
            return std::nullopt;
        std::string_view text = bytes_.substr(at_, end - at_);
        at_ = end + 1;
        if (text.ends_with('\r'))
            text.remove_suffix(1);
        return text;
    }

    // mod_remoteip takes it off; without it, httpd answers whatever follows with an error.
    std::optional<Arrival> proxy_header()
    {
        const std::string_view start = bytes_.substr(0, kProxy2.size());
        if (bytes_.size() > 4 && start == kProxy2.substr(0, start.size())) {
            if (bytes_.size() < kProxy2.size())
                return more(Arrival::State::Partial); // it may be something else still
            if (bytes_.size() < kProxy2Head)
                return until(Arrival::State::Partial, kProxy2Head);
            const std::size_t length =
                kProxy2Head + (static_cast<unsigned char>(bytes_[14]) << 8 | static_cast<unsigned char>(bytes_[15]));
            if (bytes_.size() < length)
                return until(Arrival::State::Partial, length);
            at_ = length;
        } else if (bytes_.starts_with("PROXY ") && !line()) {
            return more(Arrival::State::Partial);
        }
        return std::nullopt;
    }

    void skip_blank_lines()
    {
        while (at_ < bytes_.size() && (bytes_[at_] == '\n' || bytes_[at_] == '\r'))
            ++at_;
    }

    bool may_be_method() const
    {
        std::size_t i = at_;
        while (i < bytes_.size() && is_token(bytes_[i]))
            ++i;
        return i == bytes_.size() || (i > at_ && (bytes_[i] == ' ' || bytes_[i] == '\r' || bytes_[i] == '\n'));
    }

    void note(std::string_view field)
    {
        const std::size_t colon = field.find(':');
        if (colon == std::string_view::npos)
            return;
        const std::string_view name = field.substr(0, colon);
        std::string_view value = field.substr(colon + 1);
        value.remove_prefix(std::min(value.find_first_not_of(" \t"), value.size()));
        if (same_name(name, "content-length"))
            length_ = number(value, 10);
        else if (same_name(name, "transfer-encoding"))
            chunked_ = true;
        else if (same_name(name, "expect"))
            expects_ = true;
    }

    static std::size_t number(std::string_view text, int base)
    {
        std::size_t value = 0;
        for (std::size_t i = 0;
             i < text.size() && i < kMostDigits && std::isxdigit(static_cast<unsigned char>(text[i])); ++i) {
            const char c = text[i];
            const int digit = std::isdigit(static_cast<unsigned char>(c))
                                  ? c - '0'
                                  : std::tolower(static_cast<unsigned char>(c)) - 'a' + 10;
            if (digit >= base)
                break;
            value = value * base + digit;
        }
        return value;
    }

    Arrival body()
    {
        if (expects_)
            return kWhole;
        if (chunked_)
            return chunks();
        const std::size_t end = at_ + length_;
        return bytes_.size() >= std::min(end, most_) ? kWhole : until(Arrival::State::Body, end);
    }

    Arrival chunks()
    {
        for (;;) {
            const auto size_line = line();
            if (!size_line)
                return more(Arrival::State::Body);
            if (size_line->empty() || !std::isxdigit(static_cast<unsigned char>(size_line->front())))
                return kWhole; // wrong
            const std::size_t size = number(*size_line, 16);
            if (size == 0)
                break;
            if (size >= most_ || at_ + size + 2 > bytes_.size())
                return until(Arrival::State::Body, size >= most_ ? most_ : at_ + size + 2);
            at_ += size + 2; // and its line end
        }
        for (;;) { // trailers
            const auto field = line();
            if (!field)
                return more(Arrival::State::Body);
            if (field->empty())
                return kWhole;
        }
    }

    const std::string_view bytes_;
    const std::size_t most_;
    std::size_t at_ = 0;
    std::size_t length_ = 0;
    bool chunked_ = false;
    bool expects_ = false;
};

} // namespace

Arrival look_at_request(std::string_view bytes, std::size_t most)
{
    return Look(bytes, most).go();
}

Arrival look_at_record(std::string_view bytes, std::size_t most)
{
    constexpr std::size_t kHead = 5;
    constexpr char kHandshake = 0x16;
    if (bytes.size() >= most || (!bytes.empty() && bytes[0] != kHandshake))
        return kWhole;
    if (bytes.size() < kHead)
        return {Arrival::State::Partial, bytes.empty() ? 1 : std::min(kHead, most)};
    const std::size_t length =
        kHead + (static_cast<unsigned char>(bytes[3]) << 8 | static_cast<unsigned char>(bytes[4]));
    return bytes.size() >= length ? kWhole : Arrival{Arrival::State::Partial, std::min(length, most)};
}

} // namespace hybrid
