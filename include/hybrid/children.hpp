// SPDX-License-Identifier: Apache-2.0
// The children as the parent knows them: forked, counted, told to end, gone. Their slots in the scoreboard are the
// truth; what is kept besides is in Retained.
#pragma once

#include "hybrid/child.hpp"
#include "hybrid/config.hpp"
#include "hybrid/retained.hpp"

#include <vector>

namespace hybrid {

/// The parent's only thread.
class Children {
  public:
    Children(const Config &config, Retained &retained, apr_pool_t *pconf)
        : config_(config), retained_(retained), pconf_(pconf)
    {
    }

    /// The listening sockets of each bucket; slot i serves bucket i % buckets.
    void set_buckets(ap_listen_rec **records, int buckets);

    /// Starts `wanted` children in free slots. In one-process mode it does not return.
    void start(int wanted);
    /// How many start() could not start for want of a slot.
    int still_to_start() const { return to_start_; }
    void want_one_more() { ++to_start_; }
    /// The slot has become free: uses it for one that is still to start, if any.
    void replace(int slot);
    /// The child in this slot could not start for want of something. So would the next, and those that call for help
    /// would have one made at each call.
    void go_slowly(int slot);

    /// Maps the memory that all children share, unless that has been done.
    void share();
    /// Makes the descriptors that all children of all generations have in common, once the parent has detached from the
    /// terminal, which is a fork, too. Without the one that wait_for_call() needs it fails: errno, else 0.
    [[nodiscard]] int open();
    /// To be called in every process that this one or a child of ours has just forked. Unless it is a child of ours it
    /// loses the descriptors that open() made: over the channel it could take clients. Modules fork their daemons
    /// without exec, and these run as other users (mod_wsgi, mod_cgid). Async-signal-safe.
    static void disown(Retained &retained);
    /// Sleeps for `length`, or until a signal comes or a child calls for help: it has no more workers for its clients,
    /// or ends. Takes in other news meanwhile.
    void wait_for_call(Duration length);
    /// Looks how many workers are idle and starts or retires children accordingly (P01-P08).
    void maintain();
    /// Some child is or was fully up.
    bool had_healthy_one();
    /// A child of this generation serves.
    bool anybody_up();
    /// Those of the former generation serve, because none of this one is up yet.
    bool former_serve() const;

    /// The child there is of the running generation, and not ending.
    bool serves(int slot);
    /// A child has been reaped. `slot` is kNoSlot for one that has none any more.
    void on_gone(int slot, pid_t pid, ap_generation_t generation);

    /// Tells all children, or those of former generations, to end gracefully. AP_SIG_GRACEFUL: others take their
    /// clients over, AP_SIG_GRACEFUL_STOP: there are none.
    void retire_all(int signal);
    /// Those of former generations, as soon as one of this generation is up.
    void replace_former();
    /// To those that are ending: close idle connections, too.
    void force_quiescing();
    /// Until no child that has been told to end has a request in work, or has had none for a moment; for `most` at
    /// most. Their new requests go elsewhere, or wait.
    void wait_until_quiet(Duration most);
    bool any_left();
    /// From now on answers say "Connection: close".
    void say_goodbye();

    /// This process has no other children than these: no piped logs, RewriteMap programs or modules' daemons. False
    /// when that can't be known.
    bool only_our_processes() const;

    /// The child that lives in this process: after fork(), or in one-process mode. nullptr in a real parent.
    Child *here() const { return here_; }

  private:
    bool on_news();
    void clear(int slot);
    void ask_for_slots(int wanted);
    bool take_slots();
    static bool without_slot(pid_t pid);
    void retire_former();
    int bucket_count() const { return retained_.mpm->num_buckets; }
    bool make(int slot);
    int free_number(int slot);
    void give_number_back(pid_t pid);
    void leave_one_process();
    void note_started(int slot, int number, pid_t pid);
    void uncount_quiescing(int slot);
    SlotView look_at(int slot);
    std::vector<SlotView> look_at_all();
    void carry_out(const StaffingPlan &plan, const StaffingMemory &memory);
    void say(const StaffingPlan &plan, const StaffingMemory &memory);
    void retire(int slot, int signal = AP_SIG_GRACEFUL);

    const Config &config_;
    Retained &retained_;
    apr_pool_t *const pconf_;
    std::vector<ap_listen_rec *> buckets_;
    Child *here_ = nullptr;
    bool had_healthy_child_ = false;
    bool former_serves_ = false;
    bool goodbye_ = false;
    int to_start_ = 0;
    Time heeds_again_at_ = 0; // children that call for help
};

} // namespace hybrid
