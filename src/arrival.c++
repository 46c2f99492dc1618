// SPDX-License-Identifier: Apache-2.0
#include "hybrid/arrival.hpp"

#include "hybrid/grammar.hpp"

#include <algorithm>
#include <optional>

namespace hybrid {

namespace {

using namespace std::literals;

constexpr Arrival kWhole = {Arrival::State::Whole, 0};
constexpr auto kProxy2 = "\r\n\r\n\0\r\nQUIT\n"sv; // the PROXY protocol, version 2
constexpr std::size_t kProxy2Head = 16;
constexpr std::size_t kProxy1Most = 107; // its version 1, with the line end
constexpr auto kHttp2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"sv;
constexpr int kMostBlankLines = 10;          // DEFAULT_LIMIT_BLANK_LINES
constexpr std::size_t kMostChunkBlanks = 10; // before its extensions
constexpr std::size_t kRoom = 2;             // that httpd has for a line's end, beyond its limit
constexpr std::size_t kPiece = 8192;         // HUGE_STRING_LEN: of a line that does not end httpd gets so much

/// The lines of a head, or of trailers, as httpd reads them (ap_get_mime_headers_core()): a field is looked at when the
/// next line is here, because that may go on with it.
class Fields {
  public:
    Fields(const RequestLimits &limits) : limits_(limits) {}

    /// False: httpd refuses the request with this line.
    bool take(std::string_view line)
    {
        if (!line.empty() && (line.front() == ' ' || line.front() == '\t'))
            return fold(line);
        if (any_ && (!good_ || (limits_.fields > 0 && ++count_ > limits_.fields)))
            return false;
        if (line.empty())
            return true;
        any_ = true;
        length_ = std::max<std::size_t>(line.find_last_not_of(" \t") + 1, 1);
        const std::size_t colon = line.find(':');
        const std::string_view name = line.substr(0, colon);
        const std::string_view value = colon == std::string_view::npos ? "" : line.substr(colon + 1);
        good_ = colon != std::string_view::npos && !name.empty() && all(kToken, name) && !any(kControl, value);
        note(name, trimmed(value));
        return true;
    }

    bool expects() const { return expects_; }
    bool encoded() const { return encoded_; }
    bool chunked() const { return chunked_; }
    /// Of the body; nothing when it makes no sense.
    std::optional<std::size_t> body_length() const { return body_length_; }

  private:
    bool fold(std::string_view line)
    {
        const std::string_view text = trimmed(line);
        if (!any_ || text.empty() || length_ + text.size() + 2 >= limits_.field_size)
            return false;
        length_ += text.size() + 1;
        good_ = good_ && !any(kControl, text);
        if (last_ == Last::Length)
            body_length_ = std::nullopt;
        if (last_ == Last::Encoding)
            note_encoding(text);
        return true;
    }

    void note(std::string_view name, std::string_view value)
    {
        last_ = Last::Other;
        if (same_text(name, "content-length")) {
            last_ = Last::Length;
            body_length_ = lengths_++ == 0 ? number(value, 10) : std::nullopt;
        } else if (same_text(name, "transfer-encoding")) {
            last_ = Last::Encoding;
            note_encoding(value);
        } else if (same_text(name, "expect")) {
            expects_ = true;
        }
    }

    // The last one counts (ap_is_chunked()).
    void note_encoding(std::string_view value)
    {
        constexpr auto name = "chunked"sv;
        encoded_ = true;
        chunked_ = value.size() >= name.size() && same_text(value.substr(value.size() - name.size()), name);
        if (!chunked_ || value.size() == name.size())
            return;
        const std::string_view before = value.substr(0, value.size() - name.size());
        const std::size_t last = before.find_last_not_of(' ');
        chunked_ = last != std::string_view::npos && before[last] == ',';
    }

    enum class Last { Other, Length, Encoding };

