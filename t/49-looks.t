# SPDX-License-Identifier: Apache-2.0
# What it costs to look where connections could go, at those one has and at the other children: little, however many there
# are (W45). A child's CPU time is compared with that of the same work where there is little to look at.

use strict;
use warnings;
use List::Util qw(min);
use Socket qw(IPPROTO_TCP TCP_NODELAY);
use Test::More;
use Time::HiRes qw(clock_gettime usleep);
use Hybrid::Client;
use Hybrid::Server;
use Hybrid::Wait;

plan skip_all => 'only hybrid hands connections over' if Hybrid::Server::mpm() ne 'hybrid';

# Seconds of CPU time a process has used, also in threads that have ended: the kernel's clock of it, as clock_getcpuclockid(3)
# names it.
sub cpu_time { my ($pid) = @_; return clock_gettime(-8 * ($pid + 1) + 2) }

sub server {
    my ($mpm_conf, $conf, %option) = @_;
    my $s = Hybrid::Server->new(level => 'info', mpm_conf => "StartServers 1\nThreadsPerChild 2\nMinSpareThreads 1\n$mpm_conf",
        conf => "KeepAliveTimeout 120\nMaxKeepAliveRequests 0\n" . ($conf // ''), %option);
    $s->make_certificate if $option{modules};
    return $s->start;
}

sub clients {
    my ($s, $count, $port, %how) = @_;
    my @clients = map { Hybrid::Client->new($s->port($port), %how) } 1 .. $count;
    $_->get('/') for @clients;
    return @clients;
}

# Each byte of a slow client's request over TLS is a turn, after which its connection is parked: then a child that ends
# looks whether there is something that can go. Two such children by turns: whatever else the machine does concerns both.
subtest 'a child that ends looks once at what can not move' => sub {
    my $ending = sub {
        my ($count) = @_;
        my $s = server("ServerLimit 2\nMaxRequestWorkers 4\n", Hybrid::Server->tls_vhost, modules => [qw(ssl socache_shmcb)],
            limits => { nofile => 4_000 });
        my @idle = clients($s, $count, 2, tls => 1);
        my @movable = clients($s, 30, 1);
        my ($slow) = clients($s, 1, 2, tls => 1);
        $slow->socket->setsockopt(IPPROTO_TCP, TCP_NODELAY, 1);
        my ($child, @more) = $s->children;
        is scalar(@more), 0, 'one child has all clients';
        my $open = sub { return scalar grep { /^socket:/ } map { readlink($_) // '' } glob "/proc/$child/fd/*" };
        my $before = $open->();
        $s->graceful;
        ok wait_for(sub { $open->() <= $before - 30 }, 20), 'those that can move have gone';
        cmp_ok $open->(), '>', $count, "the $count others have stayed";
        $slow->send('GET /');
        return { server => $s, idle => \@idle, movable => \@movable, slow => $slow, child => $child };
    };
    my ($few, $many) = map { $ending->($_) } 0, 900;
    for (1 .. 10) {
        for my $one ($few, $many) {
            my $before = cpu_time($one->{child});
            for (1 .. 200) { $one->{slow}->send('x'); usleep(300) } # the pace of the load, not a wait for anything
            push @{ $one->{costs} }, (cpu_time($one->{child}) - $before) / 200;
        }
    }
    my ($among_few, $among_many) = map { min(@{ $_->{costs} }) * 1e6 } $few, $many;
    cmp_ok $among_many / $among_few, '<', 1.4,
        sprintf 'a byte costs %.0f us of CPU time among 900 idle connections, and %.0f us among none', $among_many, $among_few;
    for ($few, $many) {
        $_->{slow}->send(" HTTP/1.1\r\nHost: x\r\n\r\n");
        is $_->{slow}->response->{header}{connection}, 'close', 'it was the child that ends';
        is scalar(grep { $_->get('/')->{status} == 200 } @{ $_->{movable} }), 30, 'who has moved is answered';
    }
};

# Those that wait for a worker of a child which has none could go to others, if these can take them: it looks again and
# again. The probe keeps them where they are. A look is at ThreadLimit rows of each child.
subtest 'a child whose workers are all blocked looks at the others at a price' => sub {
    plan skip_all => 'a sanitizer multiplies the price' if $ENV{SANITIZER};
    my $share = sub { # of a core
        my ($thread_limit) = @_;
        my $s = server("ServerLimit 8\nThreadLimit $thread_limit\nMaxRequestWorkers 16\nMaxSpareThreads 64\n", '', probe => 1,
            uncounted => 'handlers sleep until the end');
        my @waiting = clients($s, 100, 1);
        my ($child, @more) = $s->children;
        is scalar(@more), 0, 'one child has all clients';
        my @held = $s->hold(30_000, 2);
        $_->response for $s->hold(500, 14); # seven more children, which have nothing to do then
        ok wait_for(sub { $s->status->{IdleWorkers} >= 13 }, 10), 'all others are idle';
        $_->send("GET / HTTP/1.1\r\nHost: x\r\n\r\n") for @waiting;
        my $share = min(map { # the first look is dearer than all others: the rows' pages are new to the child
            my ($begin, $before) = (monotonic(), cpu_time($child));
            usleep(500_000); # what is measured
            (cpu_time($child) - $before) / (monotonic() - $begin);
        } 1 .. 4);
        is scalar(grep { defined $_->fill(0) } @held, @waiting), 0, 'nobody was answered meanwhile';
        return $share;
    };
    my ($few, $many) = map { 100 * $share->($_) } 64, 20_000;
    cmp_ok $many - $few, '<', 8, sprintf 'it uses %.1f %% of a core for 140000 rows, and %.1f %% for 448', $many, $few;
};

done_testing;
