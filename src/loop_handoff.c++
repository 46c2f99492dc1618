// SPDX-License-Identifier: Apache-2.0
// How connections that nobody works on leave for another child, and what is done with those that come from one.
#include "hybrid/loop.hpp"

#include "hybrid/session.hpp"

#include <algorithm>
#include <utility>

namespace hybrid {

namespace {

constexpr int kParcelsAtOnce = 64;                     // then the others should take some
constexpr Duration kPace = milliseconds(2);            // for that
constexpr Duration kRetryAfterFull = milliseconds(20); // when the channel is full
constexpr Duration kNobody = milliseconds(10);         // when nobody else serves
constexpr Duration kWaitingPause = milliseconds(5);    // until the workers elsewhere are looked at again
constexpr Duration kCostShare = 50; // of the time it takes to look, as a pause: 2 % of a core at most
constexpr Duration kLongestPause = milliseconds(100);
constexpr Duration kPerRequest = milliseconds(2);  // and for each they got, which they may not show yet
constexpr Duration kQuietTime = seconds(60);       // between two messages about requests that are refused
constexpr Duration kLookPeriod = milliseconds(10); // at who else serves

} // namespace

// When the drain is forced nobody need serve yet: the next generation is about to come.
bool Loop::may_hand_over(Time now)
{
    if (!hands_over())
        return false;
    if (seen_mode_ == Mode::Forced)
        return true;
    if (now >= looked_elsewhere_at_ + kLookPeriod) {
        looked_elsewhere_at_ = now;
        elsewhere_ = slot_.others_serve();
    }
    return elsewhere_;
}

// The poller must have forgotten it before it travels, or its events would go on coming here. True: it has gone.
bool Loop::send(const Parcel &parcel, ClientPtr &client)
{
    keeper_.forget(*client);
    if (channel_.send(parcel, client->fd()) != 0)
        return false;
    client->end(ConnEvent::Sent, CloseReason::Moved);
    client.reset();
    return true;
}

bool Loop::hand_over(ClientPtr &client)
{
    return send(client->parcel(), client);
}

// What the channel refuses stays what it was, unless it can't be polled any more.
Loop::Handed Loop::hand_over_kept(Client &parked)
{
    const Parcel parcel = parked.parcel();
    const Duration length = parked.length;
    ClientPtr client = take_out(parked);
    if (send(parcel, client))
        return Handed::Over;
    static_cast<void>(client->take_sleep());
    const bool kept = parcel.expires == kNever ? park(std::move(client), Interest::Readable, length)
                                               : keep_until(std::move(client), parcel.expires);
    return kept ? Handed::Back : Handed::Closed;
}

// It has been idle for a part of its time already.
bool Loop::keep_until(ClientPtr client, Time until)
{
    return park(std::move(client), Interest::Readable, std::max<Duration>(until - now(), 0), Deadlines::Length::Odd);
}

// Something has run out that connections take: so many idle ones have to go, to children that have room, or for good.
void Loop::make_room(int count)
{
    const int room = std::min<long>(count, acceptor_.room_elsewhere());
    std::vector<Timed *> idle;
    if (room > 0)
        keeper_.collect(ConnState::KeepAlive, idle);
    int sent = 0;
    for (auto item = idle.begin(); item != idle.end() && sent < room; ++item) {
        auto &parked = static_cast<Client &>(**item);
        if (!Session::make_movable(parked, dormancy_))
            continue;
        if (hand_over_kept(parked) != Handed::Over)
            break;
        ++sent;
    }
    if (sent < count)
        shed_oldest(count - sent);
}

bool Loop::between_requests(void *self, Runnable &work)
{
    return work.run == static_cast<Loop *>(self)->callbacks_.turn && static_cast<Client &>(work).between_requests();
}

// Of those that wait for a worker, who has waited longest first; until `most` are gone, or the channel refuses one.
// What can't move waits on.
int Loop::hand_over_queued(int most)
{
    std::vector<ClientPtr> stay;
    int sent = 0;
    while (sent < most) {
        Runnable *work = scheduler_.pull(Scheduler::End::First, between_requests, this);
        if (!work)
            break;
        ClientPtr client = owner_of(*work);
        const bool movable = Session::make_movable(*client, dormancy_);
        if (movable && hand_over(client)) {
            ++sent;
            continue;
        }
        stay.push_back(std::move(client));
        if (movable)
            break;
    }
    for (ClientPtr &client : stay)
        push(std::move(client));
    return sent;
}

// A few at a time: so many fit into the channel, and a user may have only so many descriptors under way.
void Loop::hand_over_all(Time now)
{
    if (now < hand_over_at_.load())
        return;
    hand_over_at_.store(kNever);
    std::vector<Timed *> parked;
    if (hands_over()) {
        keeper_.collect_unseen(ConnState::KeepAlive, parked);
        keeper_.collect_unseen(ConnState::Arriving, parked);
    }
    if (parked.empty() && !scheduler_.others_wait())
        return;
    if (!may_hand_over(now))
        return hand_over_at_.store(later(now, kNobody));
    int sent = hand_over_queued(kParcelsAtOnce);
    for (Timed *item : parked) {
        auto &client = static_cast<Client &>(*item);
        if (!Session::make_movable(client, dormancy_)) {
            keeper_.set_seen(client); // and so are all before it: they need not be looked at again
            continue;
        }
        if (hand_over_kept(client) != Handed::Over)
            return hand_over_at_.store(later(now, kRetryAfterFull));
        if (++sent >= kParcelsAtOnce)
            return hand_over_at_.store(later(now, kPace));
    }
}

// Those that wait for a worker here go to idle ones elsewhere, who has waited longest first. True: there are none.
bool Loop::hand_over_waiting(Time now)
{
    if (!channel_ || now < hand_over_waiting_at_ || !scheduler_.others_wait())
        return false;
    const Time begin = hybrid::now();
    const int idle = slot_.idle_elsewhere(static_cast<int>(scheduler_.load().queued));
    const Duration cost = hybrid::now() - begin;
    const int sent = hand_over_queued(idle);
    hand_over_waiting_at_ =
        now + std::max({kWaitingPause, sent * kPerRequest, std::min(cost * kCostShare, kLongestPause)});
    return idle == 0;
}

// Who came last would wait longest.
void Loop::reject_waiting(Time now)
{
    if (most_waiting_ == 0)
        return;
    while (scheduler_.load().queued > most_waiting_ && callbacks_.can_reject(callbacks_.child)) {
        Runnable *work = scheduler_.pull(Scheduler::End::Last, between_requests, this);
        if (!work)
            return;
        if (now >= refusal_told_at_ + kQuietTime || refusal_told_at_ == 0) {
            refusal_told_at_ = now;
            ap_log_error(APLOG_MARK, APLOG_WARNING, 0, ap_server_conf,
                         HYBLOGNO(0015) "%d requests wait for a worker: others get 503 (MaxWaitingRequests)",
                         static_cast<int>(most_waiting_));
        }
        callbacks_.reject(callbacks_.child, *work);
    }
}

// Dormant, and parked nowhere. What has come meanwhile counts first; else it is as idle as it was.
void Loop::park_adopted(ClientPtr client)
{
    switch (client->probe(limits_)) {
    case Progress::Complete:
        client->arriving().set_checked(true);
        return make_runnable(std::move(client), ConnEvent::IoReady);
    case Progress::Closed:
        return close(std::move(client), ConnEvent::PeerGone, CloseReason::ClientClosed);
    case Progress::Nothing: {
        const Time until = client->idle_until();
        const Duration length = client->keep_alive_timeout();
        if (until == kNever)
            park(std::move(client), Interest::Readable, length);
        else
            keep_until(std::move(client), until);
        return;
    }
    default:
        client->transit(ConnEvent::Begun);
        keep_arriving(std::move(client));
    }
}

} // namespace hybrid
