// SPDX-License-Identifier: Apache-2.0
#include "hybrid/cores.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <sched.h>
#include <sstream>
#include <unistd.h>

namespace hybrid {

namespace {

constexpr const char *kMount = "/sys/fs/cgroup";

std::string contents(const std::string &path)
{
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

int in_affinity_mask()
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
    return static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)); // more of them than a cpu_set_t has bits
}

void take_stricter(double &limit, double other)
{
    if (other > 0 && (limit == 0 || other < limit))
        limit = other;
}

} // namespace

double bandwidth_limit(const std::string &cpu_max)
{
    std::istringstream in(cpu_max);
    double quota = 0;
    double period = 0;
    return in >> quota >> period && quota > 0 && period > 0 ? quota / period : 0; // "max" is no number
}

double bandwidth_limit_of(const std::string &mount, std::string group)
{
    double limit = 0;
    while (group.starts_with('/')) {
        const std::string folder = mount + group + '/';
        take_stricter(limit, bandwidth_limit(contents(folder + "cpu.max")));
        // version 1 has the same in two files
        take_stricter(limit, bandwidth_limit(contents(folder + "cpu.cfs_quota_us") + ' ' +
                                             contents(folder + "cpu.cfs_period_us")));
        group.erase(group.rfind('/') == 0 && group.size() > 1 ? 1 : group.rfind('/'));
    }
    return limit;
}

// /proc/self/cgroup has "0::/path" for version 2 and "4:cpu,cpuacct:/path" for version 1 (cgroups(7)). In a container
// the path may be the host's, and only the mount's top is there.
int usable_cores()
{
    double limit = 0;
    std::istringstream lines(contents("/proc/self/cgroup"));
    for (std::string line; std::getline(lines, line);) {
        const std::size_t first = line.find(':');
        const std::size_t second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos)
            continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const std::string group = line.substr(second + 1);
        if (controllers.empty())
            take_stricter(limit, bandwidth_limit_of(kMount, group));
        else if ((',' + controllers + ',').find(",cpu,") != std::string::npos)
            take_stricter(limit, bandwidth_limit_of(kMount + ('/' + controllers), group));
    }
    const int cores = std::max(1, in_affinity_mask());
    return limit > 0 ? std::clamp(static_cast<int>(std::ceil(limit)), 1, cores) : cores;
}

} // namespace hybrid
