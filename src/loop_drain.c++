// SPDX-License-Identifier: Apache-2.0
// How a loop ends: accepting stops, clients go one by one, and it says so.
#include "hybrid/loop.hpp"

#include "hybrid/session.hpp"

#include <algorithm>
#include <utility>

namespace hybrid {

void Loop::end()
{
    acceptor_.close(now(), Acceptor::Waiting::AreTaken);
    ended_.store(true);
    slot_.set_quiet(); // the parent may be waiting for that
    scheduler_.finish();
    callbacks_.notify(callbacks_.child);
}

void Loop::part(Duration patience)
{
    const Time t = now();
    parts_at_.store(std::min(parts_at_.load(), later(t, patience)));
    despairs_at_.store(std::min(despairs_at_.load(), later(t, 2 * patience)));
    look_again_for_http2();
}

void Loop::look_again_for_http2()
{
    sheds_http2_.store(true);
    keeper_.wake();
}

void Loop::drain(bool hands_over)
{
    hands_over_.store(hands_over);
    sheds_http2_.store(true);
    slot_.quiesce();
    set_mode(Mode::Drain);
}

void Loop::set_mode(Mode mode)
{
    mode_.store(mode);
    keeper_.wake();
}

void Loop::follow_mode(Time now)
{
    const Mode mode = mode_.load();
    if (mode == Mode::Serve || mode == Mode::Stop) {
        seen_mode_ = mode;
        if (mode == Mode::Serve && parting() && sheds_http2_.exchange(false))
            shed_http2(now);
        return;
    }
    // When that is forced the whole generation ends, and the next one takes what is waiting.
    acceptor_.close(now, mode == Mode::Forced ? Acceptor::Waiting::Stay : Acceptor::Waiting::AreTaken);
    if (seen_mode_ == Mode::Serve)
        keeper_.limit_lingering(kEndLingerTime, now);
    if (std::exchange(seen_mode_, mode) != mode)
        hand_over_at_.store(0);
    const bool due = now >= hand_over_at_.load(); // something has been parked
    if (sheds_http2_.exchange(false))
        shed_http2(now);
    hand_over_all(now);
    if (mode == Mode::Forced) {
        if (due)
            shed_idle();
        if (!std::exchange(shed_silent_, true))
            shed_silent();
    }
}

// The programs that the configuration has started end soon, and requests in work may need them.
void Loop::tell_if_quiet()
{
    const Scheduler::Load load = scheduler_.load();
    if (load.at_work == 0 && load.queued == 0 && slot_.waiting_for_io() == 0 && slot_.set_quiet())
        callbacks_.notify(callbacks_.child);
}

// Every connection has gone. Those that stay suspended with nothing left in this child that could let them go (its
// module failed: ap_die() without the end of the request) must not keep the child for ever (K03).
bool Loop::drained(Time now)
{
    const unsigned open = slot_.connections();
    if (open == 0)
        return true;
    if (open != slot_.suspended() || keeper_.next_timer() != kNever || suspended_.callbacks_running()) {
        orphaned_since_ = kNever;
        return false;
    }
    orphaned_since_ = std::min(orphaned_since_, now);
    if (now < later(orphaned_since_, ap_server_conf->timeout))
        return false;
    ap_log_error(APLOG_MARK, APLOG_WARNING, 0, ap_server_conf,
                 HYBLOGNO(0003) "%u suspended connection(s) that no module lets go: ending without them", open);
    return true;
}

// What is idle, or only now arriving, is about to go in any case.
void Loop::describe(std::vector<std::string> &lines, Time now)
{
    suspended_.describe(lines);
    keeper_.for_each(ConnState::WaitIo, [&](const Kept &kept) {
        lines.push_back(static_cast<const Client &>(kept).session()->describe(now - (kept.expires - kept.length)));
    });
}

// They can't move. Those that have just had a stream are given a pause, those that have had none yet a little longer.
void Loop::shed_http2(Time now)
{
    std::vector<Timed *> parked;
    keeper_.collect(ConnState::KeepAlive, parked);
    keeper_.collect(ConnState::WaitIo, parked);
    for (Timed *item : parked) {
        auto &client = static_cast<Client &>(*item);
        const bool idle = client.state() == ConnState::KeepAlive;
        if (!client.live() || !(idle || client.session()->goodbye().fresh()) || !client.session()->http2())
            continue;
        const bool shed = idle && now - (client.expires - client.length) >= Goodbye::kPause && !client.input_waits();
        static_cast<void>(client.take_sleep());
        ClientPtr taken = take_out(client);
        if (shed)
            begin_close(std::move(taken), ConnEvent::Shed, CloseReason::ChildEnds);
        else
            keeper_.keep_on(*taken.release(), idle ? Goodbye::kPause : Goodbye::kFirstTime, now);
    }
}

} // namespace hybrid
