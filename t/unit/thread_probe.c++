// SPDX-License-Identifier: Apache-2.0
// Real threads, looked at while they wait, compute, and have ended.
#include "hybrid/thread_probe.hpp"
#include "hybrid/mutex.hpp"
#include "tap.hpp"

#include <atomic>
#include <thread>

using namespace hybrid;
using namespace tap;

int main()
{
    ThreadProbe probe;
    std::atomic<int> phase = 0; // 0: waits, 1: computes, 2: ends
    Mutex mu;
    Condition go;
    std::atomic<bool> there = false;
    std::thread thread([&] {
        probe.look_at_me();
        there = true;
        {
            Lock lock(mu);
            while (phase == 0)
                go.wait(mu);
        }
        while (phase == 1) {
        }
    });
    must([&] { return there.load(); }, "the thread runs");
    ok(eventually([&] { return probe.state() == ThreadState::Blocked; }), "who waits is blocked");
    const Duration before = probe.cpu_time();
    {
        Lock lock(mu);
        phase = 1;
        go.wake_one();
    }
    ok(eventually([&] { return probe.state() == ThreadState::Runnable; }), "who computes is runnable");
    ok(eventually([&] { return probe.cpu_time() > before + milliseconds(2); }), "and uses CPU time");
    phase = 2;
    thread.join();
    ok(eventually([&] { return probe.state() == ThreadState::Unknown; }),
       "nothing is known of a thread that has ended");
    is(probe.cpu_time(), 0, "nor its CPU time");
    return done();
}
