# SPDX-License-Identifier: Apache-2.0
package Hybrid::Wait;

# Waiting for conditions, never for time: wait_for polls until the condition holds or the limit is reached.

use strict;
use warnings;
use Exporter 'import';
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC usleep);

our @EXPORT = qw(wait_for monotonic);

# Seconds on a clock that is never set.
sub monotonic { clock_gettime(CLOCK_MONOTONIC) }

# wait_for(sub { condition }, $limit_in_seconds): what the condition returned when it became true; its last, false
# value when it did not in time. The limit is generous: it is reached only when the test fails anyway.
sub wait_for {
    my ($condition, $limit) = @_;
    $limit //= 10;
    my $end = monotonic() + $limit;
    while (1) {
        my $value = $condition->();
        return $value if $value || monotonic() >= $end;
        usleep(10_000);
    }
}

1;
