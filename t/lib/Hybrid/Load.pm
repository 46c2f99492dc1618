# SPDX-License-Identifier: Apache-2.0
package Hybrid::Load;

# Real load generators, bounded in time and count, and what they said as numbers.

use strict;
use warnings;
use Exporter 'import';

our @EXPORT_OK = qw(wrk wrk_result h2load run_command start_command);

# Runs a command with a hard limit in seconds: everything it printed.
sub run_command {
    my ($limit, @command) = @_;
    open my $out, '-|', 'timeout', '-k', '2', $limit, 'sh', '-c', 'exec 2>&1; exec "$@"', 'sh', @command
        or die "@command: $!";
    local $/;
    my $text = <$out> // '';
    close $out;
    return $text;
}

# Starts it in the background; the function it returns waits for the end and gives what was printed. With an argument
# that is true it ends the command.
sub start_command {
    my ($limit, @command) = @_;
    my $pid = open my $out, '-|', 'timeout', '-k', '2', $limit, 'sh', '-c', 'exec 2>&1; exec "$@"', 'sh', @command;
    die "@command: $!" if !$pid;
    return sub {
        kill 'TERM', $pid if $_[0];
        local $/;
        my $text = <$out> // '';
        close $out;
        return $text;
    };
}

# { requests, errors (socket errors and timeouts), bad (answers that are not 2xx or 3xx), rate, text }
sub wrk_result {
    my ($text) = @_;
    my ($requests) = $text =~ /(\d+) requests in/;
    my $errors = 0;
    $errors += $_ for $text =~ /Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)/;
    my ($bad) = $text =~ /Non-2xx or 3xx responses: (\d+)/;
    my ($rate) = $text =~ m{Requests/sec:\s+([\d.]+)};
    return { requests => $requests // 0, errors => $errors, bad => $bad // 0, rate => $rate // 0, text => $text };
}

# wrk($connections, $seconds, $url, more arguments)
sub wrk {
    my ($connections, $seconds, $url, @more) = @_;
    return wrk_result(run_command($seconds + 15, qw(wrk -t1 --timeout 10s), "-c$connections", "-d${seconds}s", @more, $url));
}

# h2load($requests, $clients, $streams, $url): { total, succeeded, failed, errored, timeout, text }
sub h2load {
    my ($requests, $clients, $streams, $url, @more) = @_;
    my $text = run_command(120, 'h2load', '-n', $requests, '-c', $clients, '-m', $streams, @more, $url);
    my %result = (text => $text);
    @result{qw(total succeeded failed errored timeout)} = $text =~
        /requests: (\d+) total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout/;
    return \%result;
}

1;
