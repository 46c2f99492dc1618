// SPDX-License-Identifier: Apache-2.0
#include "hybrid/suspended.hpp"

#include "hybrid/session.hpp"

#include <algorithm>

namespace hybrid {

void Suspended::suspend(ClientPtr client)
{
    Lock lock(mu_);
    held_.push_back({client.release(), now()});
}

std::uint64_t Suspended::callback_begins()
{
    Lock lock(mu_);
    running_.push_back(++last_ticket_);
    return last_ticket_;
}

void Suspended::callback_ended(std::uint64_t ticket)
{
    Lock lock(mu_);
    running_.erase(std::find(running_.begin(), running_.end(), ticket));
}

std::vector<ClientPtr> Suspended::take_released()
{
    std::vector<ClientPtr> released;
    Lock lock(mu_);
    for (std::size_t i = 0; i < held_.size();) {
        Held &held = held_[i];
        // The module writes this without a lock, as it does for mpm_event.
        const int state = __atomic_load_n(&held.client->session()->mailbox().state, __ATOMIC_ACQUIRE);
        if (state != CONN_STATE_SUSPENDED && !held.released_at)
            held.released_at = last_ticket_;
        if (!held.released_at || (!running_.empty() && running_.front() <= held.released_at)) {
            ++i;
            continue;
        }
        released.emplace_back(held.client);
        held_.erase(held_.begin() + i);
    }
    return released;
}

void Suspended::describe(std::vector<std::string> &lines) const
{
    const Time t = now();
    Lock lock(mu_);
    for (const Held &held : held_)
        lines.push_back(held.client->describe("", "", t - held.since));
}

bool Suspended::empty() const
{
    Lock lock(mu_);
    return held_.empty();
}

bool Suspended::callbacks_running() const
{
    Lock lock(mu_);
    return !running_.empty();
}

} // namespace hybrid
