# SPDX-License-Identifier: Apache-2.0
package Hybrid::Count;

# What a server's processes hold, counted: descriptors by what they refer to, connections by state, slots. Hybrid::Server
# asks before a server is stopped: as after its start, or a test fails.
#
#   Hybrid::Count::remember($server);            # after its start, and after a reload with another configuration
#   my @left = Hybrid::Count::surplus($server);  # one line for each thing that is there and should not be
#
# What is explained, hence no surplus:
#   - a connection whose client is still there: its end belongs to a process that has it open (/proc/net/tcp); and what
#     its child holds beside sockets, because that may be its request's (mod_http2 keeps a poller for each session);
#   - outgoing TCP connections: they are their modules' (mod_proxy keeps some);
#   - one /proc/PID/task/TID/stat for each worker: mpm_hybrid's watchdog opens it when it first asks for that worker.

use strict;
use warnings;
use Socket qw(inet_ntop AF_INET AF_INET6);

my %TCP_STATE = ('01' => 'ESTABLISHED', '08' => 'CLOSE_WAIT', '0A' => 'LISTEN');

# Processes of the server by what they are: { pid => 'parent' or 'child' }. Daemons of modules are neither, nor is a child
# that ends: the scoreboard has it.
sub family {
    my ($server, $sockets) = @_;
    my $parent = $server->{pid} or return {};
    my %family = ($parent => 'parent');
    my @children = $server->children;
    $family{$_} = 'child' for grep { serves($_, $sockets) } @children;
    $family{$parent} = 'child' if !@children && serves($parent, $sockets); # one process
    return \%family;
}

