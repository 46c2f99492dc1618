// SPDX-License-Identifier: Apache-2.0
// A client's next request as far as it is here. Its bytes are looked at where they are, in the kernel or in httpd's
// filters, and stay there.
#pragma once

#include "hybrid/arrival.hpp"
#include "hybrid/clock.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

namespace hybrid {

/// What is looked for in a client's first bytes.
enum class Expects : std::uint8_t {
    Nothing, ///< its module may want to speak first, or knows better
    Head,    ///< a head of HTTP/1
    Request, ///< the same, and its body as far as it fits
    Record,  ///< TLS: its first record, and then what is inside
};
constexpr unsigned kExpectsKinds = static_cast<unsigned>(Expects::Record) + 1;

/// How much of a request is here.
enum class Progress : std::uint8_t {
    Nothing,  ///< no byte of it
    Partial,  ///< some bytes
    Head,     ///< the head; of a body more is awaited
    Complete, ///< all of it, or something that httpd must see
    Closed,   ///< the client has gone without a word
};

/// The client's owner calls this.
class Arriving {
  public:
    /// How much httpd knows of the client.
    enum class Acquaintance : std::uint8_t {
        None,    ///< it is new
        Former,  ///< it has had answers, and its session was released since
        Present, ///< it has a session: httpd has to hear of its end
    };

    /// `inside` is what is expected when a session has been made for what is expected at first.
    Arriving(int fd, Expects expects, Expects inside) : fd_(fd), expects_(expects), inside_(inside) {}

    Expects expects() const { return expects_; }
    Expects inside() const { return inside_; }
    /// From now on whatever comes is for httpd at once.
    void expect_nothing()
    {
        expects_ = Expects::Nothing;
        encrypted_ = false;
    }
    /// There is a session now: what follows the first record is inside TLS. The record, or nothing, has been looked at.
    void enter(bool tls);

    /// Looks at the bytes in the kernel, which stay there. Until it is Complete or Closed, call it again only when the
    /// socket is reported readable: that is when enough has come for another answer.
    Progress probe(const RequestLimits &limits, Acquaintance acquaintance);
    /// The same for bytes that have been read: by core's input filter, which has them still, so that a copy is kept and
    /// probe() finds the rest; and by the TLS filter, which keeps what it has. Requires: forget() came before.
    Progress probe_read(std::string_view bytes, const RequestLimits &limits);
    Progress probe_decrypted(std::string_view bytes, const RequestLimits &limits);
    /// The handshake of TLS goes on, and has its own time; or is over.
    Progress probe_handshake(bool done);
    bool shakes_hands() const { return shakes_hands_; }
    /// What is in the kernel says nothing: only a worker can tell how much of a request is here.
    bool encrypted() const { return encrypted_; }

    /// Some bytes of a request are here, but not all.
    bool holds_part() const { return part_.bytes > 0; }
    /// Nothing of a request has been looked at, and the socket is reported readable for any byte.
    bool at_rest() const { return awaited_ == 1 && !holds_part(); }
    /// Whatever was looked at counts no more: a worker is about to read it.
    void forget();

    /// Since when the client may take the time that a request has: since the request, or the connection, began, or
    /// since its head was here. 0: not yet.
    Time begins() const { return begins_; }
    void begin(Time begins) { begins_ = begins; }
    /// The head is here: the time is the body's.
    bool in_body() const { return in_body_; }
    /// So many bytes of the head, or of the body, have come so far.
    std::size_t received() const { return part_.bytes - (in_body_ ? part_.head : 0); }
    /// Counts what has come since the last look, without looking at it.
    void count_unread();

    /// It need not be looked at before httpd reads: that has been done, or would tell nothing.
    bool checked() const { return checked_ || expects_ == Expects::Nothing; }
    void set_checked(bool checked);

    /// Its time is over: reads don't wait any more, what is not here by now is late (408).
    void set_timed_out() { timed_out_ = true; }
    bool timed_out() const { return timed_out_; }

    /// In another child. `lowat`: SO_RCVLOWAT may have been left set, see sets_lowat().
    void resume(Time begins, bool in_body, bool lowat);
    bool sets_lowat() const { return awaited_ != 1; }

  private:
    Progress judge(std::string_view bytes, const RequestLimits &limits, Carrier carrier, std::size_t &wanted);
    Progress note(Progress progress);
    Progress probe_kernel(const RequestLimits &limits, Acquaintance acquaintance);
    Progress weigh(std::string_view bytes, const RequestLimits &limits, Acquaintance acquaintance);
    bool await(std::size_t bytes);

    const int fd_;
    Expects expects_;
    Expects inside_;
    bool checked_ = false;
    bool encrypted_ = false;
    bool shakes_hands_ = false;
    bool timed_out_ = false;
    bool in_body_ = false;
    int awaited_ = 1; // SO_RCVLOWAT: bytes in the kernel before it reports the socket readable
    struct Part {
        std::size_t bytes = 0;        // so many are here, as far as that is known
        std::size_t seen = 0;         // so many were at the last look
        std::size_t head = 0;         // of these, the head's, when that is whole
        std::size_t read = 0;         // of these, in core's input filter, which has them from the kernel
        std::unique_ptr<char[]> copy; // of these
    };
    Part part_;
    Time begins_ = 0;
};

} // namespace hybrid
