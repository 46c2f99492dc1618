// SPDX-License-Identifier: Apache-2.0
// How many cores may this process use?
#pragma once

#include <string>

namespace hybrid {

/// What the scheduler's affinity mask and the control group's CPU bandwidth allow, rounded up; 1 at least. Reads files:
/// parent, while the configuration is read.
int usable_cores();

/// The bandwidth limit of a control group in cores, as cpu.max (version 2) says it, "QUOTA PERIOD" in microseconds;
/// 0: none, or not understood.
double bandwidth_limit(const std::string &cpu_max);

/// The strictest such limit of the groups from `group` (a path that begins with /) up to the root, under `mount`.
double bandwidth_limit_of(const std::string &mount, std::string group);

} // namespace hybrid