# It listens, and polls.
sub serves {
    my ($pid, $sockets) = @_;
    my @targets = targets($pid);
    return if !grep { $_ eq 'anon_inode:[eventpoll]' } @targets;
    return grep { /^socket:\[(\d+)\]$/ && (($sockets->{tcp}{$1} || {})->{state} // '') eq 'LISTEN' } @targets;
}

# What each open descriptor of a process refers to, as the kernel says it.
sub targets {
    my ($pid) = @_;
    return grep { defined } map { readlink } glob "/proc/$pid/fd/*";
}

# What /proc/net says to a process: { tcp => { inode => { local, remote, port, state } }, ends => { "local
# remote" => inode }, unix => { inode => kind } }.
sub sockets {
    my ($pid) = @_;
    my %sockets = (tcp => {}, ends => {}, unix => {});
    for my $family ('tcp', 'tcp6') {
        for (split /\n/, Hybrid::Server::slurp("/proc/$pid/net/$family")) {
            my ($local, $remote, $state, $inode) =
                /^\s*\d+: (\S+) (\S+) (?!06)(\S\S) \S+ \S+ \S+\s+\d+\s+\d+ (\d+)/ or next; # 06: TIME_WAIT, nobody's
            my ($from, $port) = address($local);
            my ($to) = address($remote);
            $sockets{ends}{"$from $to"} = $inode;
            $sockets{tcp}{$inode} = { local => $from, remote => $to, port => $port, state => $TCP_STATE{$state} // $state }
                if $inode;
        }
    }
    for (split /\n/, Hybrid::Server::slurp("/proc/$pid/net/unix")) {
        my (undef, undef, undef, undef, $type, undef, $inode, $path) = split ' ', $_, 8;
        $path =~ s/\d+/N/g if $path; # mod_wsgi numbers the generations
        $sockets{unix}{$inode} = "unix socket of type $type" . ($path ? " at $path" : '') if $inode;
    }
    return \%sockets;
}

# ("127.0.0.1:80", 80) for 0100007F:0050; an IPv4 address mapped to IPv6 is itself.
sub address {
    my ($hex, $port) = split /:/, $_[0];
    my $bytes = join '', map { scalar reverse $_ } unpack '(a4)*', pack 'H*', $hex; # words in this machine's order
    $bytes = substr $bytes, 12 if length $bytes == 16 && substr($bytes, 0, 12) eq "\0" x 10 . "\xff\xff";
    return (inet_ntop(length $bytes == 4 ? AF_INET : AF_INET6, $bytes) . ':' . hex $port, hex $port);
}

# The descriptors of one process, with what sockets() says: ({ kind => how many }, [connections that have no client any more], [those that have]).
sub descriptors {
    my ($pid, $sockets) = @_;
    my %listening = map { $_->{port} => 1 } grep { $_->{state} eq 'LISTEN' } values %{ $sockets->{tcp} };
    my (%kinds, %seen, @lost, @clients);
    for my $target (targets($pid)) {
        if ($target =~ m{^/proc/\d+/task/\d+/stat}) {
            $kinds{'a worker\'s stat'}++;
            next;
        }
        my ($inode) = $target =~ /^socket:\[(\d+)\]$/;
        if (!$inode) {
            $kinds{ $target =~ /^(pipe):/ ? $1 : $target }++;
            next;
        }
        my $tcp = $sockets->{tcp}{$inode};
        if (!$tcp) {
            # A TCP connection that was reset is in no list.
            $kinds{ $sockets->{unix}{$inode} // 'socket that is no longer connected' }++;
        }
        elsif ($tcp->{state} eq 'LISTEN') { $kinds{"listening socket $tcp->{local}"}++ }
        elsif (!$listening{ $tcp->{port} }) { } # outgoing
        elsif ($seen{$inode}++) { push @lost, "another descriptor of the connection to $tcp->{remote}" }
        elsif ($sockets->{ends}{"$tcp->{remote} $tcp->{local}"}) { push @clients, $tcp }
        else { push @lost, "connection to $tcp->{remote}, $tcp->{state}, whose client has gone" }
    }
    return (\%kinds, \@lost, \@clients);
}

# Of the processes that are complete: a child has made its workers.
sub remember {
    my ($server, %option) = @_;
    $server->{counted} = {} if !$option{too};
    my $sockets = sockets($server->{pid} || 'self');
    my $family = family($server, $sockets);
    for my $pid (keys %$family) {
        next if $family->{$pid} eq 'child' && (() = glob "/proc/$pid/task/*") < 2;
        my ($kinds) = descriptors($pid, $sockets);
        my $most = $server->{counted}{ $family->{$pid} } ||= {};
        for (keys %$kinds) {
            $most->{$_} = $kinds->{$_} if $kinds->{$_} > ($most->{$_} // 0);
        }
    }
}

sub surplus {
    my ($server) = @_;
    my @surplus;
    my $sockets = sockets($server->{pid} || 'self');
    my $family = family($server, $sockets);
    my $clients = 0;
    my ($workers) = $server->conf_text =~ /^ThreadsPerChild\s+(\d+)/mi;
    for my $pid (sort { $a <=> $b } keys %$family) {
        my $who = "$family->{$pid} $pid";
        my ($kinds, $lost, $with_clients) = descriptors($pid, $sockets);
        my $expected = $server->{counted}{ $family->{$pid} } || {};
        $clients += @$with_clients;
        push @surplus, map { "$who: $_" } @$lost;
        for (sort keys %$kinds) {
            my $most = $_ eq 'a worker\'s stat' ? $workers // 25 : $expected->{$_} // 0;
            push @surplus, "$who: $kinds->{$_} x $_, not $most" if $kinds->{$_} > $most && (/socket/ || !@$with_clients);
        }
        for (sort keys %$expected) { # closed twice?
            push @surplus, "$who: " . ($kinds->{$_} // 0) . " x $_, not $expected->{$_}"
                if /^anon_inode|^listening/ && ($kinds->{$_} // 0) < $expected->{$_};
        }
    }
    push @surplus, scoreboard($server, scalar(grep { $_ eq 'child' } values %$family), $clients) if !@surplus;
    return @surplus;
}

# What the scoreboard shows beside the one request that asks. Event's counts of connections are as old as its last timeout.
sub scoreboard {
    my ($server, $children, $clients) = @_;
    my $status = eval { $server->status } or return "no server-status: $@";
    my %expected = (Processes => $children, Stopping => 0);
    $expected{ConnsTotal} = $clients + 1 if $server->{mpm} eq 'hybrid';
    %expected = (%expected, BusyWorkers => 1, GracefulWorkers => 0, map { ("ConnsAsync$_" => 0) } qw(WaitIO Writing Closing))
        if $server->{mpm} eq 'hybrid' && !$clients;
    my @wrong = map { "scoreboard: $_ is $status->{$_}, not $expected{$_}" }
        grep { defined $status->{$_} && $status->{$_} != $expected{$_} } sort keys %expected;
    push @wrong, ends($server, $clients) if $server->{mpm} eq 'hybrid';
    return @wrong;
}

# What was opened has ended, and for a reason that the module knows; but the clients that are there and who asks.
sub ends {
    my ($server, $clients) = @_;
    my $ends = eval { $server->ends } or return "no hybrid-status: $@";
    my $open = $ends->{ClientsOpened} - $ends->{ClientsEnded};
    my @wrong;
    push @wrong, "hybrid-status: $open clients are open, not " . ($clients + 1) if $open != $clients + 1;
    push @wrong, "hybrid-status: $ends->{EndedUnknown} ended for no known reason" if $ends->{EndedUnknown};
    return @wrong;
}

1;
