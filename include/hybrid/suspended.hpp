// SPDX-License-Identifier: Apache-2.0
// Connections a module holds (CONN_STATE_SUSPENDED). httpd 2.4 has no call that gives one back: mod_dialup just sets
// another state from a timed callback, and nobody is told. So whoever ran a callback looks here afterwards (K03).
#pragma once

#include "hybrid/client.hpp"
#include "hybrid/mutex.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace hybrid {

/// Any thread.
class Suspended {
  public:
    /// Takes in a connection in ConnState::Suspended.
    void suspend(ClientPtr client) EXCLUDES(mu_);

    /// A timed callback begins; give the ticket back when it has returned.
    std::uint64_t callback_begins() EXCLUDES(mu_);
    void callback_ended(std::uint64_t ticket) EXCLUDES(mu_);

    /// The connections their module is done with, taken out of the list. A state change is believed only when every
    /// callback that was running when it was first seen has returned: after setting the state it goes on using the
    /// connection (ap_process_request_after_handler in modules/http/http_request.c).
    std::vector<ClientPtr> take_released() EXCLUDES(mu_);

    /// Adds a line for each. Their modules have them, so it says but who they are, and since when.
    void describe(std::vector<std::string> &lines) const EXCLUDES(mu_);

    bool empty() const EXCLUDES(mu_);
    bool callbacks_running() const EXCLUDES(mu_);

  private:
    struct Held {
        Client *client;
        Time since;
        std::uint64_t released_at = 0; // the last ticket given when the release was first seen; 0: not seen
    };

    mutable Mutex mu_;
    std::vector<Held> held_ GUARDED_BY(mu_);
    std::vector<std::uint64_t> running_ GUARDED_BY(mu_); // tickets of callbacks, oldest first
    std::uint64_t last_ticket_ GUARDED_BY(mu_) = 1;
};

} // namespace hybrid
