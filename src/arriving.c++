// SPDX-License-Identifier: Apache-2.0
#include "hybrid/arriving.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace hybrid {

namespace {

constexpr std::size_t kUsualHead = 4 * 1024;

} // namespace

void Arriving::enter(bool tls)
{
    if (expects_ != Expects::Record && !tls)
        return;
    expects_ = inside_;
    checked_ = false;
    if (tls)
        begins_ = 0;
    encrypted_ = shakes_hands_ = tls;
}

Progress Arriving::probe(const RequestLimits &limits, Acquaintance acquaintance)
{
    return note(probe_kernel(limits, acquaintance));
}

Progress Arriving::probe_read(std::string_view bytes, const RequestLimits &limits)
{
    std::size_t wanted = 0;
    const Progress progress = bytes.empty() ? Progress::Nothing : judge(bytes, limits, Carrier::Socket, wanted);
    if (progress == Progress::Complete || progress == Progress::Nothing)
        return progress;
    part_.copy.reset(new (std::nothrow) char[bytes.size()]);
    if (!part_.copy) {
        forget();
        return Progress::Complete;
    }
    std::memcpy(part_.copy.get(), bytes.data(), bytes.size());
    part_.read = bytes.size();
    return note(progress);
}

Progress Arriving::probe_decrypted(std::string_view bytes, const RequestLimits &limits)
{
    std::size_t wanted = 0;
    return note(bytes.empty() ? Progress::Nothing : judge(bytes, limits, Carrier::Tls, wanted));
}

Progress Arriving::probe_handshake(bool done)
{
    if (!done)
        return note(Progress::Partial);
    shakes_hands_ = false;
    begins_ = 0; // now for the head
    return Progress::Nothing;
}

// The body has its own time.
Progress Arriving::note(Progress progress)
{
    if (progress == Progress::Head && !in_body_) {
        in_body_ = true;
        begins_ = now();
    } else if (progress == Progress::Partial && begins_ == 0) {
        begins_ = now();
    }
    return progress;
}

Progress Arriving::judge(std::string_view bytes, const RequestLimits &limits, Carrier carrier, std::size_t &wanted)
{
    Arrival arrival =
        expects_ == Expects::Record ? look_at_record(bytes, limits) : look_at_request(bytes, limits, carrier);
    if (arrival.state == Arrival::State::Body && expects_ == Expects::Head)
        arrival.state = Arrival::State::Whole;
    if (arrival.state == Arrival::State::Whole)
        return Progress::Complete;
    part_.bytes = part_.seen = bytes.size();
    part_.head = arrival.head;
    wanted = arrival.wanted;
    return arrival.state == Arrival::State::Body ? Progress::Head : Progress::Partial;
}

// The kernel reports again when there are as many bytes as are wanted, or when the client has ended, or its receive
// buffer is full: then there are fewer, and nothing is left to wait for.
Progress Arriving::weigh(std::string_view bytes, const RequestLimits &limits, Acquaintance acquaintance)
{
    if (bytes.size() - part_.read < static_cast<std::size_t>(awaited_))
        return Progress::Complete;
    // Clients speak TLS where Listen has not said so, too; not one that has had an answer.
    if (acquaintance == Acquaintance::None && !may_begin_request(bytes.front()) &&
        look_at_record(bytes, limits).state == Arrival::State::Whole) {
        expects_ = Expects::Record; // and there has been no look at anything else
        return Progress::Complete;
    }
    std::size_t wanted = 0;
    const Progress progress = judge(bytes, limits, Carrier::Socket, wanted);
    if (progress == Progress::Complete || await(wanted - part_.read))
        return progress;
    forget();
    return Progress::Complete;
}

Progress Arriving::probe_kernel(const RequestLimits &limits, Acquaintance acquaintance)
{
    const auto peek = [this](char *to, std::size_t most) { return recv(fd_, to, most, MSG_PEEK | MSG_DONTWAIT); };
    const auto without = [acquaintance](ssize_t count) {
        if (count < 0 && (errno == EAGAIN || errno == EINTR))
            return Progress::Nothing;
        return acquaintance == Acquaintance::Present ? Progress::Complete : Progress::Closed;
    };
    if (part_.read == 0 && awaited_ < static_cast<int>(kUsualHead)) {
        char few[kUsualHead];
        const ssize_t count = peek(few, sizeof few);
        if (count <= 0)
            return without(count);
        if (count < static_cast<ssize_t>(sizeof few))
            return weigh({few, static_cast<std::size_t>(count)}, limits, acquaintance);
    }
    const std::unique_ptr<char[]> many(new (std::nothrow) char[limits.most]);
    if (!many)
        return Progress::Complete;
    std::copy_n(part_.copy.get(), part_.read, many.get());
    const ssize_t count = peek(many.get() + part_.read, limits.most - part_.read);
    if (count <= 0)
        return without(count);
    return weigh({many.get(), part_.read + static_cast<std::size_t>(count)}, limits, acquaintance);
}

void Arriving::forget()
{
    part_ = {};
    await(1);
}

// SO_RCVLOWAT. False: the system has refused it, and the kernel would report again and again. If it refuses to have it
// reset, httpd would wait for bytes that may never come: then the client has said all that counts.
bool Arriving::await(std::size_t bytes)
{
    const int count = static_cast<int>(bytes);
    if (std::exchange(awaited_, count) == count || setsockopt(fd_, SOL_SOCKET, SO_RCVLOWAT, &count, sizeof count) == 0)
        return true;
    awaited_ = 1;
    if (count == 1)
        shutdown(fd_, SHUT_RD);
    return false;
}

void Arriving::count_unread()
{
    int unread = 0;
    if (shakes_hands_ || ioctl(fd_, FIONREAD, &unread) != 0)
        return;
    const std::size_t read = encrypted_ ? part_.seen : part_.read;
    part_.bytes = std::max(part_.bytes, read + static_cast<std::size_t>(unread));
}

// The next request has its own time.
void Arriving::set_checked(bool checked)
{
    checked_ = checked;
    if (checked && !timed_out_) {
        begins_ = 0;
        in_body_ = false;
    }
}

void Arriving::resume(Time begins, bool in_body, bool lowat)
{
    begins_ = begins;
    in_body_ = in_body;
    if (lowat) {
        awaited_ = 0;
        await(1);
    }
}

} // namespace hybrid
