// SPDX-License-Identifier: Apache-2.0
// How many cores: what control groups say, from files of our own, and the affinity mask.
#include "hybrid/cores.hpp"
#include "tap.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sched.h>

using namespace hybrid;
using namespace tap;

namespace {

void limits()
{
    ok(bandwidth_limit("150000 100000\n") == 1.5, "quota over period");
    ok(bandwidth_limit("max 100000\n") == 0, "max is no limit");
    ok(bandwidth_limit("-1\n 100000\n") == 0, "nor is -1 (version 1)");
    for (const char *junk : {"", "5", "x y", "100000 0", "0 100000"})
        ok(bandwidth_limit(junk) == 0, "not understood is no limit: '%s'", junk);
}

void write(const std::filesystem::path &path, const char *text)
{
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
}

void groups()
{
    char name[] = "/tmp/hybrid-cores-XXXXXX";
    const std::filesystem::path mount = mkdtemp(name);
    write(mount / "a/b/cpu.max", "400000 100000");
    write(mount / "a/cpu.max", "200000 100000");
    write(mount / "one/cpu.cfs_quota_us", "50000\n");
    write(mount / "one/cpu.cfs_period_us", "100000\n");
    ok(bandwidth_limit_of(mount, "/a/b") == 2, "the strictest on the way up counts");
    ok(bandwidth_limit_of(mount, "/a/b/none") == 2, "also from a group that has no file");
    ok(bandwidth_limit_of(mount, "/one") == 0.5, "version 1");
    ok(bandwidth_limit_of(mount, "/") == 0, "none at the root");
    ok(bandwidth_limit_of(mount, "") == 0 && bandwidth_limit_of(mount, "junk") == 0, "no path at all");
    write(mount / "cpu.max", "100000 100000");
    ok(bandwidth_limit_of(mount, "/a/b") == 1, "the root's counts, which is where containers have theirs");
    std::filesystem::remove_all(mount);
}

void affinity()
{
    const int all = usable_cores();
    ok(all >= 1, "there is one core at least");
    cpu_set_t before;
    cpu_set_t one;
    sched_getaffinity(0, sizeof before, &before);
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu)
        if (CPU_ISSET(cpu, &before))
            CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
    is(usable_cores(), 1, "tied to one core, there is one");
    sched_setaffinity(0, sizeof before, &before);
    is(usable_cores(), all, "and then all again");
}

} // namespace

int main()
{
    limits();
    groups();
    affinity();
    return done();
}