    const RequestLimits &limits_;
    std::size_t count_ = 0;
    std::size_t length_ = 0; // of the field, with all its lines
    bool any_ = false;
    bool good_ = true;
    Last last_ = Last::Other;
    int lengths_ = 0;
    std::optional<std::size_t> body_length_ = 0;
    bool encoded_ = false;
    bool chunked_ = false;
    bool expects_ = false;
};

/// Goes through the bytes line by line.
class Look {
  public:
    Look(std::string_view bytes, const RequestLimits &limits, Carrier carrier)
        : bytes_(bytes), limits_(limits), carrier_(carrier)
    {
    }

    Arrival go()
    {
        if (bytes_.size() >= limits_.most)
            return kWhole;
        if (limits_.http2_preface && kHttp2Preface.starts_with(bytes_) && bytes_ != kHttp2Preface)
            return more(Arrival::State::Partial); // mod_http2 wants to see all of it at once
        if (limits_.proxy_header)
            if (const auto verdict = proxy_header())
                return *verdict;
        if (ends_here())
            return kWhole;
        for (int left = kMostBlankLines + 1; left > 0; --left) {
            if (!limits_.only_http && !may_be_method())
                return kWhole;
            if (!line(limits_.line + kRoom))
                return rejected_ ? kWhole : more(Arrival::State::Partial);
            if (!line_.empty())
                return is_request_line(line_) ? head() : kWhole;
        }
        return kWhole;
    }

  private:
    Arrival more(Arrival::State state) const { return until(state, bytes_.size() + 1); }
    Arrival until(Arrival::State state, std::size_t wanted) const
    {
        return {state, std::min(wanted, limits_.most), state == Arrival::State::Body ? head_ : 0};
    }

    /// Most requests: the head is here, no body is to come, and that is all. Whatever may be wrong with it, httpd need
    /// not wait to say so; to read each of its characters, as below, costs a twelfth of what httpd itself does.
    bool ends_here() const
    {
        constexpr auto end_of_head = "\r\n\r\n"sv;
        const std::string_view rest = bytes_.substr(at_);
        if (!rest.ends_with(end_of_head) || !is(kToken, rest.front()))
            return false;
        const std::size_t last = rest.size() - end_of_head.size();
        for (std::size_t end = rest.find('\n'); end < last; end = rest.find('\n', end + 1)) {
            const std::string_view start = rest.substr(end + 1, 4);
            if (same_text(start, "cont") || same_text(start, "tran")) // Content-Length, Transfer-Encoding
                return false;
        }
        return true;
    }

    bool may_be_method() const
    {
        std::size_t i = at_;
        while (i < bytes_.size() && is(kToken, bytes_[i]))
            ++i;
        return i == bytes_.size() || bytes_[i] == '\r' || bytes_[i] == '\n' || (i > at_ && bytes_[i] == ' ');
    }

    /// Takes the next line, without its end. False: it is not whole, or `rejected_`: httpd says so at once, because
    /// with its line feed it is longer than `most`, has a zero in it, or ends in another way than it should.
    bool line(std::size_t most)
    {
        const std::size_t end = bytes_.find('\n', at_);
        line_ = bytes_.substr(at_, end == std::string_view::npos ? end : end - at_);
        if (end == std::string_view::npos) {
            rejected_ = pieces() > most;
            return false;
        }
        at_ = end + 1;
        const bool ends_well = line_.ends_with('\r');
        if (ends_well)
            line_.remove_suffix(1);
        rejected_ =
            line_.size() + 1 > most || (limits_.strict && !ends_well) || line_.find('\0') != std::string_view::npos;
        return !rejected_;
    }

    /// So much of a line that does not end httpd surely gets, while it waits for the rest: from mod_ssl in pieces of
    /// one length, from core in pieces of that length or more.
    std::size_t pieces() const
    {
        const std::size_t size = line_.size();
        if (carrier_ == Carrier::Tls)
            return size / kPiece * kPiece;
        return size < kPiece ? 0 : std::max(std::min(size, kPiece + 1), size - (kPiece - 1));
    }

