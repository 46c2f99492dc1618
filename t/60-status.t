# SPDX-License-Identifier: Apache-2.0
# What mod_status shows while each phase is held, against what is known to be so (parity B, K17, X28).

use strict;
use warnings;
use Test::More;
use Hybrid::Client;
use Hybrid::Server;
use Hybrid::Wait;

my $mpm = Hybrid::Server::mpm();
plan skip_all => 'worker has no asynchronous states' if $mpm eq 'worker';

sub server {
    my ($mpm_conf, $conf, @more) = @_;
    return Hybrid::Server->new(probe => 1, mpm_conf => $mpm_conf, conf => $conf // '', @more);
}

# The rows of the table of children: [slot, pid, stopping, connections, accepting, busy, idle, writing, ...]
sub children_table {
    my ($s) = @_;
    my ($table) = $s->get('/server-status')->{body} =~ m{<th rowspan="2">Slot</th>(.*?)</table>}s or die 'no table';
    my @rows;
    for my $row ($table =~ m{<tr>(<td>.*?)</tr>}sg) {
        my @cells = $row =~ m{<td[^>]*>(.*?)</td>}sg;
        push @rows, \@cells if $cells[0] =~ /^\d+$/;
    }
    return @rows;
}

# Asks until the numbers are as expected; shows the difference when they never are.
sub shows {
    my ($s, $expected, $what, $limit) = @_;
    my $status;
    my $wrong = sub { grep { ($status->{$_} // '') ne $expected->{$_} } sort keys %$expected };
    my $good = wait_for(sub { $status = $s->status; !$wrong->() }, $limit // 3);
    ok $good, $what or diag map { "$_: is $status->{$_}, should be $expected->{$_}\n" } $wrong->();
}

my $one_child = "StartServers 1\nThreadsPerChild 12\nMaxRequestWorkers 12\nMinSpareThreads 1\nMaxSpareThreads 12";

subtest 'B09: an idle server' => sub {
    my $s = server("StartServers 2\nThreadsPerChild 5\nMaxRequestWorkers 10\nMinSpareThreads 1\nMaxSpareThreads 10")->start;
    shows $s, { BusyWorkers => 1, IdleWorkers => 9, Processes => 2, Stopping => 0 }, 'one at work: who answers';
    is $s->status->{Scoreboard} =~ tr/W//, 1, 'as W';
    is join(' ', sort { $a <=> $b } map { $_->[1] } children_table($s)), join(' ', $s->children), 'B01: the children by pid';
    my ($rows) = $s->get('/server-status')->{body} =~ m{<th>Srv</th>(.*?)</table>}s;
    my %pids = map { $_ => 1 } $rows =~ m{<b>\d+-\d+</b></td><td>(\d+)</td>}g;
    my %real = map { $_ => 1 } $s->children;
    is_deeply [ grep { !$real{$_} } keys %pids ], [], 'B06: rows of living children only';
};

subtest 'B04, B08, X28: every phase at once' => sub {
    my $no_waitio = Hybrid::Server::no_waitio();
    SKIP: { skip "nobody waits for input: $no_waitio", 1 if $no_waitio }
    my $s = server($one_child, <<'CONF');
EnableSendfile On
KeepAliveTimeout 60
Timeout 30
LimitRequestBody 1000
Listen 127.0.0.1:@PORT2@ probe
Listen 127.0.0.1:@PORT3@ probe
HybridProbePort @PORT2@ waitio
HybridProbePort @PORT3@ hold
CONF
    $s->{uncounted} = 'handlers sleep for a minute, and a module never lets go of two connections';
    $s->file('big', 'x' x 20_000_000);
    $s->start;
    my @idle = map { my $client = Hybrid::Client->new($s->port); $client->get('/'); $client } 1 .. 5;
    my @writing = map {
        my $client = Hybrid::Client->new($s->port, rcvbuf => 65536);
        $client->send("GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
        $client->read_until(qr/\r\n\r\n/);
        $client;
    } 1 .. 2;
    my @waiting = map { my $client = Hybrid::Client->new($s->port(2)); $client->read_until(qr/waiting/); $client } 1 .. ($no_waitio ? 0 : 3);
    my $waitio = sub { return $no_waitio ? () : (ConnsAsyncWaitIO => $_[0]) }; # mod_status shows it since there is such a state
    my @held = map { my $client = Hybrid::Client->new($s->port(3)); $client->read_until(qr/suspended/); $client } 1 .. 2;
    my @closing = map {
        my $client = Hybrid::Client->new($s->port);
        $client->send("POST /read HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 99999\r\n\r\n" . 'x' x 40_000);
        $client->response;
        $client;
    } 1 .. 2;
    my @reading = map { my $client = Hybrid::Client->new($s->port); $client->send("GET / HTTP/1.1\r\nHo"); $client } 1 .. 2;
    my @working = $s->hold(60_000, 3);

    my $busy = 1 + 3; # who answers, handlers
    my $conns = $busy + 2 + 5 + 2 + @waiting + 2 + 2;
    if ($mpm eq 'event') {
        my $status = $s->status;
        isnt "$status->{ConnsTotal} $status->{ConnsAsyncKeepAlive}", "$conns 5", 'difference: event shows what was once (K17)';
        return;
    }
    shows $s, {
        ConnsTotal => $conns, ConnsAsyncKeepAlive => 5, ConnsAsyncWriting => 2, $waitio->(3), ConnsAsyncClosing => 2,
        BusyWorkers => $busy, IdleWorkers => 12 - $busy, Processes => 1, Stopping => 0,
    }, 'each is counted where it is';
    my $board = $s->status->{Scoreboard};
    is $board =~ tr/W//, 4, 'W: three handlers, and who answers';
    is $board =~ tr/R//, 0, 'R: nobody reads, half a request has no worker';
    is $board =~ tr/_//, 12 - $busy, '_: the rest';

    $_->disconnect for @idle[ 0 .. 2 ], @closing, @waiting, $writing[0];
    shows $s, { ConnsTotal => $conns - 6 - @waiting, ConnsAsyncKeepAlive => 2, ConnsAsyncWriting => 1, $waitio->(0),
        ConnsAsyncClosing => 0 }, 'K17: within seconds of their going', 3;
    is $writing[1]->read_bytes(20_000_000) =~ tr/x//, 20_000_000, 'one is written to its end';
    shows $s, { ConnsAsyncKeepAlive => 3, ConnsAsyncWriting => 0 }, 'and is idle then';
    $_->send("st: x\r\n\r\n") for @reading;
    is $_->response->{body}, "hello\n", 'the other half comes' for @reading;
    shows $s, { ConnsAsyncKeepAlive => 5, BusyWorkers => 4 }, 'and they are idle, too';
};

subtest 'B09: a kept-alive connection is shown at the worker that has it now' => sub {
    my $s = server($one_child)->start;
    my @clients = map { my $client = Hybrid::Client->new($s->port); $client->get('/'); $client } 1 .. 4;
    $_->send("GET /sleep?ms=3000 HTTP/1.1\r\nHost: x\r\n\r\n") for @clients;
    shows $s, { BusyWorkers => 5 }, 'four at work, and who answers';
    my %ids;
    $ids{ $_->response->{body} }++ for @clients; # the body says pid and id
    is keys %ids, 4, 'connections in work at the same time have different ids';
};

subtest 'B03: who accepts' => sub {
    my $s = server("StartServers 2\nThreadsPerChild 2\nMaxRequestWorkers 4\nMinSpareThreads 1\nMaxSpareThreads 4")->start;
    is scalar(grep { $_->[4] eq 'yes' } children_table($s)), 2, 'both';
    my @held = $s->hold(4_000, 3);
    my $one_less = wait_for(sub { grep { $_->[4] eq 'no' } children_table($s) }, 3);
    ok $one_less, 'not the one without an idle worker' if $mpm eq 'hybrid'; # event says so only sometimes
    is $_->response->{status}, 200, 'they are answered' for @held;
    ok wait_for(sub { 2 == grep { $_->[4] eq 'yes' } children_table($s) }, 5), 'both again';
};

subtest 'B02, B16: during a graceful restart' => sub {
    my $s = server($one_child)->start;
    my ($old) = $s->children;
    my @held = $s->hold(60_000, 2);
    $s->graceful;
    shows $s, { Stopping => 1, Processes => 2, BusyWorkers => 1, IdleWorkers => 11 }, 'the old child is stopping';
    cmp_ok $s->status->{Scoreboard} =~ tr/G//, '>=', 2, 'G: its two workers'; # mod_status doesn't sum up stopping children
    my ($row) = grep { $_->[1] == $old } children_table($s);
    is $row->[2], 'yes (old gen)', 'its row says so';
    is $row->[3], 2, 'with its two connections' if $mpm eq 'hybrid'; # event's count is old (K17)
    $_->disconnect for @held;
    kill 'KILL', $old;
    shows $s, { Stopping => 0, Processes => 1 }, 'it goes', 10;
    is $s->status->{Scoreboard} =~ tr/G//, 0, 'and leaves no trace';
};

subtest 'B12, B13, B17: what is counted' => sub {
    my $s = server($one_child, 'MaxKeepAliveRequests 0')->start;
    my $client = Hybrid::Client->new($s->port);
    my $total = sub { $s->status->{'Total Accesses'} };
    my $before = $total->();
    $client->get('/') for 1 .. 30;
    # A request is counted after it's answered: the one before these may not be in $before.
    my $asked = 0;
    ok wait_for(sub { my $ours = $total->() - $before - ++$asked; $ours == 30 || $ours == 31 }, 5),
        'each request, this client\'s and the one who asks';
    $before = $total->();
    $s->graceful;
    cmp_ok $total->(), '>', $before, 'kept by a graceful restart';
    $s->restart;
    cmp_ok $total->(), '<', 10, 'begun anew by a restart';
};

# While all workers are blocked nobody takes clients, and the row says "no": also when one has come back at that moment.
subtest 'W18: a child whose workers were blocked takes clients again, and says so' => sub {
    plan skip_all => 'only hybrid makes one child for that' if $mpm ne 'hybrid';
    my $s = server("StartServers 1\nServerLimit 1\nThreadsPerChild 4\nMaxRequestWorkers 4\nMinSpareThreads 1\nMaxSpareThreads 4")->start;
    my @stuck;
    for my $round (1 .. 40) {
        my @held = map { Hybrid::Client->new($s->port) } 1 .. 8; # twice as many as it can have
        my $ms = 5 + $round;
        $_->send("GET /sleep?ms=$ms HTTP/1.1\r\nHost: x\r\n\r\n") for @held;
        $_->response->{status} == 200 or die 'no answer' for @held;
        my $row;
        wait_for(sub { ($row) = children_table($s); $row->[4] eq 'yes' }, 2) or push @stuck, "round $round: $row->[4]";
        $_->disconnect for @held;
    }
    is "@stuck", '', 'in each of forty rounds';
};

done_testing;
