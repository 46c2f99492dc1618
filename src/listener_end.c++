// How a listener ends: accepting stops, connections go one by one, and it says so.
#include "hybrid/listener.hpp"

#include <algorithm>
#include <utility>

namespace hybrid {

namespace {

constexpr Duration kLeastIdle = seconds(1); // who is busy is not shed

} // namespace

void Listener::end()
{
    acceptor_.close(now());
    ended_.store(true);
    scheduler_.finish();
    callbacks_.notify(callbacks_.child);
}

void Listener::part(Duration patience)
{
    const Time t = now();
    parts_at_.store(std::min(parts_at_.load(), later(t, patience)));
    despairs_at_.store(std::min(despairs_at_.load(), later(t, 2 * patience)));
}

void Listener::look_again_for_http2()
{
    sheds_http2_.store(true);
    poller_.wake();
}

void Listener::drain(bool hands_over)
{
    hands_over_.store(hands_over);
    sheds_http2_.store(true);
    slot_.quiesce();
    set_mode(Mode::Drain);
}

void Listener::set_mode(Mode mode)
{
    mode_.store(mode);
    poller_.wake();
}

void Listener::follow_mode(Time now)
{
    const Mode mode = mode_.load();
    if (mode == Mode::Serve || mode == Mode::Stop) {
        seen_mode_ = mode;
        return;
    }
    acceptor_.close(now);
    if (seen_mode_ == Mode::Serve) {
        Lock lock(mu_);
        std::vector<Timed *> lingering;
        while (Timed *item = linger_.pop_expired(kNever))
            lingering.push_back(item);
        for (Timed *item : lingering)
            linger_.add(*item, kEndLingerTime, now);
    }
    if (std::exchange(seen_mode_, mode) != mode)
        hand_over_at_.store(0);
    if (sheds_http2_.exchange(false))
        shed_http2(now);
    hand_over_all(now);
    if (mode == Mode::Hurry) {
        shed_idle();
        if (!std::exchange(shed_silent_, true))
            shed_silent();
    }
}

// Every connection has gone. Those that stay suspended with nothing left in this child that could let them go (its
// module failed: ap_die() without the end of the request) must not keep the child for ever (K03).
bool Listener::drained(Time now)
{
    const unsigned open = slot_.connections();
    if (open == 0)
        return true;
    Time next_timer;
    {
        Lock lock(mu_);
        next_timer = timers_.next();
    }
    if (open != slot_.suspended() || next_timer != kNever || suspended_.callbacks_running()) {
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
void Listener::describe(std::vector<std::string> &lines, Time now)
{
    suspended_.describe(lines);
    std::vector<Timed *> waiting;
    Lock lock(mu_);
    io_.collect(waiting);
    for (const Timed *item : waiting)
        lines.push_back(static_cast<const Connection *>(item)->describe(now - (item->expires - item->length)));
}

// They can't move. Those that have just had a stream are given a pause, those that have had none yet a little longer.
void Listener::shed_http2(Time now)
{
    std::vector<Timed *> parked;
    {
        Lock lock(mu_);
        idle_.collect(parked);
        io_.collect(parked);
    }
    for (Timed *item : parked) {
        auto &connection = static_cast<Connection &>(*item);
        const bool idle = connection.state() == ConnState::KeepAlive;
        if (!connection.opened() || !(idle || connection.goodbye().fresh()) || !connection.http2())
            continue;
        const bool shed =
            idle && now - (connection.expires - connection.length) >= Goodbye::kPause && !connection.input_waits();
        static_cast<void>(connection.take_rest());
        {
            Lock lock(mu_);
            Deadlines &deadlines = deadlines_of(connection.state());
            deadlines.remove(connection);
            if (!shed)
                deadlines.add(connection, idle ? Goodbye::kPause : Goodbye::kFirstTime, now);
        }
        if (shed)
            begin_close(connection, ConnEvent::Shed);
    }
}

// Those that other children will take stay for that.
void Listener::shed_idle()
{
    std::vector<Timed *> idle;
    {
        Lock lock(mu_);
        idle_.collect(idle);
    }
    for (Timed *item : idle) {
        auto &connection = static_cast<Connection &>(*item);
        if ((hands_over() && !connection.opened()) || connection.input_waits())
            continue;
        {
            Lock lock(mu_);
            idle_.remove(connection);
        }
        begin_close(connection, ConnEvent::Shed);
    }
}

// Idle ones, who is next to go in any case first; then those that have connected without a word. What has a worker, or
// says something, or did so just now, goes on.
void Listener::shed_oldest(int count)
{
    std::vector<Timed *> candidates;
    {
        Lock lock(mu_);
        std::vector<Timed *> silent;
        idle_.collect(candidates);
        arriving_.collect(silent);
        for (std::vector<Timed *> *list : {&candidates, &silent})
            std::ranges::sort(*list, {}, [](const Timed *item) { return item->expires; });
        candidates.insert(candidates.end(), silent.begin(), silent.end());
    }
    for (auto item = candidates.begin(); item != candidates.end() && count > 0; ++item) {
        auto &connection = static_cast<Connection &>(**item);
        const bool asleep = connection.state() == ConnState::KeepAlive && !connection.opened();
        if ((!asleep && now() - (connection.expires - connection.length) < kLeastIdle) || connection.holds_part() ||
            connection.input_waits())
            continue;
        {
            Lock lock(mu_);
            deadlines_of(connection.state()).remove(connection);
        }
        if (connection.movable(dormancy_))
            drop(ConnectionPtr(&connection)); // no goodbye, no lingering
        else if (connection.state() == ConnState::KeepAlive)
            begin_close(connection, ConnEvent::Shed);
        else
            give_up_arriving(connection);
        --count;
    }
}

// Those that have not said a word can go, too.
void Listener::shed_silent()
{
    if (hands_over())
        return;
    std::vector<Timed *> arriving;
    {
        Lock lock(mu_);
        arriving_.collect(arriving);
    }
    for (Timed *item : arriving) {
        auto &connection = static_cast<Connection &>(*item);
        if (connection.opened() || connection.input_waits())
            continue;
        {
            Lock lock(mu_);
            arriving_.remove(connection);
        }
        connection.transit(ConnEvent::Shed);
        drop(ConnectionPtr(&connection));
    }
}

} // namespace hybrid