    // mod_remoteip takes it off.
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
        } else if (bytes_.starts_with("PROXY ") && !line(kProxy1Most + kRoom)) {
            return rejected_ || bytes_.size() >= kProxy1Most ? kWhole : more(Arrival::State::Partial);
        }
        return std::nullopt;
    }

    Arrival head()
    {
        Fields fields(limits_);
        if (const auto verdict = read_fields(fields, Arrival::State::Partial))
            return *verdict;
        head_ = at_;
        const std::optional<std::size_t> length = fields.body_length();
        if (fields.expects() || !length || (fields.encoded() && !fields.chunked()))
            return kWhole;
        if (fields.chunked())
            return chunks();
        const std::size_t wanted = *length < limits_.most ? at_ + *length : limits_.most;
        return bytes_.size() >= std::min(wanted, limits_.most) ? kWhole : until(Arrival::State::Body, wanted);
    }

    /// Up to the empty line; a verdict when that is not here, or not to come.
    std::optional<Arrival> read_fields(Fields &fields, Arrival::State state)
    {
        do {
            if (!line(limits_.field_size + kRoom))
                return rejected_ ? kWhole : more(state);
            if (!fields.take(line_))
                return kWhole;
        } while (!line_.empty());
        return std::nullopt;
    }

    Arrival chunks()
    {
        for (;;) {
            if (!line(limits_.field_size))
                return rejected_ ? kWhole : more(Arrival::State::Body);
            const std::optional<std::size_t> size = chunk_size(line_);
            if (!size)
                return kWhole;
            if (*size == 0) {
                Fields trailers(limits_);
                return read_fields(trailers, Arrival::State::Body).value_or(kWhole);
            }
            if (*size >= limits_.most || at_ + *size >= bytes_.size())
                return until(Arrival::State::Body, *size >= limits_.most ? limits_.most : at_ + *size + 1);
            at_ += *size;
            if (!line(limits_.field_size)) // its end
                return rejected_ ? kWhole : more(Arrival::State::Body);
            if (!line_.empty())
                return kWhole;
        }
    }

    /// As parse_chunk_size() in modules/http/http_filters.c; nothing: wrong.
    std::optional<std::size_t> chunk_size(std::string_view line) const
    {
        const std::string_view before = line.substr(0, line.find(';'));
        const std::string_view digits = before.substr(0, before.find_first_of(" \t"));
        const std::string_view blanks = before.substr(digits.size());
        const bool good = blanks.find_first_not_of(" \t") == std::string_view::npos &&
                          blanks.size() <= kMostChunkBlanks && line.size() + 2 <= limits_.field_size &&
                          !any(kControl, line);
        return good ? number(digits, 16) : std::nullopt;
    }

    const std::string_view bytes_;
    const RequestLimits &limits_;
    const Carrier carrier_;
    std::size_t at_ = 0;
    std::size_t head_ = 0;
    std::string_view line_;
    bool rejected_ = false;
};

} // namespace

bool may_begin_request(char first)
{
    return is(kToken, first) || first == '\r' || first == '\n';
}

Arrival look_at_request(std::string_view bytes, const RequestLimits &limits, Carrier carrier)
{
    return Look(bytes, limits, carrier).go();
}

Arrival look_at_record(std::string_view bytes, const RequestLimits &limits)
{
    constexpr std::size_t kHead = 5;
    constexpr std::size_t kLargest = 16 * 1024;
    constexpr auto kHandshake = "\x16\x03"sv;
    if (bytes.size() >= limits.most || bytes.substr(0, kHandshake.size()) != kHandshake.substr(0, bytes.size()))
        return kWhole;
    if (bytes.size() < kHead)
        return {Arrival::State::Partial,
                std::min(bytes.size() < kHandshake.size() ? bytes.size() + 1 : kHead, limits.most)};
    const std::size_t length = static_cast<unsigned char>(bytes[3]) << 8 | static_cast<unsigned char>(bytes[4]);
    return length > kLargest || bytes.size() >= kHead + length
               ? kWhole
               : Arrival{Arrival::State::Partial, std::min(kHead + length, limits.most)};
}

} // namespace hybrid
