// SPDX-License-Identifier: Apache-2.0
// One worker's visit to one connection: hooks, flush, then idle, wait or close. What the modules left in c->cs and
// returned becomes one event for the connection's state (server/mpm/event/event.c, process_socket()).
#pragma once

#include "hybrid/session.hpp"
#include "hybrid/verdict.hpp"
#include "hybrid/workers.hpp"

namespace hybrid {

/// Worker threads. Lasts for one visit.
class Turn {
  public:
    /// The Runnable::Run of connections.
    static void run(Runnable &client, Worker &worker) noexcept;

  private:
    Turn(ClientPtr client, Worker &worker) : client_(std::move(client)), worker_(worker) {}

    void go();
    bool begin();
    void process();
    bool probe_request();
    Answered write_answer(int requests);
    void carry_out(Verdict verdict, const Answered &after);
    void await_request();
    int run_hooks();
    bool complete_write();
    void park(Interest what, Duration length);
    Duration wait_time();
    void wait_for_io();
    void wait_to_write();
    void go_idle();
    void yield();
    void suspend();
    void close(CloseReason reason);
    CloseReason why_broken(CloseReason otherwise);
    CloseReason why_answered(CloseReason otherwise);
    void shut_down();
    void status(int status);

    Session &session() { return *client_->session(); }
    Arriving &arriving() { return client_->arriving(); }
    conn_rec &record() { return *session().record(); }
    conn_state_t &mailbox() { return session().mailbox(); }

    ClientPtr client_;
    Worker &worker_;
    bool parting_ = true; // was known when it was decided how long it is parked
};

} // namespace hybrid
